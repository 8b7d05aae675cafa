"""One study, object or hospital must not stop or slow the work for the others."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from broker.archive.tiers.online import OnlineStore
from broker.config.profile import Profile
from broker.db import Database
from broker.imaging import indexer, publish
from broker.imaging.alone import Alone
from broker.imaging.archiving.evict import Evictor
from broker.imaging.archiving.sweep import Sweeper
from broker.imaging.backlog import backlog
from broker.imaging.receiver import Receiver
from broker.imaging.store import publications, recording, setbacks, studies
from broker.model.errors import Unavailable
from broker.model.imaging import StoredObject
from tests.helpers import dicom, stores
from tests.helpers.archive import STUDY, Centre
from tests.helpers.dicom import Board
from tests.helpers.waiting import eventually
from tests.unit.imaging.test_receiver import encoded, send

HOUR, DAY = 3600.0, 86400.0
IMAGES = {f"{STUDY}.1.{n}": f"image {n}".encode() * 50 for n in range(3)}


@pytest.fixture
def centre(tmp_path: Path, profile: Profile) -> Iterator[Centre]:
    stores.sqlite(tmp_path / "broker.db").close()
    with contextlib.closing(Centre(tmp_path, profile)) as made:
        yield made


def rows(database: Database) -> list[setbacks.Setback]:
    with database.read() as unit:
        return setbacks.listed(unit)


def test_what_fails_is_noted_waits_longer_each_time_and_is_forgotten_when_done(database: Database) -> None:
    work = Alone(database, "pack")
    tries: list[float] = []

    def fail() -> None:
        tries.append(0.0)
        raise LookupError("patient 葉")

    at, pauses = 0.0, []
    with structlog.testing.capture_logs() as logs:
        for _ in range(8):
            work.begin()
            assert work.attempt(7, at, fail, "a") is None
            (row,) = rows(database)
            pauses.append(row.next_at - at)
            assert work.waits(7, row.next_at - 1)
            assert not work.waits(7, row.next_at)
            assert not work.waits(8, at)
            at = row.next_at
    assert pauses == [HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR, DAY, DAY, DAY]
    assert (row.work, row.subject, row.hospital, row.attempts, row.first_at) == ("pack", "7", "a", 8, 0.0)
    assert row.reason.startswith("LookupError (")
    assert "葉" not in repr(logs) + row.reason
    assert not Alone(database, "pack").waits(7, at - 1), "a process that starts tries at once"
    assert [(held.work, held.subject, held.reason, held.attempts) for held in backlog(database)] == [("pack", "7", row.reason, 8)]
    assert work.attempt(7, at, lambda: "done") == "done"
    assert rows(database) == []


def test_a_study_that_cannot_be_packed_stops_no_other(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = centre.receive(IMAGES)
    good = centre.receive({f"2.25.9.{n}": b"other" * 50 for n in range(2)}, study_uid="2.25.9")
    pack = centre.sdfo.pack

    def broken(study_uid: str, *rest: Any) -> Any:
        if study_uid == STUDY:
            raise UnicodeEncodeError("ascii", "男", 0, 1, "ordinal not in range")
        return pack(study_uid, *rest)

    monkeypatch.setattr(centre.sdfo, "pack", broken)
    assert centre.migrator.run_due(centre.now) == 1
    assert [row.subject for row in rows(centre.database)] == [str(bad)]
    assert centre.migrator.run_due(centre.now + 60) == 0, "and it is not tried every minute"
    assert rows(centre.database)[0].attempts == 1
    monkeypatch.undo()
    assert centre.migrator.run_due(centre.now + HOUR) == 1
    assert rows(centre.database) == []
    assert good != bad


@pytest.mark.parametrize(("owner", "step"), [(Sweeper, "sweep"), (Evictor, "evict")])
def test_clearing_up_that_fails_does_not_keep_studies_from_being_packed(
    centre: Centre, owner: type, step: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> int:
        raise PermissionError(13, "no")

    centre.receive(IMAGES)
    monkeypatch.setattr(owner, step, fail)
    assert centre.migrator.run_due(centre.now) == 1
    assert [(row.work, row.reason[:15]) for row in rows(centre.database)] == [(step, "PermissionError")]


def test_an_object_whose_row_cannot_be_written_is_put_off_and_stops_no_other(
    tmp_path: Path, database: Database, profile: Profile, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(indexer, "_PUT_OFF", 0.2)
    monkeypatch.setattr(indexer, "_RETRY", 0.01)
    record, refused = recording.record, [5]

    def some(unit: Any, objects: Any, *rest: Any) -> Any:
        if any(item.study_uid == "1.2" for item in objects) and refused[0]:
            refused[0] -= 1
            raise Unavailable("the online store")
        return record(unit, objects, *rest)

    monkeypatch.setattr(recording, "record", some)
    door = Receiver(database, OnlineStore(tmp_path / "online", fsync=False), profile, Board())
    door.start()
    try:
        send(door, encoded())
        send(door, encoded("1.3", "1.3.9"), "1.3.9")
        eventually(lambda: _has(database, "1.3"))
        eventually(lambda: _has(database, "1.2"))
        assert rows(database) == [], "done in the end"
        assert refused == [0]
    finally:
        door.stop()


def test_an_object_that_never_gets_a_row_is_listed_with_its_reason(
    tmp_path: Path, database: Database, profile: Profile, monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = recording.record

    def some(unit: Any, objects: Any, *rest: Any) -> Any:
        if any(item.study_uid == "1.2" for item in objects):
            raise ValueError("葉")
        return record(unit, objects, *rest)

    monkeypatch.setattr(recording, "record", some)
    door = Receiver(database, OnlineStore(tmp_path / "online", fsync=False), profile, Board())
    door.start()
    try:
        stored = send(door, encoded())
        eventually(lambda: rows(database))
        (row,) = rows(database)
        assert (row.work, row.subject, row.hospital, row.reason[:10]) == ("index", stored.path, "a", "ValueError")
    finally:
        door.stop()


def _has(database: Database, study_uid: str) -> bool:
    with database.read() as unit:
        return studies.study(unit, "a", study_uid) is not None


def test_hospitals_take_turns_and_a_slow_one_holds_up_its_own_studies_only(
    database: Database, profile: Profile, monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    with database.write() as unit:
        for number in range(6):
            hospital = "a" if number < 4 else "b"
            file = dicom_object(hospital, f"2.25.{number}")
            recording.record(unit, [file], profile, 0.0)
            found = studies.study(unit, hospital, f"2.25.{number}")
            assert found is not None
            publications.request(unit, found.id, found.patient, float(number))
    with database.read() as unit:
        assert [hospital for _, hospital in publications.due(unit, now, 3)] == ["a", "b", "a"]
    clock = [0.0]
    monkeypatch.setattr(publish, "time", SimpleNamespace(monotonic=lambda: clock[0], time=lambda: now))
    tried: list[str] = []

    def attempt(study_id: int, _now: float) -> bool:
        with database.read() as unit:
            row = publications.get(unit, study_id)
        assert row is not None
        tried.append(row.hospital)
        clock[0] += publish.SLOW + 1 if row.hospital == "a" else 0.1
        return row.hospital == "b"

    nobody: Any = SimpleNamespace()
    publisher = publish.Publisher(database, profile, nobody, nobody, nobody, nobody, nobody, "OURS")
    monkeypatch.setattr(publisher, "_attempt_alone", attempt)
    assert publisher.run_once(now) == 2
    assert tried == ["a", "b", "b"]


def test_a_study_that_cannot_be_completed_stops_no_other(
    database: Database, profile: Profile, monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database.write() as unit:
        for number in range(3):
            recording.record(unit, [dicom_object("a", f"2.25.{number}")], profile, 0.0)
    request = publications.request

    def some(unit: Any, study_id: int, *rest: Any, **more: Any) -> None:
        if study_id == 2:
            raise LookupError
        request(unit, study_id, *rest, **more)

    monkeypatch.setattr(publications, "request", some)
    nobody: Any = SimpleNamespace()
    publisher = publish.Publisher(database, profile, nobody, nobody, nobody, nobody, nobody, "OURS")
    tried: list[int] = []

    def attempt(study_id: int, _now: float) -> bool:
        tried.append(study_id)
        return False

    monkeypatch.setattr(publisher, "_attempt_alone", attempt)
    publisher.run_once(100.0)
    assert sorted(tried) == [1, 3]
    assert [(row.work, row.subject, row.hospital) for row in rows(database)] == [("complete", "2", "a")]
    monkeypatch.undo()
    with database.read() as unit:
        assert [study.id for study in studies.quiet(unit, 100.0)] == [2]


def dicom_object(hospital: str, study_uid: str) -> Any:
    return replace(_SAMPLE, hospital=hospital, study_uid=study_uid, series_uid=f"{study_uid}.1", sop_uid=f"{study_uid}.1.1",
                   path=f"{hospital}/{study_uid}")


_SAMPLE = StoredObject(
    hospital="a", study_uid="", series_uid="", sop_uid="", sop_class=dicom.CT, transfer_syntax="1.2.840.10008.1.2.1", path="",
    size=10, sha256="0" * 64, tags={"PatientID": "P1"})
