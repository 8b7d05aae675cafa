"""Files that are excused from a rule of the linter are excused as long as they need it, and never more of them than before."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RULES = ("ANN401", "FBT001", "FBT002", "SLF001")


def excused() -> set[tuple[str, str]]:
    """Return (file, rule) of every single file in the linter's table of excuses."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    return {(file, rule) for file, rules in lint["per-file-ignores"].items() for rule in rules if file.endswith(".py")}


def broken() -> set[tuple[str, str]]:
    """Return (file, rule) of every file that breaks one of `RULES`, excused or not."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ruff")), "check", ".", "--config", "lint.per-file-ignores = {}", "--select",
         ",".join(RULES), "--output-format", "json"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {(str(Path(hit["filename"]).relative_to(ROOT)), hit["code"]) for hit in json.loads(done.stdout)}


@pytest.mark.outside
def test_no_file_is_excused_without_need() -> None:
    assert {rule for _, rule in excused()} <= set(RULES)
    assert excused() - broken() == set()


def test_the_excuses_become_fewer() -> None:
    """Lower the number when a file is mended; it never rises."""
    assert len(excused()) <= 44
