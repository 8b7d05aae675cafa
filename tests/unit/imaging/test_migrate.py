import contextlib
import errno
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broker.archive.formats import sequencefile
from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Packed, Sdfo
from broker.config.profile import Profile
from broker.db import Database, sql
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.lease import Lease
from broker.imaging.store import containers, recording, studies
from broker.imaging.store.tables import conflict, fetch_job
from broker.model.errors import TooLarge, Unavailable
from broker.wire import tags
from tests.helpers import stores
from tests.helpers.archive import STUDY, Centre, archive_of
from tests.helpers.damage import spoil

pytestmark = pytest.mark.slow

IMAGES = {f"{STUDY}.1.{n}": f"image {n}".encode() * 50 for n in range(3)}
LATE = {f"{STUDY}.1.{n}": f"late {n}".encode() * 50 for n in range(10, 12)}
DAY = 86400.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stores.sqlite(tmp_path / "broker.db").close()
    return tmp_path


@pytest.fixture
def make(folder: Path, profile: Profile) -> Iterator[Callable[..., Centre]]:
    with contextlib.ExitStack() as stack:
        def made(**retention: Any) -> Centre:
            return stack.enter_context(contextlib.closing(Centre(folder, profile, **retention)))
        yield made


@pytest.fixture
def centre(make: Callable[..., Centre]) -> Centre:
    return make()


def due(centre: Centre, at: float | None = None, limit: int = 1000) -> list[tuple[int, str]]:
    """Return (id, Study Instance UID) of what is due."""
    return [(one.id, one.study_uid) for one in centre.migrator.due(centre.now if at is None else at, limit)]


def damage(centre: Centre, path: str) -> None:
    file = archive_of(centre.sdfo) / path
    data = bytearray(file.read_bytes())
    data[data.find(b"image")] ^= 1
    file.write_bytes(data)


def assert_archived(centre: Centre, images: Mapping[str, bytes], *, aside: int = 0) -> None:
    study, (online, archive) = centre.study(), centre.files()
    assert (study.tier, study.state, study.objects, study.bytes) == ("archive", "complete", 0, 0)
    assert len([path for path in online if not path.startswith(".conflict/")]) == 0
    assert len(online) == aside
    with centre.database.read() as unit:
        container = containers.current(unit, study.id)
        assert containers.retired(unit, study.id) == []
        assert studies.instances(unit, study.id) == []
    assert container is not None
    assert archive == [container.path]
    assert container.images == len(images)
    assert {uid: centre.read(uid) for uid in images} == images


def test_a_study_moves_into_one_container(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    told: list[tuple[int, int]] = []
    assert due(centre) == [(study_id, STUDY)]
    assert centre.packer.migrate(study_id, lambda done, total: told.append((done, total))) is Outcome.ARCHIVED
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert_archived(centre, IMAGES)
    assert due(centre) == []
    manifest = centre.sdfo.manifest(centre.files()[1][0])
    assert (manifest["study"], manifest["hospital"], manifest["images"]) == (STUDY, "a", 3)
    assert manifest["patient"] == {"domain": "2.999.2.1", "value": "A-1"}
    assert manifest["facts"]["StudyDate"] == "20150301"
    assert manifest["series"][0]["modality"] == "CT"
    assert centre.packer.migrate(study_id) is Outcome.NOTHING


def test_late_objects_make_a_new_version_with_everything(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    centre.packer.migrate(study_id)
    first = centre.files()[1]
    centre.receive(LATE)
    assert due(centre) == [(study_id, STUDY)]
    assert centre.migrator.run_due(centre.now) == 1
    assert_archived(centre, IMAGES | LATE)
    assert centre.files()[1] != first


def test_what_comes_again_is_dropped_without_a_new_version(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    centre.packer.migrate(study_id)
    first = centre.files()[1]
    centre.receive(IMAGES)
    assert centre.study().objects == 3
    assert centre.packer.migrate(study_id) is Outcome.ARCHIVED
    assert_archived(centre, IMAGES)
    assert centre.files()[1] == first


def test_other_bytes_under_an_archived_uid_become_a_conflict(centre: Centre) -> None:
    uid = next(iter(IMAGES))
    centre.packer.migrate(centre.receive(IMAGES))
    centre.receive({uid: b"other bytes"} | LATE)
    assert centre.migrator.run_due(centre.now) == 1
    assert_archived(centre, IMAGES | LATE, aside=1)
    with centre.database.read() as unit:
        row = sql(unit).execute(sa.select(conflict)).one()
    assert (row.sop_uid, row.hospital) == (uid, "a")
    assert centre.sdfo.online.path(row.path).read_bytes() == b"other bytes"


@pytest.mark.parametrize("state", ["receiving", "origin"])
def test_only_complete_studies_of_our_own_are_packed(centre: Centre, state: str) -> None:
    study_id = centre.receive(IMAGES)
    with centre.database.write() as unit:
        sql(unit).execute(sa.text("update study set " + ("state='receiving'" if state == "receiving" else "tier='origin'")))
    assert due(centre) == []
    assert centre.packer.migrate(study_id) is Outcome.NOTHING
    assert centre.packer.migrate(study_id + 1) is Outcome.NOTHING
    assert centre.files()[1] == []


def ago(days: float) -> str:
    return time.strftime("%Y%m%d", time.gmtime(time.time() - days * DAY))


RETENTION: dict[str, Any] = {"online_days": 100, "per_hospital": {"b": 10}, "per_modality": {"MG": 1000, "US": 5}}


@pytest.mark.parametrize(("study", "expected"), [
    ({"date": ago(99)}, False),
    ({"date": ago(101)}, True),
    ({"date": ago(11), "hospital": "b"}, True),
    ({"date": ago(9), "hospital": "b"}, False),
    ({"date": ago(999), "modality": "MG"}, False),
    ({"date": ago(1001), "modality": "MG"}, True),
    ({"date": ago(6), "modality": "US"}, True),
    ({"date": ago(4), "modality": "US"}, False),
    ({"date": ago(999), "modality": "MG", "hospital": "b"}, False),     # the longest rule that fits
    ({"date": ago(9), "modality": "US", "hospital": "b"}, False),
    ({"date": ""}, False),                                              # no study date: the last object's
])
def test_retention_rules(make: Callable[..., Centre], study: dict[str, str], expected: bool) -> None:
    centre = make(**RETENTION)
    study_id = centre.receive(IMAGES, **study)
    assert due(centre) == ([(study_id, STUDY)] if expected else [])
    assert due(centre, centre.now + 1001 * DAY) == [(study_id, STUDY)]


def test_the_oldest_are_due_first(centre: Centre) -> None:
    ids = [centre.receive({f"{uid}.1": b"x"}, study_uid=uid, date=date)
           for uid, date in (("1.2.1", "20150101"), ("1.2.2", "20130101"), ("1.2.3", "20140101"))]
    assert due(centre, limit=2) == [(ids[1], "1.2.2"), (ids[2], "1.2.3")]


def test_online_copies_stay_for_the_grace_time(make: Callable[..., Centre]) -> None:
    centre = make(grace_seconds=100.0)
    study_id = centre.receive(IMAGES)
    assert centre.packer.migrate(study_id) is Outcome.WAITING
    assert centre.study().state == "dropping"
    assert len(centre.files()[0]) == 3
    assert centre.packer.migrate(study_id) is Outcome.WAITING
    centre.now += 101
    assert centre.migrator.run_due(centre.now) == 0     # finished, not begun
    assert_archived(centre, IMAGES)


def test_objects_that_come_while_packing_are_packed_later(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)

    def meanwhile(done: int, total: int) -> None:
        if done == total == 3:
            centre.receive(LATE)

    assert centre.packer.migrate(study_id, meanwhile) is Outcome.CHANGED
    assert centre.files()[1] == []
    assert {uid: centre.read(uid) for uid in IMAGES | LATE} == IMAGES | LATE
    assert centre.packer.migrate(study_id) is Outcome.ARCHIVED
    assert_archived(centre, IMAGES | LATE)


def test_objects_that_come_in_the_grace_time_are_packed_later(make: Callable[..., Centre]) -> None:
    centre = make(grace_seconds=100.0)
    study_id = centre.receive(IMAGES)
    centre.packer.migrate(study_id)
    centre.receive(LATE)
    assert centre.packer.migrate(study_id) is Outcome.WAITING
    centre.now += 101
    centre.migrator.run_due(centre.now)
    assert_archived(centre, IMAGES | LATE)


def test_one_migration_of_a_study_at_a_time(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    with centre.coord.lock(f"migrate:{study_id}", 1.0) as held:
        assert held
        assert centre.packer.migrate(study_id) is Outcome.BUSY
    assert centre.packer.migrate(study_id) is Outcome.ARCHIVED


@pytest.mark.parametrize("moment", [1, 3])
def test_two_at_once_lose_nothing_though_the_lock_failed(centre: Centre, moment: int) -> None:
    study_id = centre.receive(IMAGES)

    def overtake(done: int, total: int) -> None:
        if done == moment:
            with centre.database.write() as unit:
                study = containers.subject(unit, study_id)
            assert study is not None
            assert centre.packer._pack(study, Lease(60.0), None) is Outcome.ARCHIVED

    try:
        assert centre.packer.migrate(study_id, overtake) is Outcome.CHANGED
    except Unavailable:
        assert moment == 1      # the files it was about to read had gone
    assert_archived(centre, IMAGES)


def test_a_container_that_does_not_read_back_counts_for_nothing(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    study_id = centre.receive(IMAGES)
    pack = Sdfo.pack

    def bad(self: Sdfo, *args: Any) -> Packed:
        packed = pack(self, *args)
        damage(centre, packed.path)
        return packed

    with monkeypatch.context() as patch:
        patch.setattr(Sdfo, "pack", bad)
        with pytest.raises(Damaged):
            centre.packer.migrate(study_id)
    assert centre.files()[1] == []
    assert (centre.study().tier, centre.study().state) == ("online", "complete")
    assert {uid: centre.read(uid) for uid in IMAGES} == IMAGES
    assert centre.packer.migrate(study_id) is Outcome.ARCHIVED


def test_a_container_that_rots_in_the_grace_time_is_made_again(make: Callable[..., Centre]) -> None:
    centre = make(grace_seconds=100.0)
    study_id = centre.receive(IMAGES)
    centre.packer.migrate(study_id)
    damage(centre, centre.files()[1][0])
    centre.now += 101
    with pytest.raises(Damaged):
        centre.packer.migrate(study_id)
    assert (centre.study().tier, centre.study().state, centre.files()[1]) == ("online", "complete", [])
    assert {uid: centre.read(uid) for uid in IMAGES} == IMAGES
    assert centre.packer.migrate(study_id) is Outcome.WAITING
    centre.now += 101
    assert centre.packer.migrate(study_id) is Outcome.ARCHIVED
    assert_archived(centre, IMAGES)


def test_a_new_version_that_rots_gives_way_to_the_old_one(make: Callable[..., Centre]) -> None:
    centre = make(grace_seconds=100.0)
    study_id = centre.receive(IMAGES)
    centre.packer.migrate(study_id)
    centre.now += 101
    centre.packer.migrate(study_id)
    old = centre.files()[1]
    centre.receive(LATE)
    assert centre.packer.migrate(study_id) is Outcome.WAITING
    new = next(path for path in centre.files()[1] if path not in old)
    (archive_of(centre.sdfo) / new).unlink()
    centre.now += 101
    with pytest.raises(Damaged):
        centre.packer.migrate(study_id)
    assert centre.files()[1] == old
    assert {uid: centre.read(uid) for uid in IMAGES | LATE} == IMAGES | LATE
    for _ in range(2):
        centre.packer.migrate(study_id)
        centre.now += 101
    assert_archived(centre, IMAGES | LATE)


@pytest.mark.parametrize("harm", ["a picture of the old container", "the old container", "a file online"])
def test_a_damaged_container_stays_while_it_holds_the_only_good_picture(make: Callable[..., Centre], harm: str) -> None:
    centre = make(grace_seconds=100.0)
    study_id = centre.receive(IMAGES)
    centre.packer.migrate(study_id)
    centre.now += 101
    centre.packer.migrate(study_id)
    old, = centre.files()[1]
    centre.receive(LATE)
    assert centre.packer.migrate(study_id) is Outcome.WAITING
    new, = set(centre.files()[1]) - {old}
    held, late = next(iter(IMAGES)), next(iter(LATE))
    if harm == "a file online":
        spoil(centre.sdfo, new, held)
        (centre.sdfo.online.folder / centre.files()[0][0]).unlink()
    else:
        spoil(centre.sdfo, new, late)
        centre.sdfo.index(old)
        if harm == "the old container":
            (archive_of(centre.sdfo) / old).unlink()
        else:
            spoil(centre.sdfo, old, held)
    good = held if harm != "a file online" else late
    centre.now += 101
    with pytest.raises(Damaged):
        centre.packer.migrate(study_id)
    place = centre.sdfo.locate(new, good)
    assert place is not None
    assert b"".join(centre.sdfo.open(place).chunks()) == (IMAGES | LATE)[good]


def test_nothing_is_given_up_when_the_only_copy_is_damaged(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    centre.packer.migrate(study_id)
    archive = centre.files()[1]
    damage(centre, archive[0])
    centre.receive({next(iter(IMAGES)): next(iter(IMAGES.values()))})
    with pytest.raises(Damaged):
        centre.packer.migrate(study_id)
    assert centre.files()[1] == archive
    assert len(centre.files()[0]) == 1
    assert centre.study().tier == "archive"


def test_a_full_archive_is_tried_again_later(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    study_id = centre.receive(IMAGES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(Unavailable):
            centre.packer.migrate(study_id)
        assert centre.migrator.run_due(centre.now) == 0
    assert centre.files()[1] == []
    assert {uid: centre.read(uid) for uid in IMAGES} == IMAGES
    assert centre.migrator.run_due(centre.now + 60) == 0
    assert centre.migrator.run_due(centre.now + 3601) == 1
    assert_archived(centre, IMAGES)


def test_an_image_too_large_stays_online_and_holds_nobody_up(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    study_id = centre.receive({"1.2.9.1": b"x" * 5000}, study_uid="1.2.9", date="20140101")
    centre.receive(IMAGES)
    monkeypatch.setattr(sequencefile, "LARGEST", 4096)
    with pytest.raises(TooLarge, match=r"1\.2\.9\.1"):
        centre.packer.migrate(study_id)
    told: list[tuple[int, ...]] = []
    report = centre.migrator.run_all(100, lambda *step: told.append(step))
    assert (report.packed, [(one.study_uid, "limit exceeded" in one.reason) for one in report.failed]) == (1, [("1.2.9", True)])
    size = 5000 + sum(map(len, IMAGES.values()))
    assert told[-1] == (2, 2, size, size)
    assert centre.read("1.2.9.1", "1.2.9") == b"x" * 5000
    assert centre.study("1.2.9").state == "complete"


def test_a_picture_whose_file_is_lost_is_not_hidden(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    (centre.sdfo.online.folder / centre.files()[0][0]).unlink()
    with pytest.raises(Unavailable):
        centre.packer.migrate(study_id)
    assert (centre.study().objects, centre.study().state, centre.files()[1]) == (3, "complete", [])


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def test_images_are_packed_by_instance_number(centre: Centre) -> None:
    images = {}
    for sop_uid, number in (("1.2.1", b"10"), ("1.2.2", b"9 "), ("1.2.3", b"x ")):
        images[sop_uid] = tags.part10_header("1.2.840.10008.5.1.4.1.1.2", sop_uid, "1.2.840.10008.1.2.1") + element(
            0x00200013, b"IS", number) + element(0x00280010, b"US", b"\0\2")
    centre.packer.migrate(centre.receive(images))
    assert list(centre.sdfo.index(centre.files()[1][0]).entries) == ["1.2.3", "1.2.2", "1.2.1"]


def age(centre: Centre) -> None:
    for path in centre.files()[1]:
        os.utime(archive_of(centre.sdfo) / path, (1.0, 1.0))


def test_sweep_removes_a_container_whose_images_are_safe_elsewhere(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    rows = [centre.packer._image(row, centre.sdfo.reading(), row.online) for row in centre_rows(centre, study_id)]
    leftover = centre.sdfo.pack(STUDY, rows, {})
    assert centre.sweeper.sweep() == 0     # too young: its row may come yet
    age(centre)
    assert centre.sweeper.sweep() == 1     # online holds them
    leftover = centre.sdfo.pack(STUDY, rows, {})
    centre.packer.migrate(study_id)
    age(centre)
    assert centre.sweeper.sweep() == 1     # the current container holds them
    assert leftover.path not in centre.files()[1]
    assert_archived(centre, IMAGES)


def centre_rows(centre: Centre, study_id: int) -> list[studies.Instance]:
    with centre.database.read() as unit:
        return studies.instances(unit, study_id)


def test_sweep_keeps_a_container_that_may_be_all_there_is(centre: Centre) -> None:
    study_id = centre.receive(IMAGES | LATE)
    rows = [centre.packer._image(row, centre.sdfo.reading(), row.online) for row in centre_rows(centre, study_id)]
    packed = centre.sdfo.pack(STUDY, rows, {})
    unknown = centre.sdfo.pack("1.2.3.9", rows, {})
    with centre.database.write() as unit:
        containers.forget(unit, study_id, rows[0].sop_uid)
    broken = archive_of(centre.sdfo) / "00" / "1.2.4-00.seq"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"SEQ")
    age(centre)
    assert centre.sweeper.sweep() == 0
    assert centre.files()[1] == sorted([packed.path, unknown.path, "00/1.2.4-00.seq"])


def cached(centre: Centre, job: str = "done") -> int:
    """A study of an origin that lists all but one of the objects we fetched."""
    study_id = centre.receive(IMAGES, hospital="b")
    listed = [{"StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.1", "SOPInstanceUID": uid} for uid in list(IMAGES)[:2]]
    hospital = centre.profile.hospital("b")
    assert hospital is not None
    with centre.database.write() as unit:
        sql(unit).execute(sa.text("update study set tier='origin'"))
        recording.record_origin(unit, hospital, listed, centre.now)
        sql(unit).execute(fetch_job.insert(), {
            "hospital": "b", "study_uid": STUDY, "state": job, "owner": "", "created_at": 0.0, "beat_at": 0.0, "ended_at": 0.0,
            "reason": ""})
    return study_id


def test_what_an_origin_has_is_evicted_when_nobody_wants_it(make: Callable[..., Centre]) -> None:
    centre = make(cache_days=30)
    study_id = cached(centre)
    assert centre.evictor.evict(centre.now + 29 * DAY) == 0
    with centre.database.write() as unit:
        studies.touch(unit, study_id, centre.now + 10 * DAY)
    assert centre.evictor.evict(centre.now + 31 * DAY) == 0
    assert centre.evictor.evict(centre.now + 41 * DAY) == 2
    kept = list(IMAGES)[2]
    assert [path.rpartition("/")[2] for path in centre.files()[0]] == [kept]
    assert [row.sop_uid for row in centre_rows(centre, study_id)] == [kept]
    assert centre.study(hospital="b").objects == 1


def test_nothing_is_evicted_while_a_fetch_is_open(make: Callable[..., Centre]) -> None:
    centre = make(cache_days=30)
    cached(centre, job="running")
    assert centre.evictor.evict(centre.now + 41 * DAY) == 0
    assert len(centre.files()[0]) == 3


@pytest.mark.parametrize("lands_again", [False, True])
def test_an_interrupted_eviction_is_finished_and_touches_nothing_young(
    make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch, lands_again: bool,
) -> None:
    centre = make(cache_days=30)
    study_id = cached(centre)

    def die(_paths: list[str]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(centre.sdfo, "drop_online", die)
        centre.evictor.evict(centre.now + 41 * DAY)
    assert len(centre.files()[0]) == 3
    if lands_again:     # the row of a file may be on its way
        assert centre.evictor.evict(centre.now + 41 * DAY) == 0
        assert (len(centre.files()[0]), centre.study(hospital="b").state) == (3, "dropping")
    for path in centre.files()[0]:
        os.utime(centre.sdfo.online.path(path), (1.0, 1.0))
    assert centre.evictor.evict(centre.now + 41 * DAY) == 0
    assert [path.rpartition("/")[2] for path in centre.files()[0]] == [row.sop_uid for row in centre_rows(centre, study_id)]
    assert (centre.study(hospital="b").state, centre.study(hospital="b").objects) == ("complete", 1)


def test_a_row_that_comes_while_its_file_is_evicted_goes_too(
    make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch,
) -> None:
    centre = make(cache_days=30)
    study_id = cached(centre)
    before = centre_rows(centre, study_id)
    drop = centre.sdfo.drop_online

    def adopted_meanwhile(paths: list[str]) -> None:
        centre.receive(IMAGES, hospital="b")
        drop(paths)

    monkeypatch.setattr(centre.sdfo, "drop_online", adopted_meanwhile)
    centre.evictor.evict(centre.now + 41 * DAY)
    assert centre_rows(centre, study_id) == before[2:]
    assert len(centre.files()[0]) == 1


class Steps:
    """Counts the steps a migration makes durable, and does something at each."""

    def __init__(self, patch: pytest.MonkeyPatch, at: Callable[[int], None]) -> None:
        self.count, self._at, self._busy = 0, at, False
        for owner, name in ((os, "link"), (os, "unlink"), (os, "fsync"), (os, "rmdir"), (Sdfo, "pack"), (Sdfo, "unchanged")):
            self._wrap(patch, owner, name)
        write = Database.write

        @contextlib.contextmanager
        def stepped(database: Database) -> Iterator[Any]:
            self._step()
            with write(database) as unit:
                yield unit
            self._step()

        patch.setattr(Database, "write", stepped)

    def _wrap(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def stepped(*args: Any, **kwargs: Any) -> Any:
            self._step()
            result = real(*args, **kwargs)
            self._step()
            return result

        patch.setattr(owner, name, stepped)

    def _step(self) -> None:
        if not self._busy:
            self._busy = True
            self.count += 1
            self._at(self.count)
            self._busy = False


def prepare(centre: Centre, scenario: str) -> tuple[int, dict[str, bytes], int]:
    """Return the study to migrate, what must stay readable, and how many conflicts there will be."""
    study_id = centre.receive(IMAGES)
    if scenario == "first":
        return study_id, IMAGES, 0
    centre.packer.migrate(study_id)
    first, second, _ = IMAGES
    centre.receive({first: IMAGES[first], second: b"other bytes"} | LATE)
    return study_id, IMAGES | LATE, 1


def readable(centre: Centre, images: Mapping[str, bytes], scenario: str) -> None:
    for uid, data in images.items():
        found = centre.read(uid)
        assert found == data or (scenario == "late" and found == b"other bytes")


@pytest.mark.parametrize("scenario", ["first", "late"])
def test_every_image_is_readable_at_every_step(centre: Centre, monkeypatch: pytest.MonkeyPatch, scenario: str) -> None:
    study_id, images, aside = prepare(centre, scenario)
    with monkeypatch.context() as patch:
        steps = Steps(patch, lambda _: readable(centre, images, scenario))
        assert centre.packer.migrate(study_id) is Outcome.ARCHIVED
    assert steps.count > 40
    assert_archived(centre, images, aside=aside)


@pytest.mark.outside
@pytest.mark.parametrize("scenario", ["first", "late"])
def test_a_process_killed_at_any_step_loses_nothing(folder: Path, profile: Profile, scenario: str) -> None:
    killed = 0
    with contextlib.closing(Centre(folder, profile)) as before:
        study_id, images, aside = prepare(before, scenario)
    while True:
        home = folder / "kills" / str(killed)
        shutil.copytree(folder, home, ignore=shutil.ignore_patterns("run", "kills"))
        died = kill_at(killed + 1, home, profile, study_id)
        with contextlib.closing(Centre(home, profile)) as after:
            readable(after, images, scenario)
            after.migrator.run_due(after.now)
            after.sweeper.sweep(older_than=-1.0)
            assert_archived(after, images, aside=aside)
        if not died:
            break
        killed += 1
    assert killed > 40


def kill_at(step: int, home: Path, profile: Profile, study_id: int) -> bool:
    """Migrate in another process that ends at this step without any clean-up; say whether it got so far."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        centre = Centre(home, profile)
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, lambda count: os._exit(9) if count == step else None)
            centre.packer.migrate(study_id)
        os._exit(0)
    finally:
        os._exit(1)
