"""Runs fetch jobs: the only caller of the Mover for pictures, and the holder of the hospitals' limits.

A job asks for the whole study when all its catalogue is wanted, else for instances by UID; what did not come is asked
for once more by UID. Completeness is counted from what landed, never taken from a final status: a PACS may say
success and send nothing.
"""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from broker.config.profile import Hospital, Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.imaging.store import fetches, studies
from broker.imaging.store.fetches import Job, Wanted
from broker.model.errors import Unavailable
from broker.model.ids import is_uid
from broker.model.ports import Mover, Unit, Want

_TICK = 1.0                 # seconds between two looks into SQL
_PATIENCE = 10.0            # seconds without a beat after which a job's owner counts as dead
_GRACE = 2.0                # seconds without a landing after which a final response is believed
_GRACE_FAILED = 0.5         # the same after a failure: nobody shall wait longer for a PACS that is down
_POLL = 0.1
_UIDS = 200                 # instances of one series asked for at once
_ATTEMPTS = 2
_STALE = 2.0                # times `total_seconds` in the queue, after which nobody waits any more
_KEPT = 7 * 86400.0         # seconds an ended job stays on record

log = structlog.get_logger("broker.fetch")


@dataclass(slots=True)
class _Run:
    """A job in our hands: until when (monotonic seconds), and how often each instance was asked for."""

    job: Job
    hospital: Hospital
    stop: threading.Event
    until: float
    lost: threading.Event = field(default_factory=threading.Event)
    asked: Counter[str] = field(default_factory=Counter)

    def goes_on(self) -> bool:
        """Say whether the job is still ours and in time."""
        return not self.gone and time.monotonic() < self.until

    @property
    def gone(self) -> bool:
        return self.stop.is_set() or self.lost.is_set()


class FetchWorker:
    """Claims queued jobs and runs each in a thread, never more per hospital than its association limit.

    The limits hold for all fetch processes on one database together. `owner` names this one; `grace` is in seconds.
    """

    def __init__(
        self, database: Database, coord: Coord, mover: Mover, profile: Profile, owner: str = "", *, grace: float = _GRACE,
    ) -> None:
        self._database, self._coord, self._mover, self._profile = database, coord, mover, profile
        self._owner = owner or f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._grace = grace
        self._runs: dict[int, _Run] = {}
        self._threads: set[threading.Thread] = set()
        self._probed: set[str] = set()
        self._down: dict[str, float] = {}
        self._forget_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then cancel what runs and give it back to the queue."""
        with contextlib.closing(self._coord.subscribe("fetch")) as called:
            while not stop.is_set():
                try:
                    self._tick(stop)
                except Unavailable as error:
                    log.warning("cannot look for work", reason=str(error))
                called.get(_TICK)
        for thread in list(self._threads):
            thread.join(_PATIENCE)
        try:
            with self._database.write() as unit:
                fetches.give_back(unit, self._owner)
        except Unavailable as error:
            log.warning("jobs wait until they are reaped", reason=str(error))

    def _tick(self, stop: threading.Event) -> None:
        now = time.time()
        self._beat(now)
        with self._database.read() as unit:
            waiting, abandoned = fetches.queued(unit), fetches.abandoned(unit, now - _PATIENCE)
        if abandoned or now >= self._forget_at:
            self._clean(now)
        if waiting or abandoned:
            self._refuse(waiting, now)
            while run := self._claim(stop):
                self._start(run)

    def _beat(self, now: float) -> None:
        runs = dict(self._runs)
        if not runs:
            return
        with self._database.write() as unit:
            ours = fetches.beat(unit, self._owner, runs, now)
        for job_id in runs.keys() - ours:
            runs[job_id].lost.set()

    def _clean(self, now: float) -> None:
        self._forget_at = now + 3600
        with self._database.write() as unit:
            fetches.forget(unit, now - _KEPT)
            reaped = fetches.reap(unit, now - _PATIENCE)
        if reaped:
            log.warning("jobs of a dead process are taken over", jobs=reaped)

    def _refuse(self, waiting: Sequence[Job], now: float) -> None:
        """End at once what would only wait: waiters learn the reason instead."""
        refused = [(job, reason) for job in waiting if (reason := self._closed(job.hospital) or self._stale(job, now))]
        if not refused:
            return
        with self._database.write() as unit:
            for job, reason in sorted(refused, key=lambda item: (item[0].hospital, item[0].study_uid)):
                fetches.refuse(unit, job, reason, now)
                self._announce(unit, job)

    def _stale(self, job: Job, now: float) -> str:
        hospital = self._profile.hospital(job.hospital)
        over = hospital is not None and now - job.created_at > _STALE * hospital.limits.total_seconds
        return f"the PACS of {job.hospital} was busy for too long" if over else ""

    def _closed(self, key: str) -> str:
        """Say why this hospital is not asked now; empty when it may be."""
        hospital = self._profile.hospital(key)
        if hospital is None or not hospital.port:
            return f"hospital {key} has no PACS that can be asked"
        if not is_open(hospital.limits.hours, datetime.now(datetime.strptime(self._profile.region.timezone, "%z").tzinfo)):
            return f"the PACS of {key} may be asked only between {hospital.limits.hours}"
        if time.monotonic() < self._down.get(key, 0.0):
            return f"the PACS of {key} did not answer just now"
        return ""

    def _claim(self, stop: threading.Event) -> _Run | None:
        limits = {
            hospital.key: hospital.limits.associations for hospital in self._profile.hospitals
            if hospital.key not in self._probed and not self._closed(hospital.key)}
        with self._database.write() as unit:
            job = fetches.claim(unit, self._owner, limits, time.time())
        hospital = self._profile.hospital(job.hospital) if job else None
        if job is None or hospital is None:
            return None
        return _Run(job, hospital, stop, time.monotonic() + hospital.limits.total_seconds)

    def _start(self, run: _Run) -> None:
        thread = threading.Thread(target=self._work, args=(run,), name=f"fetch-{run.job.id}", daemon=True)
        self._runs[run.job.id] = run
        self._threads.add(thread)
        thread.start()

    def _work(self, run: _Run) -> None:
        try:
            if self._fetch(run) is not None:
                self._probe(run)
        except Unavailable as error:
            # Only the database gets here. Without our beats the job is reaped and run again.
            log.warning("job given up", job=run.job.id, reason=str(error))
        except Exception:
            log.exception("job broken", job=run.job.id)     # this thread's edge: the waiters must hear that nothing comes
            self._give_up(run)
        finally:
            self._runs.pop(run.job.id, None)
            self._threads.discard(threading.current_thread())
        self._coord.publish("fetch", {"job": None})

    def _fetch(self, run: _Run) -> Unavailable | None:
        """Ask until everything landed or was asked for twice, then end the job. Give the failure that ended it early."""
        failed: Unavailable | None = None
        last = ""
        while True:
            with self._database.write() as unit:
                # Inside the flight's lock: what joined until now is asked for, what joins later finds the job ended.
                fetches.alone(unit, run.job.hospital, run.job.study_uid)
                missing = fetches.missing(unit, run.job.id)
                todo = [want for want in missing if run.asked[want.sop_uid] < _ATTEMPTS]
                if missing and run.gone:
                    return None
                if failed is not None or not todo or not run.goes_on():
                    fetches.finish(unit, run.job, self._verdict(run, missing, last), time.time())
                    self._announce(unit, run.job)
                    return failed
            failed = self._ask(run, todo)
            if failed is not None:
                last = str(failed)
                if self._count_missing(run) < len(missing):
                    failed = None           # it broke on the way: the rest is worth another try

    def _give_up(self, run: _Run) -> None:
        with contextlib.suppress(Unavailable), self._database.write() as unit:
            fetches.alone(unit, run.job.hospital, run.job.study_uid)
            fetches.finish(unit, run.job, "an error of the broker itself", time.time())
            self._announce(unit, run.job)

    def _verdict(self, run: _Run, missing: Sequence[Wanted], last: str) -> str:
        """Say why a job failed; empty when nothing is missing."""
        if not missing:
            return ""
        if last:
            return f"the PACS of {run.hospital.key} failed: {last}"
        if not run.goes_on():
            return f"the PACS of {run.hospital.key} was not done within {run.hospital.limits.total_seconds:.0f} seconds"
        return f"the PACS of {run.hospital.key} did not send {len(missing)} of the instances"

    def _ask(self, run: _Run, wanted: Sequence[Wanted]) -> Unavailable | None:
        """Retrieve once; return when nothing more lands. Give the failure of the PACS, if any."""
        failed: Unavailable | None = None
        for want, sop_uids in self._plan(run, wanted):
            if not run.goes_on():
                break
            run.asked.update(sop_uids)
            try:
                self._retrieve(run, want)
            except Unavailable as error:
                log.warning("retrieve failed", job=run.job.id, hospital=run.hospital.key, reason=str(error))
                failed = error
                break
        self._settle(run, min(self._grace, _GRACE_FAILED) if failed else self._grace)
        return failed

    def _retrieve(self, run: _Run, want: Want) -> None:
        """Retrieve; a PACS that cannot take a list of instances (pynetdicom's qrscp) is asked for their series instead."""
        missing = self._count_missing(run)
        try:
            self._mover.retrieve(run.hospital, want, run.goes_on)
        except Unavailable as error:
            if len(want.sop_uids) < 2:
                raise
            self._settle(run, min(self._grace, _GRACE_FAILED))
            if not run.goes_on() or self._count_missing(run) < missing:
                raise
            log.info("a list of instances failed, their series is asked for", job=run.job.id, reason=str(error))
            self._mover.retrieve(run.hospital, replace(want, sop_uids=(), sop_classes=()), run.goes_on)

    def _plan(self, run: _Run, wanted: Sequence[Wanted]) -> Iterator[tuple[Want, Sequence[str]]]:
        """Give the requests to make, each with the instances it is for. One names one series (PS3.4 C.4.2.2.1)."""
        study_uid, sop_uids = run.job.study_uid, [want.sop_uid for want in wanted]
        listed = self._listed(run)
        if not run.asked and listed and listed.keys() <= set(sop_uids):
            yield Want(study_uid, sop_classes=_classes(listed, sop_uids)), sop_uids
            return
        series: dict[str, list[str]] = {}
        for want in wanted:
            series.setdefault(want.series_uid, []).append(want.sop_uid)
        for series_uid, uids in series.items():
            for start in range(0, len(uids), _UIDS):
                batch = uids[start:start + _UIDS]
                yield Want(study_uid, (series_uid,), tuple(batch), _classes(listed, batch)), batch

    def _listed(self, run: _Run) -> dict[str, str]:
        """Give what the origin lists of the study: SOP class (may be empty) by SOP Instance UID."""
        with self._database.read() as unit:
            study = studies.study(unit, run.job.hospital, run.job.study_uid)
            return {sop: kind for _, sop, kind in studies.origin_catalogue(unit, study.id)} if study else {}

    def _settle(self, run: _Run, grace: float) -> None:
        """Return when all landed, or nothing did for `grace` seconds: rows follow their objects within a second."""
        before, until = -1, 0.0
        while not run.gone:
            left = self._count_missing(run)
            if left != before:
                before, until = left, time.monotonic() + grace
            if not left or time.monotonic() >= until:
                return
            run.stop.wait(_POLL)

    def _count_missing(self, run: _Run) -> int:
        with self._database.read() as unit:
            return len(fetches.missing(unit, run.job.id))

    def _announce(self, unit: Unit, job: Job) -> None:
        unit.after_commit(lambda: self._coord.publish("fetch_done", {"job": job.id}))

    def _probe(self, run: _Run) -> None:
        """After a retrieve that brought nothing: ask whether the PACS is there at all, and leave it alone when not.

        The waiters have their answer already; the hospital's other jobs wait for this one.
        """
        key = run.hospital.key
        self._probed.add(key)
        try:
            if not run.stop.is_set():
                self._mover.echo(run.hospital)
        except Unavailable as error:
            log.warning("a PACS is down", hospital=key, reason=str(error))
            self._down[key] = time.monotonic() + run.hospital.limits.back_off_seconds
        finally:
            self._probed.discard(key)


def _classes(listed: Mapping[str, str], sop_uids: Iterable[str]) -> tuple[str, ...]:
    """Give the SOP classes of these instances, sorted; none when that of one is not known."""
    classes = {listed.get(sop_uid, "") for sop_uid in sop_uids}
    return tuple(sorted(classes)) if all(is_uid(uid) for uid in classes) else ()


def is_open(hours: str, now: datetime) -> bool:
    """Say whether `now` lies in hours like 08:00-18:00; 20:00-06:00 runs over midnight."""
    start, end = hours.split("-")
    clock = f"{now:%H:%M}"
    return start <= clock < end if start <= end else clock >= start or clock < end
