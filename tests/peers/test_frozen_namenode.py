"""A NameNode that answers nobody: archived pictures are named as not to be had, everything else goes on as ever."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from broker.archive.sdfo import Sdfo
from broker.config.profile import Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from tests.helpers.containers import in_hdfs
from tests.helpers.fetch import OURS, Centre, build, octets, read, refs_of
from tests.helpers.hdfs.cluster import Folder
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.timeout(600)]


@pytest.fixture
def centre(database: Database, tmp_path: Path, profile: Profile, hdfs: Folder) -> Iterator[Centre]:
    built = build(database, tmp_path, profile)
    yield replace(built, sdfo=in_both(built, hdfs))
    assert isinstance(built.coord, LocalCoord)
    built.coord.close()


def in_both(built: Centre, hdfs: Folder) -> Sdfo:
    """Return both tiers, with nothing remembered of the archive."""
    return Sdfo(built.online, in_hdfs(hdfs, metadata_seconds=3, read_seconds=4))


def test_online_pictures_go_on_and_archived_ones_are_named(centre: Centre, hdfs: Folder) -> None:
    near, far = refs_of("1.2.1", 3, OURS), refs_of("1.2.2", 3, OURS)
    centre.land("a", near)
    centre.land("a", far)
    centre.pack("1.2.2")
    cold = replace(centre, sdfo=in_both(centre, hdfs))
    warm = centre.fetch.retrieve(far)       # its reader and index are remembered
    hdfs.cluster.namenode.freeze()
    try:
        with ThreadPoolExecutor() as pool:
            both = pool.submit(cold.fetch.retrieve, [*near, *far])
            for _ in range(20):
                found = cold.fetch.retrieve(near)
                assert [read(found.found[ref].source) for ref in near] == [octets(ref.sop_uid) for ref in near]
            answer = both.result()
        assert (set(answer.found), set(answer.missing)) == (set(near), set(far))
        assert all("its store cannot give it" in reason for reason in answer.missing.values())
        assert [read(answer.found[ref].source) for ref in near] == [octets(ref.sop_uid) for ref in near]
    finally:
        hdfs.cluster.mend()
    eventually(lambda: cold.sdfo.store.health() == "")
    assert [read(warm.found[ref].source) for ref in far] == [octets(ref.sop_uid) for ref in far]
    again = cold.fetch.retrieve(far)
    assert [read(again.found[ref].source) for ref in far] == [octets(ref.sop_uid) for ref in far]
