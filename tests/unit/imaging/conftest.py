"""What the tests of imaging share."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from tests.helpers import stores
from tests.helpers.archive import Centre as Tiers
from tests.helpers.fetch import Centre, build


@pytest.fixture
def centre(database: Database, tmp_path: Path, profile: Profile) -> Iterator[Centre]:
    """Both tiers, an index and local coordination; a module with other needs has a fixture of this name of its own."""
    built = build(database, tmp_path, profile)
    assert isinstance(built.coord, LocalCoord)
    with contextlib.closing(built.coord):
        yield built


@pytest.fixture
def make(tmp_path: Path, profile: Profile) -> Iterator[Callable[..., Tiers]]:
    """Return what makes both tiers and their rows, on whatever database is tested, with these keys of `retention`."""
    url = stores.empty(tmp_path / "broker.db")
    with contextlib.ExitStack() as stack:
        def made(**retention: Any) -> Tiers:
            return stack.enter_context(contextlib.closing(Tiers(tmp_path, profile, url, **retention)))
        yield made
