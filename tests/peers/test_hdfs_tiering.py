"""Studies move into a real HDFS, come back near, and are read there while the cluster does not answer."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.archive.sdfo import Sdfo
from broker.archive.tiers.base import TEMPORARY
from broker.config.profile import Profile
from broker.imaging.archiving.drop import Outcome
from broker.imaging.store import studies
from broker.imaging.store.studies import Instance
from broker.model.errors import Unavailable
from tests.helpers import stores
from tests.helpers.archive import Centre
from tests.helpers.containers import in_hdfs
from tests.helpers.hdfs.cluster import Folder

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.timeout(600)]

YEAR = 365 * 86400.0
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


def test_a_clock_set_back_loses_nothing_and_holds_nothing_up(tmp_path: Path, profile: Profile, hdfs: Folder) -> None:
    """Our clock was a year ahead when studies were packed: then the grace time begins anew, and what is young in HDFS stays."""
    url, uid = stores.empty(tmp_path / "broker.db"), STUDIES[0]
    with contextlib.closing(Centre(tmp_path, profile, url, grace_seconds=100.0)) as centre:
        centre.sdfo.store = in_hdfs(hdfs)
        study_id = centre.receive(images(uid), study_uid=uid)
        centre.now += YEAR
        assert centre.packer.migrate(study_id) is Outcome.WAITING
        half = centre.sdfo.store.create(f"{TEMPORARY}/half", 5)     # of another broker, which writes it now
        half.write(b"12345")
        half.close()
        assert centre.sweeper.sweep() == 0
        centre.now -= YEAR
        assert centre.migrator.run_due(centre.now) == 0
        assert [file.sop_uid for file in online(centre, uid)] == list(images(uid)), "the grace time begins anew"
        centre.now += 101
        centre.migrator.run_due(centre.now)
        assert online(centre, uid) == []
        assert {one: centre.read(one, uid) for one in images(uid)} == images(uid)
        assert [file.name for file in centre.sdfo.store.files(TEMPORARY)] == [f"{TEMPORARY}/half"]
        centre.sdfo.store.end()


def online(centre: Centre, study_uid: str) -> list[Instance]:
    with centre.database.read() as unit:
        return studies.instances(unit, centre.study(study_uid).id)
