"""What is packed, when and how fast; what an operator keeps; several at work at once; clocks that were wrong."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from broker.archive.sdfo import Packed, Sdfo
from broker.archive.tiers.base import Space
from broker.archive.tiers.online import OnlineStore
from broker.config.profile import Retention, Rule
from broker.coord.local import LocalCoord
from broker.db import sql
from broker.imaging.archiving import lease
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.lease import Lease
from broker.imaging.archiving.pace import Pace
from broker.imaging.store import containers, damages, proofs, rebuilt, recalls, retained, setbacks, studies
from broker.imaging.store import due as store
from broker.imaging.store.retained import HOLD, PIN, Retained
from broker.imaging.store.tables import container, study
from broker.model.errors import Unavailable
from tests.helpers.archive import STUDY, Centre, image

IMAGES = {f"{STUDY}.1.{n}": f"image {n}".encode() * 50 for n in range(3)}
LATE = {f"{STUDY}.1.{n}": f"late {n}".encode() * 50 for n in range(10, 12)}
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def centre(make: Callable[..., Centre]) -> Centre:
    return make()


def ago(days: float) -> str:
    return time.strftime("%Y%m%d", time.gmtime(time.time() - days * DAY))


def receive(centre: Centre, number: int, **facts: str) -> int:
    """Take a study of its own with one image; return its row id."""
    uid = f"1.2.{number}"
    return centre.receive({f"{uid}.1": b"image " * 50 * number}, study_uid=uid, **facts)


def used(centre: Centre, study_id: int, days: float) -> None:
    with centre.database.write() as unit:
        sql(unit).execute(study.update().where(study.c.id == study_id).values(used_at=centre.now - days * DAY))


def keep(centre: Centre, kind: str, study_uid: str = STUDY) -> None:
    with centre.database.write() as unit:
        retained.keep(unit, Retained(hospital="a", study_uid=study_uid, kind=kind, reason="a court", set_by="li", at=centre.now))


def release(centre: Centre) -> None:
    with centre.database.write() as unit:
        assert retained.release(unit, STUDY, ["a"])


def rules(centre: Centre, at: float | None = None) -> dict[int, str]:
    return {one.id: one.rule for one in centre.migrator.due(centre.now if at is None else at)}


# --- policy


def test_each_due_study_names_the_rule_that_made_it_due(make: Callable[..., Centre]) -> None:
    centre = make(
        online_days=100, per_modality={"US": 5}, per_hospital={"b": 10},
        rule=(Rule(name="b's mammography", hospital="b", modality="MG", online_days=1000),
              Rule(name="night CT", modality="CT", online_days=20, unused_days=0)))
    found = {
        receive(centre, 1, date=ago(101), modality="MR"): "online_days",
        receive(centre, 2, date=ago(6), modality="US"): "per_modality.US",
        receive(centre, 3, date=ago(11), modality="MR", hospital="b"): "per_hospital.b",
        receive(centre, 4, date=ago(1001), modality="MG", hospital="b"): "b's mammography",
        receive(centre, 5, date=ago(21), modality="CT"): "night CT"}
    not_yet = [receive(centre, 6, date=ago(999), modality="MG", hospital="b"), receive(centre, 7, date=ago(19), modality="CT"),
               receive(centre, 8, date=ago(99), modality="MG")]
    assert rules(centre) == found
    assert rules(centre, centre.now + 1001 * DAY).keys() == {*found, *not_yet}


def test_a_study_that_was_read_lately_stays_online(make: Callable[..., Centre]) -> None:
    centre = make(online_days=10, unused_days=30, per_modality={"US": 5}, rule=(
        Rule(name="MG", modality="MG", online_days=10, unused_days=90),))
    for number, modality in enumerate(("CT", "US", "MG"), 1):
        used(centre, receive(centre, number, date=ago(365), modality=modality), 31)
    assert rules(centre) == {1: "online_days", 2: "per_modality.US"}
    with centre.database.write() as unit:
        studies.touch(unit, 1, centre.now)
    assert rules(centre) == {2: "per_modality.US"}
    assert rules(centre, centre.now + 60 * DAY) == {1: "online_days", 2: "per_modality.US", 3: "MG"}


def test_late_objects_are_due_at_once_whatever_their_rule(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    centre.packer.migrate(study_id)
    centre.receive(LATE)
    assert rules(centre) == {study_id: "late objects"}


@pytest.mark.parametrize("date", ["20991231", ""])
def test_a_study_date_to_come_is_not_believed(make: Callable[..., Centre], date: str) -> None:
    centre = make(online_days=30)
    study_id = centre.receive(IMAGES, date=date)
    assert rules(centre) == {}
    assert rules(centre, centre.now + 31 * DAY) == {study_id: "online_days"}


def test_pinned_studies_are_not_due_and_held_ones_are(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    keep(centre, PIN)
    assert rules(centre) == {}
    assert centre.migrator.run_due(centre.now) == 0
    report = centre.migrator.run_all(10, lambda *_: None)
    assert (report.packed, dict(report.skipped)) == (0, {"pinned": 1})
    assert json.loads(json.dumps(report.told()))["skipped"] == {"pinned": 1}
    release(centre)
    keep(centre, HOLD)
    assert rules(centre) == {study_id: "online_days"}


def test_a_container_without_a_row_stays_while_its_study_is_held(centre: Centre) -> None:
    centre.receive(IMAGES)
    packed = centre.sdfo.pack(STUDY, [image(sop_uid, data) for sop_uid, data in IMAGES.items()], {})
    keep(centre, HOLD)
    assert centre.sweeper.sweep(-1.0) == 0
    assert centre.files()[1] == [packed.path]
    release(centre)
    assert centre.sweeper.sweep(-1.0) == 1
    assert centre.files()[1] == []


def test_no_copy_of_a_held_study_is_removed_until_it_is_released(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    keep(centre, HOLD)
    report = centre.migrator.run_all(10, lambda *_: None)
    assert (report.packed, report.held, report.written, report.freed) == (0, 1, 1, 0)
    assert (centre.study().state, len(centre.files()[0]), len(centre.files()[1])) == ("dropping", 3, 1)
    assert centre.migrator.run_due(centre.now + 60) == 0
    centre.receive(LATE)
    assert centre.packer.migrate(study_id) is Outcome.HELD
    assert (len(centre.files()[0]), len(centre.files()[1])) == (5, 2), "the container that was replaced stays, too"
    release(centre)
    centre.migrator.run_due(centre.now + 120)
    assert (centre.files()[0], len(centre.files()[1])) == ([], 1)
    assert {uid: centre.read(uid) for uid in IMAGES | LATE} == IMAGES | LATE


def test_a_study_that_is_held_while_its_container_is_proven_loses_nothing(
    centre: Centre, monkeypatch: pytest.MonkeyPatch,
) -> None:
    study_id = centre.receive(IMAGES)
    unchanged = Sdfo.unchanged

    def then_hold(self: Sdfo, *args: Any) -> Any:
        index = unchanged(self, *args)
        keep(centre, HOLD)
        return index

    monkeypatch.setattr(Sdfo, "unchanged", then_hold)
    assert centre.packer.migrate(study_id) is Outcome.CHANGED
    assert len(centre.files()[0]) == 3


# --- hours, rates, room


def test_the_worker_packs_in_its_hours_only(make: Callable[..., Centre]) -> None:
    centre = make(hours="20:00-06:00")
    centre.receive(IMAGES)
    midnight = (centre.now // DAY) * DAY
    centre.now = midnight + 4 * HOUR
    assert centre.migrator.run_due(centre.now) == 0, "noon in +0800"
    centre.now = midnight + 12 * HOUR + 60
    assert centre.migrator.run_due(centre.now) == 1


def test_no_study_is_begun_when_the_hours_end_in_the_middle_of_a_run(
    make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch,
) -> None:
    centre = make(hours="20:00-06:00", parallel=1)
    for number in range(1, 4):
        receive(centre, number)
    centre.now = (centre.now // DAY) * DAY + 22 * HOUR - 60      # 05:59
    pack = Sdfo.pack

    def slowly(self: Sdfo, *args: Any) -> Packed:
        centre.now += 61
        return pack(self, *args)

    monkeypatch.setattr(Sdfo, "pack", slowly)
    assert centre.migrator.run_due(centre.now) == 1


class Clock:
    """Waits without waiting."""

    def __init__(self) -> None:
        self.now, self.waited = 100.0, 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.waited += seconds
        return False


@pytest.mark.parametrize(("rates", "expected"), [
    ({"bytes_per_second": 1000}, 8.0), ({"studies_per_hour": 1800}, 2.0 * 9), ({}, 0.0)])
def test_rates_are_kept_on_average(rates: dict[str, int], expected: float) -> None:
    clock = Clock()
    pace = Pace(Retention(**rates), "+0800", threading.Event(), wait=clock.wait, monotonic=clock)
    for _ in range(10):
        pace.study()
        pace.moved(500)
        pace.moved(500)
    assert clock.waited == pytest.approx(expected + (1.5 if "bytes_per_second" in rates else 0.0))


def test_what_was_not_packed_in_time_is_not_made_up_for() -> None:
    clock = Clock()
    pace = Pace(Retention(bytes_per_second=1000), "+0800", threading.Event(), wait=clock.wait, monotonic=clock)
    clock.now += HOUR
    pace.moved(5000)
    pace.moved(1)
    assert clock.waited == pytest.approx(5.0)


def test_a_stop_ends_a_pack_under_way_and_leaves_nothing(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    pack = Sdfo.pack

    def stopping(self: Sdfo, *args: Any) -> Packed:
        centre.migrator.stop.set()
        return pack(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sdfo, "pack", stopping)
        assert centre.migrator.run_due(centre.now) == 0
    assert (centre.study().state, centre.files()[1]) == ("complete", [])
    with centre.database.read() as unit:
        assert setbacks.listed(unit) == [], "a stop is no failure"
    assert centre.migrator.run_due(centre.now) == 0, "nothing is begun any more"
    centre.migrator.stop.clear()
    assert centre.migrator.run_due(centre.now) == 1
    assert centre.study().id == study_id


def test_a_stop_ends_waiting_for_the_rate(make: Callable[..., Centre]) -> None:
    centre = make(bytes_per_second=1)
    centre.receive(IMAGES)
    running = threading.Thread(target=centre.migrator.run_due, args=(centre.now,))
    running.start()
    centre.migrator.stop.set()
    running.join(60)
    assert not running.is_alive()
    assert centre.study().state == "complete"


def test_the_oldest_are_packed_when_the_disk_runs_full_until_there_is_room(
    make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch,
) -> None:
    centre = make(online_days=1000, low_water=10.0, high_water=20.0, hours="00:00-00:01", parallel=1, bytes_per_second=1)
    found = [receive(centre, number, date=ago(days)) for number, days in ((1, 30), (2, 50), (3, 10), (4, 1001), (5, 40))]
    keep(centre, PIN, "1.2.2")

    def space(_online: OnlineStore) -> Space:
        packed = 5 - len(centre.files()[0])
        return Space(100, 9 + 4 * packed)

    monkeypatch.setattr(OnlineStore, "space", space)
    noon = (centre.now // DAY) * DAY + 4 * HOUR
    assert centre.migrator.run_due(noon) == 3
    with centre.database.read() as unit:
        packed = [one for one in found if studies.get(unit, one).tier == "archive"]
    assert packed == [found[0], found[3], found[4]], "what is due, then the oldest; not what is pinned"
    assert centre.migrator.run_due(noon + 60) == 0, "there is room"


# --- the report


def test_a_run_tells_what_became_of_each_study(make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch) -> None:
    centre = make(parallel=2)
    centre.packer.migrate(centre.receive(IMAGES))
    centre.receive(LATE)
    for number in range(1, 6):
        receive(centre, number, date="20150101")
    bad = centre.study("1.2.4")
    (centre.sdfo.online.folder / next(path for path in centre.files()[0] if "/1.2.4/" in path)).unlink()
    told: list[tuple[int, ...]] = []
    with centre.coord.lock(f"migrate:{centre.study('1.2.5').id}", 60.0):
        report = centre.migrator.run_all(100, lambda *step: told.append(step))
    size = sum(map(len, LATE.values())) + sum(300 * number for number in (1, 2, 3))
    assert (report.packed, report.images, report.freed) == (4, 5, size)
    assert dict(report.skipped) == {"another process works on it": 1}
    assert [(one.hospital, one.study_uid) for one in report.failed] == [("a", "1.2.4")]
    assert report.failed[0].reason
    assert (report.written, report.objects_used, report.objects_spared) == (3, 6, 4), "late objects need no further container"
    assert told[-1] == (6, 6, size + 2700, size + 2700)
    assert all(before[2] <= after[2] for before, after in itertools.pairwise(told))
    with centre.database.read() as unit:
        assert [row.subject for row in setbacks.listed(unit)] == [str(bad.id)]


# --- several at once


def test_several_studies_are_packed_at_once(make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch) -> None:
    centre = make(parallel=3)
    for number in range(1, 4):
        receive(centre, number)
    together = threading.Barrier(3)
    pack = Sdfo.pack

    def at_once(self: Sdfo, *args: Any) -> Packed:
        together.wait(60)
        return pack(self, *args)

    monkeypatch.setattr(Sdfo, "pack", at_once)
    assert centre.migrator.run_due(centre.now) == 3


@pytest.mark.parametrize("locked", [True, False])
def test_two_brokers_share_the_studies(make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch, locked: bool) -> None:
    """Without a lock service some are packed twice, for nothing; whatever happens, all are packed in the end, and once."""
    if not locked:
        monkeypatch.setattr(LocalCoord, "lock", everybody)
    brokers = [make(parallel=2), make(parallel=2)]
    for number in range(1, 13):
        receive(brokers[0], number)
    done: list[int] = []
    running = [threading.Thread(target=lambda one=one: done.append(one.migrator.run_due(one.now))) for one in brokers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
    if not locked:
        brokers[0].migrator.run_due(brokers[0].now + 2 * DAY)
        brokers[0].sweeper.sweep(-60.0)
    online, archive = brokers[0].files()
    assert (online, len(archive)) == ([], 12)
    assert {number: brokers[1].read(f"1.2.{number}.1", f"1.2.{number}") for number in range(1, 13)} == {
        number: b"image " * 50 * number for number in range(1, 13)}


def test_a_writer_that_hung_past_its_lock_finds_that_another_packed_the_study(
    make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LocalCoord, "lock", everybody)
    centre, other = make(), make()
    study_id = centre.receive(IMAGES)

    def overtaken(done: int, _total: int) -> None:
        if done == 3:
            assert other.packer.migrate(study_id) is Outcome.ARCHIVED

    assert centre.packer.migrate(study_id, overtaken) is Outcome.CHANGED
    assert (centre.files()[0], len(centre.files()[1])) == ([], 1)
    assert {uid: centre.read(uid) for uid in IMAGES} == IMAGES


@contextlib.contextmanager
def everybody(_coord: LocalCoord, _name: str, _ttl: float) -> Iterator[bool]:
    """A lock that ran out, or a lock service that is away: everybody has it."""
    yield True


def test_a_hung_writer_that_dies_leaves_a_container_nobody_names_which_is_swept(
    centre: Centre, monkeypatch: pytest.MonkeyPatch,
) -> None:
    study_id = centre.receive(IMAGES)

    def died(*_: object) -> bool:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(containers, "switch", died)
        with pytest.raises(SystemExit):
            centre.packer.migrate(study_id)
    orphan = centre.files()[1]
    assert len(orphan) == 1
    assert centre.packer.migrate(study_id) is Outcome.ARCHIVED
    assert len(centre.files()[1]) == 2
    assert centre.sweeper.sweep(-60.0) == 1
    assert len(centre.files()[1]) == 1
    assert centre.files()[1] != orphan
    assert {uid: centre.read(uid) for uid in IMAGES} == IMAGES


def test_who_hung_past_its_lock_removes_no_rows_of_what_was_unpacked_meanwhile(
    centre: Centre, monkeypatch: pytest.MonkeyPatch,
) -> None:
    study_id = centre.receive(IMAGES)
    unchanged = Sdfo.unchanged

    def hang(self: Sdfo, *args: Any) -> Any:
        index = unchanged(self, *args)
        with centre.database.write() as unit:       # a conflict was settled: the study is online again, the container gone
            sql(unit).execute(container.delete())
            sql(unit).execute(study.update().values(tier="online", state="complete"))
        return index

    monkeypatch.setattr(Sdfo, "unchanged", hang)
    assert centre.packer.migrate(study_id) is Outcome.CHANGED
    assert (centre.study().objects, len(centre.files()[0])) == (3, 3)


def test_no_file_goes_when_the_lock_was_held_for_too_long(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    study_id = centre.receive(IMAGES)
    monkeypatch.setattr(lease, "seconds_for", lambda *_: 0.0)
    with pytest.raises(Unavailable):
        centre.packer.migrate(study_id)
    assert len(centre.files()[0]) == 3
    monkeypatch.undo()
    assert {uid: centre.read(uid) for uid in IMAGES} == IMAGES
    centre.migrator.run_due(centre.now)
    assert centre.files()[0] == []


def test_a_lock_lasts_as_long_as_its_study_may_take() -> None:
    assert lease.seconds_for(0) == HOUR
    assert lease.seconds_for(100 << 30, 1_000_000) > (100 << 30) / 1e6
    clock = Clock()
    held = Lease(100.0, clock)
    held.check()
    clock.now += 91
    with pytest.raises(Unavailable):
        held.check()


# --- clocks


def test_a_clock_set_back_does_not_keep_a_study_from_being_finished(make: Callable[..., Centre]) -> None:
    centre = make(grace_seconds=100.0)
    study_id = centre.receive(IMAGES)
    centre.now += 365 * DAY
    assert centre.packer.migrate(study_id) is Outcome.WAITING
    centre.now -= 365 * DAY
    assert centre.migrator.run_due(centre.now) == 0
    assert len(centre.files()[0]) == 3, "the grace time begins anew"
    centre.now += 101
    centre.migrator.run_due(centre.now)
    assert centre.files()[0] == []
    assert {uid: centre.read(uid) for uid in IMAGES} == IMAGES


def test_a_clock_set_back_does_not_keep_a_study_from_being_due(make: Callable[..., Centre]) -> None:
    centre = make(online_days=10, unused_days=10)
    centre.now += 3650 * DAY
    study_id = centre.receive(IMAGES, date="")
    centre.now -= 3650 * DAY
    centre.migrator.run_due(centre.now)
    assert rules(centre, centre.now + 11 * DAY) == {study_id: "online_days"}


def test_a_clock_set_back_does_not_put_off_what_failed_for_years(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    centre.receive(IMAGES)

    def fail(*_: object) -> Packed:
        raise Unavailable("archive")

    with monkeypatch.context() as patch:
        patch.setattr(Sdfo, "pack", fail)
        assert centre.migrator.run_due(centre.now + 3650 * DAY) == 0
    assert centre.migrator.run_due(centre.now) == 1


@pytest.mark.parametrize("ask", [
    lambda unit: store.unfinished(unit, 1.0, 1.0), lambda unit: damages.holder(unit, STUDY, "aa/1-0f.seq"), damages.listed,
    lambda unit: proofs.of_study(unit, STUDY), lambda unit: rebuilt.packed(unit, 0), recalls.least_used])
def test_a_join_on_the_container_of_a_study_does_not_read_all_containers(centre: Centre, ask: Callable[[Any], object]) -> None:
    plans: list[str] = []

    def plan(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall())
    with centre.database.read() as unit:
        if sql(unit).dialect.name != "sqlite":
            pytest.skip("the plan of SQLite")
        sa.event.listen(sql(unit), "before_cursor_execute", plan)
        ask(unit)
    about = [step for step in plans if "container" in step]
    assert about
    assert all("ix_container_study_id" in step for step in about), about
