"""The short pass: a few kills with a fixed seed. `make chaos` does a hundred."""

from pathlib import Path

import pytest

from tests.chaos.run import run

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.peer("orthanc"), pytest.mark.timeout(600)]


def test_eight_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    told: list[str] = []
    report = run(tmp_path, tmp_path / "out", kills=8, seed=8, tell=told.append)
    assert report.wrong == 0, [(check.what, check.wrong[:5]) for check in report.checks if check.wrong]
    looked_at = {check.what: check.looked_at for check in report.checks}
    for what in (
            "every acknowledged document is registered exactly once", "every acknowledged patient is known once",
            "every acknowledged object is given by RAD-69 as it was sent", "every container is whole and as its row says",
            "every image of hospital B is given by RAD-69 as its PACS has it"):
        assert looked_at[what] > 0, told
