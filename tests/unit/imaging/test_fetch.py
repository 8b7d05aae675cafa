import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.config.hours import is_open
from broker.config.profile import Hospital, Profile
from broker.coord.local import LocalCoord
from broker.db import Database, sql
from broker.imaging import fetch, fetch_worker
from broker.imaging.fetch import RetrieveResult
from broker.imaging.store import fetches, studies, tables
from broker.model.errors import Unavailable
from broker.model.imaging import InstanceRef
from broker.model.ports import Retrieved, RetrieveFailed, Unit, Want
from tests.helpers.archive import archive_of
from tests.helpers.fetch import JPEG, OURS, THEIRS, Centre, Lossy, Pacs, build, expecting, limited, octets, read, refs_of, working
from tests.helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def centre(database: Database, tmp_path: Path, profile: Profile) -> Iterator[Centre]:
    built = build(database, tmp_path, limited(profile, connect_seconds=0.3, total_seconds=20.0, back_off_seconds=1.0))
    coord = built.coord
    yield built
    assert isinstance(coord, LocalCoord)
    coord.close()


def _at_origin(centre: Centre, count: int = 5, series: int = 1, study_uid: str = "1.2.1") -> tuple[list[InstanceRef], Pacs]:
    refs = refs_of(study_uid, count, THEIRS, series)
    centre.catalogue(refs)
    return refs, Pacs(centre, list(refs))


def _assert_whole(gathered: RetrieveResult, refs: list[InstanceRef]) -> None:
    assert gathered.missing == {}
    assert {ref: read(found.source) for ref, found in gathered.found.items()} == {ref: octets(ref.sop_uid) for ref in refs}


def _sops(gathered: RetrieveResult) -> tuple[list[str], list[str]]:
    return sorted(ref.sop_uid for ref in gathered.found), sorted(ref.sop_uid for ref in gathered.missing)


# --- what is near


@pytest.mark.parametrize("packed", [False, True])
def test_near_pictures_need_no_fetch(centre: Centre, packed: bool) -> None:
    refs = refs_of("1.2.1", 3, OURS)
    centre.land("a", refs, syntax=JPEG)
    if packed:
        centre.pack("1.2.1")
    gathered = centre.fetch.retrieve(refs)
    _assert_whole(gathered, refs)
    assert {found.transfer_syntax for found in gathered.found.values()} == {JPEG}
    assert {patient.value for patient in gathered.patients.values()} == {"P-a"}
    assert centre.jobs() == []


def test_every_instance_is_found_or_missing(centre: Centre) -> None:
    here, = refs_of("1.2.1", 1, OURS)
    centre.land("a", [here])
    stranger, elsewhere = replace(here, sop_uid="1.2.9"), replace(here, source_uid=THEIRS)
    gathered = centre.fetch.retrieve([here, stranger, elsewhere, here])
    assert set(gathered.found) == {here}
    assert set(gathered.missing) == {stranger, elsewhere}


def test_a_retrieve_notes_when_the_study_was_used(centre: Centre) -> None:
    ref, = refs_of("1.2.1", 1, OURS)
    centre.land("a", [ref])
    with centre.database.write() as unit:
        sql(unit).execute(tables.study.update().values(used_at=5.0))
    before = time.time()
    centre.fetch.retrieve([ref])
    with centre.database.read() as unit:
        found = studies.study(unit, "a", "1.2.1")
    assert found is not None
    assert before <= found.used_at <= time.time()


def test_a_picture_packed_between_gathering_and_reading_is_read_all_the_same(centre: Centre) -> None:
    refs = refs_of("1.2.1", 2, OURS)
    centre.land("a", refs)
    gathered = centre.fetch.retrieve(refs)
    centre.pack("1.2.1")
    _assert_whole(gathered, refs)


def test_a_picture_gone_from_every_tier_is_an_error_of_reading(centre: Centre) -> None:
    refs = refs_of("1.2.1", 1, OURS)
    centre.land("a", refs)
    gathered = centre.fetch.retrieve(refs)
    (archive_of(centre.sdfo) / centre.pack("1.2.1")).unlink()
    with pytest.raises(OSError, match="gone"):
        read(gathered.found[refs[0]].source)


def test_a_lost_file_is_missing_and_the_others_are_there(centre: Centre) -> None:
    refs = refs_of("1.2.1", 2, OURS)
    centre.land("a", refs)
    next(centre.online.folder.rglob(refs[0].sop_uid)).unlink()
    gathered = centre.fetch.retrieve(refs)
    assert _sops(gathered) == ([refs[1].sop_uid], [refs[0].sop_uid])
    assert "its store cannot give it" in gathered.missing[refs[0]]


def test_an_unreadable_container_is_missing_not_unknown(centre: Centre) -> None:
    refs = refs_of("1.2.1", 1, OURS)
    centre.land("a", refs)
    (archive_of(centre.sdfo) / centre.pack("1.2.1")).unlink()
    assert "its store cannot give it" in centre.fetch.retrieve(refs).missing[refs[0]]


# --- from the origin


def test_a_whole_study_is_asked_for_at_once_and_only_once(centre: Centre) -> None:
    refs, pacs = _at_origin(centre)
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve(refs), refs)
        _assert_whole(centre.fetch.retrieve(refs), refs)
    assert pacs.asked == [Want("1.2.1")]
    assert centre.jobs() == [("done", "")]


def test_a_part_of_a_study_is_asked_for_by_instance_one_series_at_a_time(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 3, series=2)
    part = refs[1:4]
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve(part), part)
    assert pacs.asked == [
        Want("1.2.1", ("1.2.1.1",), ("1.2.1.1.2", "1.2.1.1.3")), Want("1.2.1", ("1.2.1.2",), ("1.2.1.2.1",))]


def test_only_what_is_not_near_is_fetched(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 3)
    ours = refs_of("1.2.5", 2, OURS)
    centre.land("a", ours)
    centre.land("b", refs[:2])
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve([*ours, *refs]), [*ours, *refs])
    assert pacs.asked == [Want("1.2.1", ("1.2.1.1",), (refs[2].sop_uid,))]


def test_five_at_once_are_one_retrieve(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 10)
    pacs.slow = 0.4
    with working(centre, pacs), ThreadPoolExecutor(5) as pool:
        for gathered in pool.map(lambda _: centre.fetch.retrieve(refs), range(5)):
            _assert_whole(gathered, refs)
    assert pacs.asked == [Want("1.2.1")]
    assert len(centre.jobs()) == 1


def test_who_joins_late_with_further_instances_gets_them_from_the_same_job(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 4)
    begun = threading.Event()

    def slowly(pacs: Pacs, want: Want, _progress: Callable[[], bool]) -> None:
        begun.set()
        time.sleep(0.5)
        pacs.deliver(pacs.matching(want))

    pacs.script = slowly
    with working(centre, pacs), ThreadPoolExecutor(1) as pool:
        first = pool.submit(centre.fetch.retrieve, refs[:2])
        assert begun.wait(PATIENCE)
        _assert_whole(centre.fetch.retrieve(refs[1:]), refs[1:])
        _assert_whole(first.result(), refs[:2])
    assert len(centre.jobs()) == 1
    assert [want.sop_uids for want in pacs.asked] == [tuple(r.sop_uid for r in refs[:2]), tuple(r.sop_uid for r in refs[2:])]


def test_two_studies_are_two_jobs_at_once(centre: Centre) -> None:
    first, pacs = _at_origin(centre, 2)
    second, other = _at_origin(centre, 2, study_uid="1.2.2")
    pacs.holds += other.holds
    pacs.slow = 0.3
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve([*first, *second]), [*first, *second])
    assert pacs.most_at_once == 2


def test_a_hospital_is_never_asked_for_more_than_it_allows_by_all_workers_together(centre: Centre) -> None:
    centre.profile = limited(centre.profile, associations=1)
    pacs = Pacs(centre)
    refs = []
    for n in range(4):
        found, _ = _at_origin(centre, 1, study_uid=f"1.2.{n}")
        refs += found
    pacs.holds, pacs.slow = list(refs), 0.15
    with working(centre, pacs), working(centre, pacs):
        _assert_whole(centre.fetch.retrieve(refs), refs)
    assert pacs.most_at_once == 1
    assert len(pacs.asked) == 4


def test_lost_announcements_cost_seconds_never_pictures(centre: Centre) -> None:
    refs, pacs = _at_origin(centre)
    assert isinstance(centre.coord, LocalCoord)
    centre.coord = Lossy(centre.coord)
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve(refs), refs)


def test_announcements_make_it_quick(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks into SQL by himself while the test lives, and all the same everything comes."""
    monkeypatch.setattr(fetch, "_LOOK", 3600.0)
    monkeypatch.setattr(fetch_worker, "_TICK", 3600.0)
    refs, pacs = _at_origin(centre)
    with working(centre, pacs):
        time.sleep(0.3)
        _assert_whole(centre.fetch.retrieve(refs), refs)


# --- bad peers


def test_half_delivered_is_asked_for_again_by_uid(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 6)

    def half_first(pacs: Pacs, want: Want, _progress: Callable[[], bool]) -> None:
        pacs.deliver(pacs.matching(want)[:None if want.sop_uids else 3])

    pacs.script = half_first
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve(refs), refs)
    assert pacs.asked == [Want("1.2.1"), Want("1.2.1", ("1.2.1.1",), tuple(ref.sop_uid for ref in refs[3:]))]


def test_what_never_comes_is_named_and_asked_for_twice_only(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 4)
    pacs.holds = refs[:3]
    with working(centre, pacs):
        gathered = centre.fetch.retrieve(refs)
    assert _sops(gathered) == ([ref.sop_uid for ref in refs[:3]], [refs[3].sop_uid])
    assert gathered.missing[refs[3]] == "the PACS of b did not send 1 of the instances"
    assert len(pacs.asked) == 2
    assert centre.jobs() == [("failed", "the PACS of b did not send 1 of the instances")]


def test_success_without_any_object_is_no_success(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 2)
    pacs.holds = []
    with working(centre, pacs):
        assert len(centre.fetch.retrieve(refs).missing) == 2


def test_broken_on_the_way_the_rest_is_asked_for_again(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 6)

    def breaks_once(pacs: Pacs, want: Want, _progress: Callable[[], bool]) -> None:
        found = pacs.matching(want)
        if len(pacs.asked) == 1:
            pacs.deliver(found[:2])
            raise Unavailable("association")
        pacs.deliver(found)

    pacs.script = breaks_once
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve(refs), refs)
    assert pacs.echoes == 0


def test_other_instances_than_asked_for_complete_nothing(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 2)
    others = refs_of("1.2.1", 4, THEIRS)[2:]
    misplaced = replace(refs[1], series_uid="1.2.1.77")
    pacs.script = lambda pacs, _want, _progress: pacs.deliver([*others, refs[0], misplaced])
    with working(centre, pacs):
        gathered = centre.fetch.retrieve(refs)
    assert _sops(gathered) == ([refs[0].sop_uid], [refs[1].sop_uid])
    assert gathered.missing[refs[1]] == "the PACS of b did not send it"


def test_objects_whose_rows_come_after_the_final_response_count(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 2)
    late: list[threading.Thread] = []

    def later(pacs: Pacs, want: Want, _progress: Callable[[], bool]) -> None:
        late.append(threading.Timer(0.2, pacs.deliver, [pacs.matching(want)]))
        late[0].start()

    pacs.script = later
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve(refs), refs)
    assert len(pacs.asked) == 1
    late[0].join()


def test_a_pacs_that_is_down_is_told_quickly_and_only_its_pictures_are_missing(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 2)
    more, _ = _at_origin(centre, 2, study_uid="1.2.2")
    ours = refs_of("1.2.5", 2, OURS)
    centre.land("a", ours)
    pacs.answers, pacs.slow = False, 0.3
    with working(centre, pacs):
        gathered = centre.fetch.retrieve([*refs, *ours])
        assert set(gathered.found) == set(ours)
        assert set(gathered.missing.values()) == {"the PACS of b failed: PACS b is not available"}
        eventually(lambda: pacs.echoes == 1)
        during = centre.fetch.retrieve(more)
        assert set(during.missing.values()) == {"the PACS of b did not answer just now"}
        assert len(pacs.asked) == 1
        pacs.answers, pacs.slow = True, 0.0
        pacs.holds += more
        time.sleep(1.1)
        _assert_whole(centre.fetch.retrieve(more), more)


def test_one_failed_study_does_not_close_the_hospital(centre: Centre) -> None:
    bad, pacs = _at_origin(centre, 1)
    good, other = _at_origin(centre, 1, study_uid="1.2.2")
    pacs.holds += other.holds

    def refuses_one(pacs: Pacs, want: Want, _progress: Callable[[], bool]) -> None:
        if want.study_uid == "1.2.1":
            raise Unavailable("C-MOVE 0xC000")
        pacs.deliver(pacs.matching(want))

    pacs.script = refuses_one
    with working(centre, pacs):
        assert len(centre.fetch.retrieve(bad).missing) == 1
        _assert_whole(centre.fetch.retrieve(good), good)
    assert pacs.echoes == 1


def test_pending_for_ever_ends_at_the_total_deadline(centre: Centre) -> None:
    centre.profile = limited(centre.profile, total_seconds=1.0)
    refs, pacs = _at_origin(centre, 3)

    def pending(pacs: Pacs, _want: Want, progress: Callable[[], bool]) -> None:
        pacs.deliver(refs[:1])
        while progress():
            time.sleep(0.05)

    pacs.script = pending
    with working(centre, pacs):
        gathered = centre.fetch.retrieve(refs)
    assert _sops(gathered) == ([refs[0].sop_uid], [ref.sop_uid for ref in refs[1:]])
    assert set(gathered.missing.values()) == {"the PACS of b was not done within 1 seconds"}
    assert len(pacs.asked) == 1


def test_without_a_worker_the_waiter_gives_up_in_time(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_MARGIN", 0.2)
    centre.profile = limited(centre.profile, total_seconds=0.5)
    refs, _ = _at_origin(centre, 1)
    assert centre.fetch.retrieve(refs).missing == {
        refs[0]: "the PACS of b was not asked in time: others came first, or no fetch process runs"}


def test_the_callers_deadline_is_shorter(centre: Centre) -> None:
    centre.profile = limited(centre.profile, total_seconds=3600.0)
    refs, _ = _at_origin(centre, 1)
    assert set(centre.fetch.retrieve(refs, deadline=0.3).missing) == set(refs)


def test_what_waited_too_long_in_the_queue_is_not_fetched(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 1)
    with centre.database.write() as unit:
        job = fetches.enqueue(unit, "b", "1.2.1", [(refs[0].series_uid, refs[0].sop_uid)], time.time() - 100)
    with working(centre, pacs):
        eventually(lambda: centre.jobs() != [("queued", "")])
    assert centre.jobs() == [("failed", "the PACS of b was busy for too long")]
    assert (job, pacs.asked) == (1, [])


def test_outside_its_hours_a_hospital_is_not_asked(centre: Centre) -> None:
    now = datetime.now(UTC).hour + 8
    centre.profile = limited(centre.profile, hours=f"{(now + 2) % 24:02}:00-{(now + 3) % 24:02}:00")
    refs, pacs = _at_origin(centre, 1)
    with working(centre, pacs):
        assert "may be asked only between" in centre.fetch.retrieve(refs).missing[refs[0]]
    assert pacs.asked == []


def test_a_hospital_that_left_the_profile(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 1)
    with centre.database.write() as unit:
        fetches.enqueue(unit, "gone", "1.2.1", [(refs[0].series_uid, refs[0].sop_uid)], time.time())
    with working(centre, pacs):
        eventually(lambda: centre.jobs()[0][0] == "failed")
    assert centre.jobs() == [("failed", "hospital gone has no PACS that can be asked")]


@pytest.mark.parametrize(("hours", "clock", "expected"), [
    ("00:00-24:00", "00:00", True), ("00:00-24:00", "23:59", True),
    ("08:00-18:00", "07:59", False), ("08:00-18:00", "08:00", True), ("08:00-18:00", "17:59", True),
    ("08:00-18:00", "18:00", False), ("20:00-06:00", "12:00", False), ("20:00-06:00", "23:00", True),
    ("20:00-06:00", "05:59", True), ("20:00-06:00", "06:00", False),
])
def test_hours(hours: str, clock: str, expected: bool) -> None:
    hour, minute = map(int, clock.split(":"))
    assert is_open(hours, datetime(2024, 1, 1, hour, minute, tzinfo=UTC)) is expected


# --- the worker's own end


def test_a_worker_that_stops_gives_its_job_back(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 2)
    begun = threading.Event()

    def pending(_pacs: Pacs, _want: Want, progress: Callable[[], bool]) -> None:
        begun.set()
        while progress():
            time.sleep(0.05)

    pacs.script = pending
    with ThreadPoolExecutor(1) as pool:
        with working(centre, pacs):
            waiting = pool.submit(centre.fetch.retrieve, refs)
            assert begun.wait(PATIENCE)
        assert centre.jobs() == [("queued", "")]
        with working(centre, Pacs(centre, list(refs))):
            _assert_whole(waiting.result(), refs)


def test_an_error_in_the_broker_itself_is_told_to_the_waiters(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 1)

    def broken(_pacs: Pacs, _want: Want, _progress: Callable[[], bool]) -> None:
        raise KeyError("a bug")

    pacs.script = broken
    with working(centre, pacs):
        assert centre.fetch.retrieve(refs).missing == {refs[0]: "an error of the broker itself"}


def test_ended_jobs_are_forgotten_with_what_they_wanted(centre: Centre) -> None:
    with centre.database.write() as unit:
        old = fetches.enqueue(unit, "b", "1.2.1", [("1", "1.1")], 1.0)
        young = fetches.enqueue(unit, "b", "1.2.2", [("1", "1.1")], 1.0)
        for now, job_id in ((100.0, old), (200.0, young)):
            job = fetches.state(unit, job_id)
            assert job is not None
            fetches.refuse(unit, job, "no", now)
        waiting = fetches.enqueue(unit, "b", "1.2.3", [("1", "1.1")], 1.0)
        assert fetches.forget(unit, 150.0) == 1
        assert [fetches.state(unit, job_id) is None for job_id in (old, young, waiting)] == [True, False, False]
        assert [fetches.missing(unit, job_id) == [] for job_id in (old, young, waiting)] == [True, False, False]


def test_a_received_object_belongs_to_the_open_job_that_expects_it(centre: Centre) -> None:
    with centre.database.write() as unit:
        job_id = fetches.enqueue(unit, "b", "1.2.1", [("1.2.1.1", "1.1")], 1.0)
        assert expecting(unit, "b", "1.2.1", "1.1") == job_id
        assert expecting(unit, "b", "1.2.1", "1.2") is None
        assert expecting(unit, "b", "1.2.9", "1.1") is None
        assert expecting(unit, "a", "1.2.1", "1.1") is None
        job = fetches.state(unit, job_id)
        assert job is not None
        fetches.refuse(unit, job, "no", 2.0)
        assert expecting(unit, "b", "1.2.1", "1.1") is None


def test_what_will_not_come_has_its_reason_until_it_lands(centre: Centre) -> None:
    with centre.database.write() as unit:
        job_id = fetches.enqueue(unit, "b", "1.2.1", [("1.2.1.1", f"1.{n}") for n in (1, 2, 3)], 1.0)
        fetches.will_not_come(unit, job_id, {"1.1": "refused", "1.2": "refused too", "9.9": "nobody asked for it"})
        assert [want.sop_uid for want in fetches.missing(unit, job_id)] == ["1.3"]
        assert fetches.reasons(unit, job_id) == {"1.1": "refused", "1.2": "refused too"}
        fetches.landed(unit, job_id, ["1.2"])
        assert fetches.reasons(unit, job_id) == {"1.1": "refused"}


def test_reasons_are_known_to_a_later_job_of_the_same_study_for_a_while(centre: Centre) -> None:
    wants = [("1.2.1.1", "1.1"), ("1.2.1.1", "1.2")]
    with centre.database.write() as unit:
        first = fetches.state(unit, fetches.enqueue(unit, "b", "1.2.1", wants, 1.0))
        assert first is not None
        fetches.will_not_come(unit, first.id, {"1.1": "refused"})
        fetches.refuse(unit, first, "no", 100.0)
        known = {}
        for hospital, study_uid, wanted in (("b", "1.2.1", wants), ("b", "1.2.2", wants), ("a", "1.2.1", wants)):
            job = fetches.state(unit, fetches.enqueue(unit, hospital, study_uid, wanted, 101.0))
            assert job is not None
            known[hospital, study_uid] = [fetches.known_reasons(unit, job, since) for since in (99.0, 101.0)]
    assert known == {("b", "1.2.1"): [{"1.1": "refused"}, {}], ("b", "1.2.2"): [{}, {}], ("a", "1.2.1"): [{}, {}]}


def _claim_and_hang(folder: Path, url: str) -> None:
    database = Database(url)
    with database.write() as unit:
        job = fetches.claim(unit, "victim", {"b": 1}, time.time())
    assert job is not None
    (folder / "claimed").touch()
    time.sleep(60)


def test_the_job_of_a_killed_worker_is_taken_over(
    centre: Centre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch_worker, "_PATIENCE", 0.5)
    refs, pacs = _at_origin(centre, 2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(centre.fetch.retrieve, refs)
        eventually(lambda: centre.jobs() == [("queued", "")])
        victim = multiprocessing.get_context("spawn").Process(target=_claim_and_hang, args=(tmp_path, centre.database.url))
        victim.start()
        eventually((tmp_path / "claimed").exists)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        with working(centre, pacs):
            _assert_whole(waiting.result(), refs)
    assert centre.jobs() == [("done", "")]


def test_a_worker_that_lost_its_job_stops_it(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 2)
    ended = threading.Event()

    def pending(_pacs: Pacs, _want: Want, progress: Callable[[], bool]) -> None:
        while progress():
            time.sleep(0.05)
        ended.set()

    pacs.script = pending
    with centre.database.write() as unit:
        fetches.enqueue(unit, "b", "1.2.1", [(ref.series_uid, ref.sop_uid) for ref in refs], time.time())
    with working(centre, pacs):
        eventually(lambda: pacs.asked != [])
        with centre.database.write() as unit:
            sql(unit).execute(tables.fetch_job.update().values(owner="another"))
        assert ended.wait(PATIENCE)
    assert centre.jobs() == [("running", "")]


def _web(folder: Path, url: str, profile: Profile, results: "multiprocessing.queues.Queue[int]") -> None:
    centre = build(Database(url), folder, profile)
    refs = refs_of("1.2.1", 20, THEIRS)
    gathered = centre.fetch.retrieve(refs)
    _assert_whole(gathered, refs)
    results.put(len(gathered.found))


def test_waiters_in_other_processes(centre: Centre, tmp_path: Path) -> None:
    refs, pacs = _at_origin(centre, 20)
    pacs.slow = 0.5
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    webs = [
        context.Process(target=_web, args=(tmp_path, centre.database.url, centre.profile, results)) for _ in range(2)]
    with working(centre, pacs):
        for process in webs:
            process.start()
        assert [results.get(timeout=30) for _ in webs] == [20, 20]
        for process in webs:
            process.join()
    results.close()
    results.join_thread()
    assert pacs.asked == [Want("1.2.1")]
    assert len(refs) == 20


def test_a_pacs_that_cannot_take_a_list_is_asked_for_the_series(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, count=4, series=2)

    def only_single(pacs: Pacs, want: Want, _progress: Callable[[], bool]) -> None:
        if len(want.sop_uids) > 1:
            raise RetrieveFailed("lists of UIDs", Retrieved(0xC000, "it takes no list"))
        pacs.deliver(pacs.matching(want))

    pacs.script = only_single
    with working(centre, pacs):
        gathered = centre.fetch.retrieve([refs[0], refs[1], refs[5]])
    assert set(gathered.found) == {refs[0], refs[1], refs[5]}
    assert [len(want.sop_uids) for want in pacs.asked] == [2, 1, 0]


def _cannot_send(bad: InstanceRef) -> Callable[[Pacs, Want, Callable[[], bool]], None]:
    """Orthanc's way: a request fails with the first object that cannot be sent."""
    def script(pacs: Pacs, want: Want, _progress: Callable[[], bool]) -> None:
        found = pacs.matching(want)
        at = found.index(bad) if bad in found else len(found)
        pacs.deliver(found[:at])
        if at < len(found):
            raise RetrieveFailed("C-MOVE", Retrieved(0xC000, "unable"))
    return script


def test_what_cannot_be_had_has_its_reason_and_is_not_asked_for_again_so_soon(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 3, series=3)
    pacs.script = _cannot_send(refs[4])
    rest = [ref for ref in refs if ref != refs[4]]
    with working(centre, pacs):
        first = centre.fetch.retrieve(refs)
        asked = len(pacs.asked)
        second = centre.fetch.retrieve(refs)
        assert len(pacs.asked) == asked
        time.sleep(1.1)         # the back-off of this hospital is a second
        third = centre.fetch.retrieve(refs)
        assert len(pacs.asked) == asked + 1
        eventually(lambda: pacs.echoes == 1)    # the third job's only request failed
    for gathered, why in ((first, ""), (second, "not asked for again so soon: "), (third, "")):
        assert set(gathered.found) == set(rest)
        assert gathered.missing == {refs[4]: why + "the PACS of b did not send it: unable"}
        assert gathered.impossible == {refs[4]}


def test_an_instance_that_came_and_is_not_given_is_not_waited_for(centre: Centre) -> None:
    """The index sets aside what is not what the PACS announced."""
    refs, pacs = _at_origin(centre, 3)

    def other_than_announced(pacs: Pacs, _want: Want, progress: Callable[[], bool]) -> None:
        pacs.deliver(refs[:2])
        with centre.database.write() as unit:
            job = expecting(unit, "b", "1.2.1", refs[2].sop_uid)
            assert job is not None
            fetches.will_not_come(unit, job, {refs[2].sop_uid: "it names another patient than the PACS said"})
        while progress():
            time.sleep(0.05)

    pacs.script = other_than_announced
    with working(centre, pacs), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(centre.fetch.retrieve, refs)
        gathered = waiting.result(timeout=10)       # the job itself goes on for 20 seconds
        assert centre.jobs() == [("running", "")]
    assert set(gathered.found) == set(refs[:2])
    assert gathered.missing == {refs[2]: "it names another patient than the PACS said"}


def test_a_second_attempt_goes_by_the_next_route(centre: Centre) -> None:
    refs, _ = _at_origin(centre, 2)
    centre.profile = centre.profile.model_copy(update={"hospitals": tuple(
        one.model_copy(update={"routes": ("get", "move")}) for one in centre.profile.hospitals)})
    routes: list[tuple[str, ...]] = []

    class Routed(Pacs):
        def retrieve(self, hospital: Hospital, want: Want, progress: Callable[[], bool]) -> Retrieved:
            routes.append(hospital.routes)
            self.deliver(self.matching(want) if hospital.routes[0] == "move" else refs[:1])
            return Retrieved(0xB000 if hospital.routes[0] == "get" else 0, "some failed")

    with working(centre, Routed(centre, list(refs))):
        _assert_whole(centre.fetch.retrieve(refs), refs)
    assert routes == [("get", "move"), ("move", "get")]


def test_a_pacs_that_falls_silent_again_and_again_is_given_up(centre: Centre) -> None:
    refs, pacs = _at_origin(centre, 1, series=9)

    def silent_after_one(pacs: Pacs, want: Want, _progress: Callable[[], bool]) -> None:
        if not want.series_uids:
            pacs.deliver(refs[:1])
        raise Unavailable("silent")

    pacs.script = silent_after_one
    with working(centre, pacs):
        gathered = centre.fetch.retrieve(refs)
    assert _sops(gathered)[0] == [refs[0].sop_uid]
    assert {why.removeprefix("the PACS of b ") for why in gathered.missing.values()} <= {
        "failed: silent is not available", "did not send it: silent is not available"}
    assert len(pacs.asked) == 1 + fetch_worker._BREAKS


def test_a_hospital_whose_pacs_hangs_keeps_no_other_waiting(centre: Centre) -> None:
    b = next(one for one in centre.profile.hospitals if one.key == "b")
    c = b.model_copy(update={"key": "c", "ae_title": "PACSC", "source_uid": "2.999.4.3", "domain": "2.999.2.1"})
    centre.profile = centre.profile.model_copy(update={"hospitals": (*centre.profile.hospitals, c)})
    stuck = [ref for n in range(6) for ref in _at_origin(centre, 1, study_uid=f"1.2.{n}")[0]]
    quick = refs_of("1.3.1", 3, "2.999.4.3")
    centre.catalogue(quick, "c")

    class Two(Pacs):
        def retrieve(self, hospital: Hospital, want: Want, progress: Callable[[], bool]) -> Retrieved:
            while hospital.key == "b" and progress():
                time.sleep(0.02)
            self.deliver(self.matching(want), hospital.key)
            return Retrieved()

    with working(centre, Two(centre, quick)), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(centre.fetch.retrieve, stuck, deadline=8.0)
        eventually(lambda: centre.jobs().count(("running", "")) == 2)
        _assert_whole(centre.fetch.retrieve(quick), quick)
        assert not waiting.done()
        assert set(waiting.result().missing) == set(stuck)


def test_a_look_for_work_that_fails_is_not_the_end(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    refs, pacs = _at_origin(centre, 1)
    queued, failures = fetches.queued, [KeyError("a bug")]

    def once(unit: Unit) -> list[fetches.Job]:
        if failures:
            raise failures.pop()
        return queued(unit)

    monkeypatch.setattr(fetches, "queued", once)
    with working(centre, pacs):
        _assert_whole(centre.fetch.retrieve(refs), refs)
    assert failures == []
