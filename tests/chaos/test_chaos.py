"""The short pass: a few kills with a fixed seed. `make chaos` does a hundred."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.checks import Report
from tests.chaos.nodes import FOLDER
from tests.chaos.run import run
from tests.helpers.hdfs.cluster import Cluster

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.peer("orthanc"), pytest.mark.timeout(600)]

LOOKED_AT = (
    "one retrieve more than the slots hold is told to come again, while all wait for a PACS",
    "every acknowledged document is registered exactly once", "every acknowledged patient is known once",
    "every acknowledged object is given by RAD-69 as it was sent", "every container is whole and as its row says",
    "every image of hospital B is given by RAD-69 as its PACS has it", "every conflict row has its file",
    "every acknowledged object under a taken UID is kept aside", "every file of the documents has its row",
    "every file of the archive has its row", "every file of the online tier has its row", "no fetch is stuck")
HAPPENED = (
    "kills in mid-fetch", "kills in mid-receive", "kills in mid-submission", "fetches", "images in containers",
    "entries read under load", "manifests read under load", "submission sets read under load")


def test_eight_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    told: list[str] = []
    _nothing_is_lost(run(tmp_path, tmp_path / "out", kills=8, seed=8, tell=told.append), told, HAPPENED)


@pytest.mark.peer("hdfs")
def test_servers_of_the_archive_that_are_killed_lose_nothing_either(tmp_path: Path, hdfs_cluster: Cluster) -> None:
    told: list[str] = []
    try:
        report = run(tmp_path, tmp_path / "out", kills=4, seed=4, tell=told.append, cluster=hdfs_cluster)
    finally:
        hdfs_cluster.mend()
        hdfs_cluster.delete(FOLDER)
    _nothing_is_lost(report, told, ("kills of datanode", "kills of namenode", "images in containers"))


def _nothing_is_lost(report: Report, told: list[str], happened: Sequence[str]) -> None:
    assert report.wrong == 0, [(check.what, check.wrong[:5]) for check in report.checks if check.wrong]
    looked_at = {check.what: check.looked_at for check in report.checks}
    for what in LOOKED_AT:
        assert looked_at[what] > 0, what
    counted = {what: times for what, times, _ in report.counts}
    for what in happened:
        assert counted.get(what, 0) > 0, (what, told)
