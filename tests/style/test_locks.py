"""The locks hold what pip needs, also when newer releases of a package come out."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = (Path(__file__).parents[2] / "requirements" / "dev.lock").read_text("utf-8")


def test_what_is_asked_for_with_an_extra_is_pinned_with_it() -> None:
    pinned = set(re.findall(r"^([a-z0-9\[\],._-]+)==", LOCK, re.MULTILINE))
    names = {name.partition("[")[0] for name in pinned}
    asked = {
        f"{canonicalize_name(wanted.name)}[{','.join(sorted(wanted.extras))}]"
        for found in importlib.metadata.distributions() if canonicalize_name(found.name) in names
        for wanted in map(Requirement, found.requires or ())
        if wanted.extras and (wanted.marker is None or wanted.marker.evaluate({"extra": ""}))}
    assert "coverage[toml]" in asked
    assert asked - pinned == set()
