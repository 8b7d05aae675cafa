"""Studies move into a real HDFS, come back near, and are read there while the cluster does not answer."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.archive.sdfo import Sdfo
from broker.config.profile import Profile
from broker.model.errors import Unavailable
from tests.helpers import stores
from tests.helpers.archive import Centre
from tests.helpers.containers import in_hdfs
from tests.helpers.hdfs.cluster import Folder

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.timeout(600)]

STUDIES = [f"1.2.840.99.{number}" for number in range(1, 7)]


@pytest.fixture
def centre(tmp_path: Path, profile: Profile, hdfs: Folder) -> Iterator[Centre]:
    """A centre whose archive is in the cluster, with studies of five images each."""
    url = stores.empty(tmp_path / "broker.db")
    with contextlib.closing(Centre(tmp_path, profile, url, parallel=3)) as made:
        made.sdfo.store = in_hdfs(hdfs)
        for uid in STUDIES:
            made.receive(images(uid), study_uid=uid)
        yield made
        made.sdfo.store.end()


def images(study_uid: str) -> dict[str, bytes]:
    return {f"{study_uid}.1.{number}": f"{study_uid} {number}".encode() * 1000 for number in range(5)}


def everything(centre: Centre) -> dict[str, bytes]:
    return {uid: centre.read(uid, study_uid) for study_uid in STUDIES for uid in images(study_uid)}


def test_a_recalled_study_is_read_while_the_namenode_is_frozen(centre: Centre, hdfs: Folder) -> None:
    report = centre.migrator.run_all(100, lambda *_: None)
    assert (report.packed, report.failed, report.objects_used) == (len(STUDIES), [], 2 * len(STUDIES))
    assert [path for path in centre.sdfo.online.folder.rglob("*") if path.is_file()] == []
    assert sum(len(list(centre.sdfo.store.files(folder))) for folder in centre.sdfo.store.folders()) == len(STUDIES)
    assert everything(centre) == {uid: data for study_uid in STUDIES for uid, data in images(study_uid).items()}
    near, far = STUDIES[:2]
    assert centre.migrator.recaller.recall(centre.study(near).id, 7) > 25_000
    centre.sdfo = Sdfo(centre.sdfo.online, in_hdfs(hdfs))       # that remembers no index, and has no container open
    try:
        hdfs.cluster.namenode.freeze()
        assert {uid: centre.read(uid, near) for uid in images(near)} == images(near)
        with pytest.raises((Unavailable, OSError)):
            centre.read(next(iter(images(far))), far)
    finally:
        hdfs.cluster.mend()
