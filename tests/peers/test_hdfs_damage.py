"""Damage in a real HDFS: what verification finds, what HDFS mends by itself, and what is mended from copies."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.hdfs import HdfsStore
from broker.config.profile import Profile
from broker.config.settings import HdfsSection
from broker.coord.local import LocalCoord
from broker.db import Database
from broker.imaging.archiving.verify import Verdict
from broker.model.errors import Unavailable
from tests.helpers.damage import Archive
from tests.helpers.fetch import build
from tests.helpers.hdfs.cluster import Folder

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.timeout(600)]


@pytest.fixture
def archive(database: Database, tmp_path: Path, profile: Profile, hdfs: Folder) -> Iterator[Archive]:
    """A centre whose archive is in the cluster."""
    centre = build(database, tmp_path, profile)
    store = HdfsStore(hdfs.url, HdfsSection(replication=2, block_size=1 << 20))
    centre.sdfo = Sdfo(centre.online, store)
    assert isinstance(centre.coord, LocalCoord)
    with contextlib.closing(centre.coord):
        yield Archive(centre, tmp_path)
    store.end()


def place(hdfs: Folder, archive: Archive) -> str:
    return f"{hdfs.path}/{archive.path()}"


def test_a_changed_container_is_found_quarantined_and_mended(archive: Archive, hdfs: Folder) -> None:
    refs = archive.pack()
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE]
    path, bad = archive.path(), refs[1].sop_uid
    location = archive.centre.sdfo.locate(path, bad)
    assert location is not None
    data = bytearray(hdfs.cluster.read(place(hdfs, archive)))
    data[location.offset + 100] ^= 1
    hdfs.cluster.delete(place(hdfs, archive))
    hdfs.cluster.write(place(hdfs, archive), bytes(data))
    assert [one.images for one in archive.verify()] == [[bad]]
    assert archive.given(refs) == {refs[0].sop_uid, refs[2].sop_uid}
    archive.receive(refs[1:2])
    assert archive.mender.mend(archive.study().id)
    assert archive.given(refs) == {ref.sop_uid for ref in refs}
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE]
    assert archive.path() != path
    assert hdfs.cluster.names(f"{hdfs.path}/{path[:2]}") == [archive.path()[3:]]


def test_one_damaged_replica_is_no_damage(archive: Archive, hdfs: Folder) -> None:
    refs = archive.pack()
    hdfs.cluster.corrupt(place(hdfs, archive), 1)
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE]
    assert archive.given(refs) == {ref.sop_uid for ref in refs}
    hdfs.cluster.delete(place(hdfs, archive))


def test_every_replica_damaged_is_damage_in_the_end(archive: Archive, hdfs: Folder) -> None:
    refs = archive.pack()
    hdfs.cluster.corrupt(place(hdfs, archive), 2)
    for _ in range(3):
        assert [one.verdict for one in archive.verify()] == [Verdict.UNREAD]
    assert archive.damage() == []
    one, = archive.verify()
    assert one.verdict is Verdict.DAMAGED
    assert "its store did not give it in 4 attempts" in one.reason
    assert one.sop_uids == ("",), "so small a container is lost with its index"
    assert set(archive.centre.fetch.retrieve(refs).missing.values()) == {"its stored copy is damaged"}
    with pytest.raises(Damaged, match="must be brought back from a copy of the archive"):
        archive.mender.mend(archive.study().id)
    archive.receive(refs)
    assert archive.given(refs) == {ref.sop_uid for ref in refs}
    hdfs.cluster.delete(place(hdfs, archive))


def test_a_namenode_that_is_away_is_no_damage(archive: Archive, hdfs: Folder) -> None:
    archive.pack()
    hdfs.cluster.namenode.freeze()
    try:
        with pytest.raises(Unavailable, match="archive is not available"):
            archive.verify()
    finally:
        hdfs.cluster.namenode.thaw()
    assert archive.damage() == []
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE]
