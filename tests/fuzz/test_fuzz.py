"""A short pass of every fuzz target with a fixed seed, and proof that the harness sees what it is there to see."""

import random
import tomllib
from pathlib import Path

import pytest
import sqlalchemy as sa

from broker.db import Database, sql
from broker.repository import store
from tests.fuzz import harness, watch
from tests.fuzz.columns import misfits
from tests.fuzz.harness import GOLDEN, Target
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets_bad import BAD


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_short_pass_finds_nothing(target: Target, tmp_path: Path) -> None:
    report = watch.run(target, 1.0, 1, tmp_path, inputs=target.short)
    told = [f"{finding.what}\n{finding.file.with_suffix('.txt').read_text('utf-8')}" for finding in report.findings]
    assert not told, "\n\n".join(told)
    assert report.values >= len(harness.seeds(target))
    assert report.kinds > 1


@pytest.mark.parametrize(("name", "what"), [
    ("loops", "TooSlow tests"),
    ("loops_in_c", "hang"),
    ("hoards", "MemoryError tests"),
    ("dies", "the worker ended with 3"),
    ("crashes", "the worker ended with -11"),
    ("complains", "it logged an error: {'event': 'bug'}"),
    ("refuses", "a golden input is refused: X: no"),
    ("raises", "ValueError tests"),
    ("is_slow", "slow: 517 bytes"),
])
def test_what_is_wrong_is_found(name: str, what: str, tmp_path: Path) -> None:
    target = next(target for target in BAD if target.name == name)
    report = watch.run(target, 1.0, 1, tmp_path, inputs=3)
    assert what in [finding.what for finding in report.findings]
    file = next(finding.file for finding in report.findings if finding.what == what)
    assert file.read_bytes() in harness.seeds(target).values()
    assert file.parent == tmp_path / name
    assert what in file.with_suffix(".txt").read_text("utf-8")


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    target = next(target for target in BAD if target.name == "does_not_start")
    [finding] = watch.run(target, 1.0, 1, tmp_path, inputs=3).findings
    assert finding.what == "the worker ended with 1"
    assert "OSError: no room" in finding.file.with_suffix(".txt").read_text("utf-8")


def test_the_same_seed_gives_the_same_inputs() -> None:
    target = next(target for target in TARGETS if target.name == "hl7v2")
    corpus = list(harness.seeds(target).values())

    def made(seed: int) -> list[bytes]:
        mutator = Mutator(random.Random(seed), target.words, target.longest)
        return [mutator.mutate(corpus) for _ in range(50)]

    assert made(1) == made(1) != made(2)
    assert max(map(len, made(1))) <= target.longest


def test_every_golden_file_has_an_origin() -> None:
    for folder in GOLDEN.iterdir():
        told = tomllib.loads((folder / "origin.toml").read_text("utf-8"))
        assert set(told) == {file.name for file in folder.iterdir()} - {"origin.toml"}
        assert all(entry["how"] for entry in told.values())
    assert {folder.name for folder in GOLDEN.iterdir()} == {name for target in TARGETS for name in target.golden}


@pytest.mark.parametrize(("change", "column"), [
    ({}, []),
    ({"sha1": "x" * 41}, ["document.sha1"]),
    ({"path": "a\0b"}, ["document.path"]),
    ({"size": (1 << 63) - 1}, []),
])
def test_what_does_not_fit_its_column_is_found(database: Database, change: dict[str, object], column: list[str]) -> None:
    row = {"unique_id": "1.2", "sha1": "x" * 40, "size": 1, "mime_type": "a/b", "path": "p", "state": "stored", "at": 1.0}
    with database.write() as unit:
        sql(unit).execute(sa.insert(store.document).values(**row | change))
    assert misfits(database) == column
