"""Containers that are read through: what is damage and what is not, at which rate, and what becomes of it."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from broker.archive.formats.sequencefile import Damaged
from broker.archive.tiers.base import ContainerStore
from broker.archive.tiers.posix import Reader
from broker.config.profile import Profile
from broker.coord.local import LocalCoord
from broker.db import Database, sql
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.mend import Mender
from broker.imaging.archiving.pace import Rate
from broker.imaging.archiving.pack import Packer
from broker.imaging.archiving.recall import Recaller
from broker.imaging.archiving.sweep import Sweeper
from broker.imaging.archiving.verify import Verdict
from broker.imaging.damage import ROTTEN
from broker.imaging.store import proofs, setbacks, studies, tables
from broker.imaging.store.damages import WHOLE
from broker.model.errors import Unavailable
from broker.model.imaging import InstanceRef
from tests.helpers.archive import archive_of
from tests.helpers.conflicts import with_hospital
from tests.helpers.damage import Archive, audited, flip, spoil
from tests.helpers.fetch import OURS, Centre, Pacs, build, octets, refs_of, working

DAY = 86400.0


@pytest.fixture
def archive(database: Database, tmp_path: Path, profile: Profile) -> Iterator[Archive]:
    centre = build(database, tmp_path, profile)
    yield Archive(centre, tmp_path)
    assert isinstance(centre.coord, LocalCoord)
    centre.coord.close()


def uids(refs: list[InstanceRef]) -> list[str]:
    return [ref.sop_uid for ref in refs]


# --- what is found


def test_a_whole_container_is_whole(archive: Archive) -> None:
    archive.pack()
    one, = archive.verify()
    assert (one.verdict, one.sop_uids, one.cleared) == (Verdict.WHOLE, (), False)
    assert archive.damage() == []


def test_every_damaged_picture_is_named_once(archive: Archive, tmp_path: Path) -> None:
    refs = archive.pack(count=4)
    spoil(archive.centre.sdfo, archive.path(), refs[1].sop_uid, refs[3].sop_uid)
    for _ in range(2):
        one, = archive.verify()
        assert (one.verdict, one.reason, list(one.sop_uids)) == (Verdict.DAMAGED, ROTTEN, uids([refs[1], refs[3]]))
    assert archive.damage() == uids([refs[1], refs[3]])
    assert len(audited(tmp_path)) == 1
    assert archive.given(refs) == set(uids([refs[0], refs[2]]))


def test_a_damaged_record_is_damage_of_the_container_and_its_pictures_are_given(archive: Archive) -> None:
    refs = archive.pack()
    flip(archive.file(), 40)
    one, = archive.verify()
    assert (one.verdict, one.sop_uids) == (Verdict.DAMAGED, (WHOLE,))
    assert archive.given(refs) == set(uids(refs))


@pytest.mark.parametrize("harm", ["cut", "index", "gone"])
def test_a_container_whose_index_cannot_be_read_is_damaged_as_a_whole(archive: Archive, harm: str) -> None:
    refs = archive.pack()
    file = archive.file()
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "index":
        flip(file, file.stat().st_size - 30)
    else:
        file.unlink()
    one, = archive.verify()
    assert (one.verdict, one.sop_uids) == (Verdict.DAMAGED, (WHOLE,))
    assert archive.given(refs) == set()
    assert set(archive.centre.fetch.retrieve(refs).missing.values()) == {"its stored copy is damaged"}


def test_a_file_that_is_back_is_whole_again(archive: Archive) -> None:
    refs = archive.pack()
    file = archive.file()
    away = file.rename(file.with_suffix(".away"))
    archive.verify()
    assert archive.damage() == [WHOLE]
    away.rename(file)
    one, = archive.verify(days=30.0)        # what is damaged is looked at again, however lately it was read
    assert (one.verdict, one.cleared) == (Verdict.WHOLE, True)
    assert archive.damage() == []
    assert archive.given(refs) == set(uids(refs))


def test_a_container_that_was_replaced_while_it_was_read_is_not_damaged(archive: Archive) -> None:
    archive.pack()
    with archive.centre.database.write() as unit:
        kept = proofs.get(unit, archive.verifier.todo()[0][0])
        sql(unit).execute(tables.container.update().values(state="retired"))
    assert kept is not None
    archive.file_of(kept.path).unlink()
    assert archive.verifier.verify(kept).verdict is Verdict.REPLACED
    assert archive.damage() == []


def test_what_is_whole_again_of_a_damaged_container_is_given_again(archive: Archive) -> None:
    refs = archive.pack()
    file, whole = archive.file(), archive.file().read_bytes()
    file.write_bytes(whole[:-100])
    archive.verify()
    assert archive.damage() == [WHOLE]
    file.write_bytes(whole)
    spoil(archive.centre.sdfo, archive.path(), refs[2].sop_uid)
    archive.verify()
    assert archive.damage() == [refs[2].sop_uid]
    assert archive.given(refs) == set(uids(refs[:2]))


# --- what is no damage


def test_a_store_that_is_away_stops_the_reading(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.pack("1.2.1")
    archive.pack("1.2.2")
    away(monkeypatch, archive.centre.sdfo.store, "connection refused")
    with pytest.raises(Unavailable, match="archive"):
        archive.verify()
    assert archive.damage() == []
    monkeypatch.undo()
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE] * 2


def test_an_archive_that_is_not_mounted_is_not_damaged(archive: Archive) -> None:
    archive.pack()
    folder = archive_of(archive.centre.sdfo)
    mounted = folder.rename(folder.with_suffix(".mounted"))
    folder.mkdir()
    with pytest.raises(Unavailable, match="is it mounted"):
        archive.verify()
    assert archive.damage() == []
    folder.rmdir()
    mounted.rename(folder)
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE]


def test_a_file_that_a_well_store_cannot_give_now_is_tried_later(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.pack()
    away(monkeypatch, archive.centre.sdfo.store, "")
    assert [one.verdict for one in archive.verify()] == [Verdict.UNREAD]
    scrub = archive.scrub(verify_days=1)
    archive.now += 2 * DAY
    with archive.centre.database.read() as unit:
        noted, = setbacks.listed(unit)
    assert (noted.work, noted.subject) == ("verify", archive.path())
    monkeypatch.undo()
    one = scrub.run_due()
    assert one is not None
    assert one.verdict is Verdict.WHOLE
    with archive.centre.database.read() as unit:
        assert setbacks.listed(unit) == []


def away(monkeypatch: pytest.MonkeyPatch, store: ContainerStore, health: str) -> None:
    def fail(*_: object, **__: object) -> object:
        raise Unavailable("archive")

    monkeypatch.setattr(store, "open", fail)
    monkeypatch.setattr(store, "health", lambda: health)


def test_what_a_well_store_did_not_give_four_times_is_taken_for_damaged(
        archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = archive.pack()
    place = archive.centre.sdfo.locate(archive.path(), refs[1].sop_uid)
    assert place is not None
    stream, file = Reader.stream, archive.file().stat().st_ino

    def torn(self: Reader, offset: int, length: int) -> Iterator[bytes]:
        if os.fstat(self.handle).st_ino == file and offset < place.offset + place.size and offset + length > place.offset:
            raise Unavailable("archive")
        return stream(self, offset, length)

    monkeypatch.setattr(Reader, "stream", torn)
    assert [archive.verify()[0].verdict for _ in range(3)] == [Verdict.UNREAD] * 3
    assert archive.damage() == []
    one, = archive.verify()
    assert (one.verdict, one.images) == (Verdict.DAMAGED, [refs[1].sop_uid])
    assert archive.given(refs) == set(uids([refs[0], refs[2]]))
    assert [one.verdict for one in archive.verify()] == [Verdict.DAMAGED]
    archive.receive(refs[1:2])
    assert archive.mender.mend(archive.study().id)
    with archive.centre.database.read() as unit:
        assert setbacks.listed(unit) == []
    assert archive.given(refs) == set(uids(refs))


# --- which, and how fast


def test_a_run_that_broke_off_goes_on_where_it_was(archive: Archive) -> None:
    for n in range(1, 5):
        archive.pack(f"1.2.{n}")
    archive.now += 10 * DAY
    verifier = archive.verifier
    begun = verifier.each(verifier.todo(days=1.0), Rate(0, archive.clock))
    first = [next(begun).container.study_uid for _ in range(2)]
    rest = [one.container.study_uid for one in archive.verify(days=1.0)]
    assert sorted(first + rest) == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    assert archive.verify(days=1.0) == []


def test_a_sample_and_a_study(archive: Archive) -> None:
    for n in range(1, 5):
        archive.pack(f"1.2.{n}")
    assert len(archive.verify(sample=3)) == 3
    assert len(archive.verify(sample=30)) == 4
    assert [one.container.study_uid for one in archive.verify(study_uid="1.2.3")] == ["1.2.3"]


def test_reading_keeps_to_its_rate(archive: Archive) -> None:
    for n in range(1, 4):
        archive.pack(f"1.2.{n}")
    size = archive.file("1.2.1").stat().st_size
    verifier, waited = archive.verifier, list[float]()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        archive.now += seconds

    assert len(list(verifier.each(verifier.todo(), Rate(size / 10.0, archive.clock), wait))) == 3
    assert [round(seconds) for seconds in waited] == [0, 10, 10]


def test_the_worker_reads_each_container_once_in_the_days_of_the_region(archive: Archive) -> None:
    for n in range(1, 4):
        archive.pack(f"1.2.{n}")
    size = archive.file("1.2.1").stat().st_size
    scrub, seen = archive.scrub(verify_days=90, verify_bytes_per_second=size / 100.0), list[str]()
    archive.now += 1.0
    for _ in range(1000):
        if (one := scrub.run_due()) is not None:
            seen.append(one.container.study_uid)
        archive.now += 1.0
    assert seen == []       # what was just packed has been proven
    archive.now += 90 * DAY
    for _ in range(250):
        if (one := scrub.run_due()) is not None:
            seen.append(one.container.study_uid)
        archive.now += 1.0
    assert seen == ["1.2.1", "1.2.2", "1.2.3"]      # a hundred seconds for each
    assert archive.scrub(verify_days=0).run_due() is None


# --- mending


def test_a_copy_online_mends_a_container(archive: Archive, tmp_path: Path) -> None:
    refs = archive.pack()
    old = archive.path()
    spoil(archive.centre.sdfo, old, refs[1].sop_uid)
    archive.verify()
    archive.receive(refs[1:2])
    assert archive.mender.mend(archive.study().id)
    assert archive.damage() == []
    assert archive.path() != old
    assert archive.given(refs) == set(uids(refs))
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE]
    assert not archive.file_of(old).exists()
    with archive.centre.database.read() as unit:
        assert studies.instances(unit, archive.study().id) == []
        assert sql(unit).scalar(tables.damage.select().with_only_columns(tables.damage.c.mended_at)) == archive.now
    codes = [record.xpath("string(//EventTypeCode/@csd-code)") for record in audited(tmp_path)]
    assert codes == ["ARCHIVE-DAMAGE", "ARCHIVE-MEND"]


def test_the_pacs_mends_a_container(archive: Archive) -> None:
    refs = archive.pack(count=5)
    archive.centre.profile = with_hospital(archive.centre.profile, "a", port=11112)
    spoil(archive.centre.sdfo, archive.path(), refs[0].sop_uid, refs[4].sop_uid)
    archive.quarantine.enter(archive.path(), [refs[0].sop_uid], ROTTEN)      # a reader met one; the other is found now
    with working(archive.centre, hospital_a(archive.centre, refs)):
        assert archive.mender.run_due() == 1
    assert archive.damage() == []
    assert archive.given(refs) == set(uids(refs))


def test_nothing_is_switched_while_one_picture_has_no_good_copy(archive: Archive) -> None:
    refs = archive.pack()
    old = archive.path()
    spoil(archive.centre.sdfo, old, refs[0].sop_uid, refs[1].sop_uid)
    archive.verify()
    archive.receive(refs[:1])
    with pytest.raises(Damaged, match="1 of its 3 pictures have no good copy: hospital a has no PACS"):
        archive.mender.mend(archive.study().id)
    with pytest.raises(Damaged, match="1 of its 3 pictures are damaged, and there is no good copy"):
        archive.packer.migrate(archive.study().id)
    assert archive.path() == old
    assert archive.study().state == "complete"
    assert archive.given(refs) == set(uids([refs[0], refs[2]]))
    assert archive.mender.run_due() == 0
    with archive.centre.database.read() as unit:
        noted, = setbacks.listed(unit)
    assert (noted.work, noted.hospital) == ("mend", "a")
    archive.receive(refs[1:2])
    archive.now += 2 * DAY
    assert archive.mender.run_due() == 1
    assert archive.given(refs) == set(uids(refs))


def test_a_pacs_that_sends_other_bytes_mends_nothing(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = archive.pack()
    old = archive.path()
    archive.centre.profile = with_hospital(archive.centre.profile, "a", port=11112)
    spoil(archive.centre.sdfo, old, refs[0].sop_uid)
    archive.verify()
    monkeypatch.setattr("tests.helpers.fetch.octets", lambda sop_uid: b"other" + octets(sop_uid))
    with working(archive.centre, hospital_a(archive.centre, refs)), \
            pytest.raises(Damaged, match="no good copy: what came is not what was packed"):
        archive.mender.mend(archive.study().id)
    assert archive.path() == old
    assert archive.damage() == [refs[0].sop_uid]


def test_a_container_without_index_needs_a_copy_of_the_archive(archive: Archive) -> None:
    archive.pack()
    file = archive.file()
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    archive.verify()
    with pytest.raises(Damaged, match="must be brought back from a copy of the archive"):
        archive.mender.mend(archive.study().id)
    file.write_bytes(whole)
    assert archive.mender.mend(archive.study().id)
    assert archive.damage() == []


def test_a_damaged_record_is_mended_from_the_pictures_themselves(archive: Archive) -> None:
    refs = archive.pack()
    flip(archive.file(), 40)
    archive.verify()
    assert archive.mender.mend(archive.study().id)
    assert archive.given(refs) == set(uids(refs))
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE]


@pytest.mark.parametrize("harm", ["picture", "gone"])
def test_a_recalled_copy_is_given_stays_and_mends(archive: Archive, harm: str) -> None:
    refs = archive.pack()
    study, old = archive.study().id, archive.path()
    centre = archive.centre
    recaller = Recaller(centre.database, centre.sdfo, centre.profile.retention, centre.coord, stop=Event(), clock=archive.clock)
    assert recaller.recall(study, 1) > 0
    spoil(centre.sdfo, old, refs[0].sop_uid)
    if harm == "gone":
        archive.file().unlink()
    one, = archive.verify()
    assert list(one.sop_uids) == [WHOLE if harm == "gone" else refs[0].sop_uid]
    assert archive.given(refs) == set(uids(refs))
    with centre.database.write() as unit:
        sql(unit).execute(tables.study.update().values(used_at=0.0))
    archive.now += 300 * DAY
    assert recaller.expire(archive.now) == 0
    assert recaller.make_room(lambda: False) == 0
    assert archive.mender.mend(study)
    assert archive.path() != old
    assert archive.given(refs) == set(uids(refs))
    assert [one.verdict for one in archive.verify()] == [Verdict.WHOLE]


def test_a_container_in_its_grace_time_is_not_said_to_be_mended(archive: Archive, tmp_path: Path) -> None:
    refs = refs_of("1.2.1", 3, OURS)
    archive.receive(refs)
    centre, retention = archive.centre, archive.centre.profile.retention.model_copy(update={"grace_seconds": 100.0})
    slow = centre.profile.model_copy(update={"retention": retention})
    packer = Packer(centre.database, centre.sdfo, slow, centre.coord, archive.clock)
    assert packer.migrate(archive.study().id) is Outcome.WAITING
    damaged = archive.path()
    spoil(centre.sdfo, damaged, refs[1].sop_uid)
    archive.verify()
    mender = Mender(
        centre.database, centre.sdfo, slow, archive.quarantine, packer, centre.fetch, clock=archive.clock)
    with pytest.raises(Unavailable, match="grace"):
        mender.mend(archive.study().id)
    assert archive.path() == damaged
    assert archive.damage() == [refs[1].sop_uid]
    assert len(audited(tmp_path)) == 1      # that it was found
    assert archive.given(refs) == {ref.sop_uid for ref in refs}


def test_what_is_whole_is_not_mended(archive: Archive) -> None:
    archive.pack()
    assert not archive.mender.mend(archive.study().id)
    assert archive.mender.run_due() == 0


def test_the_only_good_picture_is_not_swept_for_a_damaged_one(archive: Archive) -> None:
    refs = archive.pack()
    old = archive.file()
    copy = old.with_name(old.name.replace("-", "-0"))       # a container that no row names
    copy.write_bytes(old.read_bytes())
    spoil(archive.centre.sdfo, archive.path(), refs[0].sop_uid)
    archive.verify()
    sweeper = Sweeper(archive.centre.database, archive.centre.sdfo, archive.clock)
    assert sweeper.sweep(-60.0) == 0
    assert copy.exists()


def hospital_a(centre: Centre, refs: list[InstanceRef]) -> Pacs:
    """The PACS of hospital A, with these pictures."""
    def send(one: Pacs, want: object, _progress: object) -> None:
        one.deliver(one.matching(want), "a")  # type: ignore[arg-type]
    return Pacs(centre, list(refs), script=send)
