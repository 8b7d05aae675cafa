"""A short pass of the corpus: one real file of forty, and some in disorder, through every door."""

from pathlib import Path

import pytest

from tests.corpus.files import PACKAGES, made_by_hand, specimens
from tests.corpus.run import EQUAL, SAME, by_cstore, by_origin
from tests.corpus.table import lost, markdown

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.timeout(300)]


def test_the_packages_hold_what_the_corpus_is_made_of() -> None:
    files = list(specimens())
    assert {one.package for one in files} == set(PACKAGES)
    assert len([one for one in files if not one.why]) > 250


def test_a_short_pass_loses_nothing_and_explains_every_refusal(tmp_path: Path) -> None:
    real = list(specimens())[::40]
    files = [*real, *list(made_by_hand(tmp_path / "made"))[::9]]
    (tmp_path / "cstore").mkdir()
    (tmp_path / "origin").mkdir()
    said: list[str] = []
    sent = by_cstore(tmp_path / "cstore", files, said.append)
    kept = by_origin(tmp_path / "origin", real, said.append)
    assert lost((sent, kept)) == [], said
    assert [(fate.online, fate.archive) for fate in sent.stored] == [(EQUAL, EQUAL)] * len(sent.stored)
    assert {fate.online for fate in kept.stored if not fate.unpublished} <= {EQUAL, SAME}
    for way, some in ((sent, files), (kept, real)):
        assert len(way.fates) == len(some)
        assert len(way.stored) > len(some) // 2
    assert markdown((sent, kept)).count("\n| ") > 4
