import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from pydicom.uid import ExplicitVRLittleEndian

from broker.archive.tiers.online import HEAD, OnlineStore
from broker.config.profile import Profile
from broker.db import Database, sql
from broker.imaging import header, indexer
from broker.imaging.indexer import Indexer
from broker.imaging.receiver import Receiver
from broker.imaging.store import fetches, recording, studies
from broker.imaging.store.tables import conflict
from broker.model.errors import DimseCode, Rejected, Unavailable
from broker.model.imaging import StoredObject
from broker.wire import tags
from tests.helpers import dicom
from tests.helpers.dicom import Board
from tests.helpers.waiting import eventually

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
SYNTAX = str(ExplicitVRLittleEndian)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def online(tmp_path: Path) -> OnlineStore:
    return OnlineStore(tmp_path / "online", fsync=False)


@pytest.fixture
def receiver(database: Database, online: OnlineStore, profile: Profile, board: Board) -> Iterator[Receiver]:
    door = Receiver(database, online, profile, board)
    door.start()
    yield door
    door.stop()


def encoded(study: str = "1.2", sop: str = "1.2.9", *, number: int = 1, size: int = 16) -> bytes:
    file = io.BytesIO()
    dicom.ct_dataset(study, f"{study}.1", sop, number=number, size=size).save_as(file, enforce_file_format=True)
    data = file.getvalue()
    return data[tags.read_meta(data).end:]


def send(door: Receiver, data: bytes, sop: str = "1.2.9", *, node: str = "PACSA", syntax: str = SYNTAX,
         sop_class: str = dicom.CT) -> StoredObject:
    sink = door.open(dicom.sender(node), sop_class, sop, syntax)
    for at in range(0, len(data), 100):
        sink.write(memoryview(data)[at:at + 100])
    assert sink.stored is None
    assert sink.commit() == 0x0000
    sink.index()
    assert sink.stored is not None
    return sink.stored


def files(online: OnlineStore) -> list[str]:
    return sorted(str(file.relative_to(online.folder)) for file in online.folder.rglob("*") if file.is_file())


def study_row(database: Database, uid: str = "1.2", hospital: str = "a") -> studies.Study | None:
    with database.read() as unit:
        return studies.study(unit, hospital, uid)


def test_the_file_holds_the_sent_bytes_and_its_row_follows_within_a_second(
        receiver: Receiver, online: OnlineStore, database: Database) -> None:
    data = encoded(size=200)
    stored = send(receiver, data)
    written = online.path(stored.path).read_bytes()
    meta = tags.read_meta(written)
    assert written[meta.end:] == data
    assert (meta.sop_class, meta.sop_uid, meta.transfer_syntax) == (dicom.CT, "1.2.9", SYNTAX)
    assert (stored.size, stored.hospital, stored.study_uid, stored.series_uid) == (len(written), "a", "1.2", "1.2.1")
    eventually(lambda: study_row(database) is not None)
    row = study_row(database)
    assert row is not None
    assert (row.state, row.objects, row.bytes) == ("receiving", 1, len(written))
    assert (row.facts["PatientName"], row.patient.value) == ("Ye^XiaoDong=葉^曉東", "A-1")


def test_the_same_object_again_changes_nothing(
        receiver: Receiver, online: OnlineStore, database: Database, board: Board) -> None:
    first, again = send(receiver, encoded()), send(receiver, encoded())
    assert first == again
    receiver.stop()
    row = study_row(database)
    assert row is not None
    assert row.objects == 1
    assert files(online) == [first.path]
    assert board.announced == []


def test_rows_wait_for_the_objects_under_way(
        receiver: Receiver, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "LINGER", 3600.0)
    send(receiver, encoded())
    eventually(lambda: study_row(database) is not None)     # the first after a pause does not wait
    batches: list[int] = []
    record = recording.record

    def note(unit: object, objects: list[StoredObject], *rest: object) -> recording.Recorded:
        batches.append(len(objects))
        return record(unit, objects, *rest)     # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(recording, "record", note)
    slow = receiver.open(dicom.sender("PACSA"), dicom.CT, "1.2.30", SYNTAX)
    for number in range(3):
        send(receiver, encoded(sop=f"1.2.2{number}"), f"1.2.2{number}")
        time.sleep(0.05)
    assert batches == []
    slow.abort()
    eventually(lambda: batches)
    assert batches == [3]


@pytest.mark.parametrize("size", [16, 100, 200])
def test_the_header_is_read_early_as_it_would_be_read_late(profile: Profile, size: int) -> None:
    data = tags.part10_header(dicom.CT, "1.2.9", SYNTAX) + encoded(size=size)
    meta, hospital = tags.read_meta(data), dicom.hospital(profile, "a")
    late = header.identify(lambda offset, length: data[offset:offset + length], len(data), meta, hospital)
    assert header.of_head(data[:HEAD], meta, hospital) == late


def test_a_head_that_will_be_refused_is_left_to_the_end(profile: Profile) -> None:
    hospital = dicom.hospital(profile, "a")
    begin = tags.part10_header(dicom.CT, "1.2.8", SYNTAX)       # another object than the data set is
    data = begin + encoded(size=200)
    assert header.of_head(data[:HEAD], tags.read_meta(data), hospital) is None
    twice = begin + begin[132:] + encoded(size=200)             # file meta information in the data set
    meta = tags.FileMeta(dicom.CT, "1.2.8", SYNTAX, len(begin))
    assert header.of_head(twice[:HEAD], meta, hospital) is None


def test_other_bytes_under_a_taken_uid_are_kept_aside(receiver: Receiver, online: OnlineStore, database: Database) -> None:
    first = send(receiver, encoded())
    second = send(receiver, encoded(number=2))
    receiver.stop()
    assert second.path.startswith(".conflict/a/1.2/1.2.9.")
    assert online.path(first.path).read_bytes() != online.path(second.path).read_bytes()
    with database.read() as unit:
        assert sql(unit).scalars(sa.select(conflict.c.path)).all() == [second.path]
    row = study_row(database)
    assert row is not None
    assert row.objects == 1


def test_what_comes_on_another_day_is_compared_with_the_first_day(
        receiver: Receiver, online: OnlineStore, database: Database) -> None:
    first = send(receiver, encoded())
    eventually(lambda: study_row(database) is not None)
    yesterday = "/".join(["a", "2020", "01", "01", *first.path.split("/")[-2:]])
    online.path(yesterday).parent.mkdir(parents=True)
    online.path(first.path).rename(online.path(yesterday))
    with database.write() as unit:
        sql(unit).execute(sa.text("UPDATE instance SET path = :path"), {"path": yesterday})
    send(receiver, encoded())
    other = send(receiver, encoded(number=2), sop="1.2.9")
    receiver.stop()
    assert other.path == first.path or other.path.startswith(".conflict/")
    kept = files(online)
    assert kept[-1] == yesterday
    assert all(path.startswith(".conflict/") for path in kept[:-1])
    with database.read() as unit:
        assert sql(unit).scalars(sa.select(conflict.c.path)).all() == kept[:-1]


@pytest.mark.parametrize(("change", "code"), [
    ({"sop": "1.2.10"}, DimseCode.DATA_SET_MISMATCH),
    ({"sop_class": "1.2.840.10008.5.1.4.1.1.4"}, DimseCode.DATA_SET_MISMATCH),
    ({"syntax": "1.2.840.10008.1.2.1.99"}, DimseCode.CANNOT_UNDERSTAND),
    ({"data": b""}, DimseCode.CANNOT_UNDERSTAND),
    ({"data": encoded()[:60]}, DimseCode.CANNOT_UNDERSTAND),
    ({"data": encoded().replace(b"\x20\x00\x0e\x00UI", b"\x20\x00\x0f\x00UI")}, DimseCode.CANNOT_UNDERSTAND),
    ({"data": encoded().replace(b"\x20\x00\x0d\x00UI\x04\x001.2\0", b"\x20\x00\x0d\x00UI\x04\x00../\0")},
     DimseCode.CANNOT_UNDERSTAND),
    ({"sop": "../evil"}, DimseCode.INVALID_SOP_INSTANCE),
    ({"sop": ""}, DimseCode.INVALID_SOP_INSTANCE),
    ({"sop_class": "CT"}, DimseCode.INVALID_SOP_INSTANCE),
    ({"node": "STRANGER"}, DimseCode.NOT_AUTHORISED),
])
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(
        receiver: Receiver, online: OnlineStore, database: Database, change: dict[str, str], code: str) -> None:
    with pytest.raises(Rejected) as caught:
        send(receiver, **{"data": encoded(), **change})  # type: ignore[arg-type]
    assert caught.value.problems[0].code == code
    assert files(online) == []
    receiver.stop()
    assert study_row(database) is None


def test_an_aborted_object_leaves_nothing(receiver: Receiver, online: OnlineStore) -> None:
    sink = receiver.open(dicom.sender("PACSA"), dicom.CT, "1.2.9", SYNTAX)
    sink.write(encoded()[:50])
    sink.abort()
    sink.abort()
    assert files(online) == []


@pytest.mark.filterwarnings("ignore:Expected explicit VR:UserWarning")
def test_a_file_that_lies_about_its_syntax_is_read_with_pydicom(receiver: Receiver, database: Database) -> None:
    data = (SAMPLES / "SC_rgb_jpeg.dcm").read_bytes()
    meta = tags.read_meta(data)
    stored = send(receiver, data[meta.end:], meta.sop_uid, syntax=meta.transfer_syntax, sop_class=meta.sop_class)
    receiver.stop()
    row = study_row(database, stored.study_uid)
    assert row is not None
    assert row.objects == 1


def test_a_header_longer_than_the_first_look_is_read_from_disk(receiver: Receiver) -> None:
    dataset = dicom.ct_dataset("1.2", "1.2.1", "1.2.9")
    dataset.add_new(0x00091001, "OB", b"\0" * 100_000)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    data = file.getvalue()
    assert send(receiver, data[tags.read_meta(data).end:]).tags["InstanceNumber"] == "1"


def test_a_fetch_hears_of_its_object_when_the_row_is_durable(
        receiver: Receiver, database: Database, board: Board) -> None:
    with database.write() as unit:
        job = fetches.enqueue(unit, "b", "1.2", [("1.2.1", "1.2.9")], 10.0)
    send(receiver, encoded(), node="PACSB")
    send(receiver, encoded("1.3", "1.3.9"), "1.3.9", node="PACSB")
    eventually(lambda: bool(board.announced))
    receiver.stop()
    assert board.announced == [("landed", {"job": job, "sops": "1.2.9"})]
    fetched, submitted = study_row(database, "1.2", "b"), study_row(database, "1.3", "b")
    assert fetched is not None
    assert (fetched.tier, fetched.state) == ("origin", "complete")
    assert submitted is not None
    assert (submitted.tier, submitted.state) == ("online", "receiving")
    with database.read() as unit:
        assert fetches.missing(unit, job) == []


def test_while_the_store_is_down_files_are_kept_and_rows_follow_later(
        receiver: Receiver, online: OnlineStore, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "_RETRY", 0.01)
    down = threading.Event()
    down.set()
    work = database.write

    def write() -> object:
        if down.is_set():
            raise Unavailable("database")
        return work()

    monkeypatch.setattr(database, "write", write)
    stored = [send(receiver, encoded(sop=f"1.2.9.{n}"), f"1.2.9.{n}") for n in range(3)]
    assert files(online) == sorted(item.path for item in stored)
    assert study_row(database) is None
    monkeypatch.setattr(indexer, "BACKLOG", 0)
    with pytest.raises(Unavailable):
        receiver.open(dicom.sender("PACSA"), dicom.CT, "1.2.9", SYNTAX)
    down.clear()
    receiver.stop()
    row = study_row(database)
    assert row is not None
    assert row.objects == 3


def test_one_object_the_store_does_not_take_does_not_stop_the_others(
        receiver: Receiver, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    record = recording.record

    def picky(unit: object, objects: list[StoredObject], *rest: object) -> object:
        if any(item.sop_uid == "1.2.9.1" for item in objects):
            raise ValueError("no")
        return record(unit, objects, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(recording, "record", picky)
    for n in range(3):
        send(receiver, encoded(sop=f"1.2.9.{n}"), f"1.2.9.{n}")
    receiver.stop()
    row = study_row(database)
    assert row is not None
    assert row.objects == 2


def test_files_without_rows_are_adopted_at_start(
        database: Database, online: OnlineStore, profile: Profile, board: Board) -> None:
    crashed = Receiver(database, online, profile, board)      # its index thread never ran
    stored = [send(crashed, encoded(sop=f"1.2.9.{n}"), f"1.2.9.{n}") for n in range(3)]
    online.path(stored[0].path).with_name("1.2.9.77").write_bytes(b"not a picture")
    board.free = False                                        # another process is at it
    fresh = Receiver(database, online, profile, board)
    fresh.start()
    fresh.adopt_behind()
    time.sleep(0.05)
    assert study_row(database) is None
    board.free = True
    eventually(lambda: (row := study_row(database)) is not None and row.objects == 3)
    fresh.stop()
    row = study_row(database)
    assert row is not None
    assert (row.objects, row.bytes, row.facts["AccessionNumber"]) == (3, sum(item.size for item in stored), "ACC1")
    with database.read() as unit:
        assert [item.online.sha256 for item in studies.instances(unit, row.id)] == [item.sha256 for item in stored]
    assert Indexer(database, online, profile, board).adopt() == 0


def test_what_was_kept_aside_without_a_row_is_reported_after_the_crash(
        database: Database, online: OnlineStore, profile: Profile, board: Board) -> None:
    crashed = Receiver(database, online, profile, board)      # its index thread never ran
    first, other = send(crashed, encoded()), send(crashed, encoded(number=2))
    for _ in range(2):
        fresh = Indexer(database, online, profile, board)
        fresh.start()
        fresh.adopt_behind()
        eventually(lambda: (row := study_row(database)) is not None and row.objects == 1)
        eventually(lambda: aside_rows(database) == [(other.path, other.sha256)])
        fresh.stop()
    assert files(online) == sorted([first.path, other.path])
    assert aside_rows(database) == [(other.path, other.sha256)]


def aside_rows(database: Database) -> list[tuple[str, str]]:
    with database.read() as unit:
        return [tuple(row) for row in sql(unit).execute(sa.select(conflict.c.path, conflict.c.sha256))]


def test_a_file_that_went_before_its_row_gets_none(
        database: Database, online: OnlineStore, profile: Profile, board: Board) -> None:
    receiver = Receiver(database, online, profile, board)
    gone, stays = send(receiver, encoded()), send(receiver, encoded(sop="1.2.9.1"), "1.2.9.1")
    online.path(gone.path).unlink()
    receiver.start()
    receiver.stop()
    row = study_row(database)
    assert row is not None
    with database.read() as unit:
        assert [item.online.path for item in studies.instances(unit, row.id)] == [stays.path]
