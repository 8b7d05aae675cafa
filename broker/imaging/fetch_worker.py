"""Runs fetch jobs: the only caller of the Mover for pictures, and the holder of the hospitals' limits.

What a job asks for, and in which pieces when a request fails, is decided in `asking`. Completeness is counted from what
landed, never taken from a final status: a PACS may say success and send nothing. What cannot be had has its own reason
on record, which the waiters are told and later jobs know for the hospital's `back_off_seconds`.
"""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import structlog

from broker.config.hours import at_zone, is_open
from broker.config.ports import Mover
from broker.config.profile import Hospital, Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.imaging.asking import Asking, Ended, Listed, Request
from broker.imaging.store import fetches, studies
from broker.imaging.store.fetches import Job, Wanted
from broker.model.errors import Unavailable
from broker.model.ports import Retrieved, RetrieveFailed, Unit

_TICK = 1.0                 # seconds between two looks into SQL
_PATIENCE = 10.0            # seconds without a beat after which a job's owner counts as dead
_GRACE = 2.0                # seconds without a landing after which a final response is believed
_GRACE_FAILED = 0.5         # the same after a failure: nobody shall wait longer for a PACS that is down
_POLL = 0.1
_BREAKS = 3                 # times in a row a PACS that sent something may fall silent or away before it is given up
_STALE = 2.0                # times `total_seconds` in the queue, after which nobody waits any more
_KEPT = 7 * 86400.0         # seconds an ended job stays on record

log = structlog.get_logger("broker.fetch")


@dataclass(slots=True)
class _Run:
    """A job in our hands, and until when (monotonic seconds)."""

    job: Job
    hospital: Hospital
    stop: threading.Event
    until: float
    lost: threading.Event = field(default_factory=threading.Event)
    came: bool = False
    breaks: int = 0

    def broke(self, *, landed: bool) -> bool:
        """Note that the PACS fell silent or away; say whether the rest is worth another try."""
        self.breaks = 0 if landed else self.breaks + 1
        return self.came and self.breaks < _BREAKS

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
                except Exception:
                    log.exception("looking for work failed")    # this loop's edge: the jobs that run go on beating
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
        closed = {key: self._closed(key) for key in {job.hospital for job in waiting}}
        refused = [(job, reason) for job in waiting if (reason := closed[job.hospital] or self._stale(job, now))]
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
        if not is_open(hospital.limits.hours, at_zone(time.time(), self._profile.region.timezone)):
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
            if self._fetch(run):
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

    def _fetch(self, run: _Run) -> bool:
        """Ask until what can be had landed, then end the job. Return whether the PACS may be down."""
        asking = self._begin(run)
        failed: Unavailable | None = None
        last = ""
        while True:
            with self._database.write() as unit:
                # Inside the flight's lock: what joined until now is asked for, what joins later finds the job ended.
                fetches.alone(unit, run.job.hospital, run.job.study_uid)
                missing = fetches.missing(unit, run.job.id)
                if missing and run.gone:
                    return False
                requests = asking.more(missing) if failed is None and run.goes_on() else []
                fetches.will_not_come(unit, run.job.id, self._worded(run, asking.reasons))
                if not requests:
                    self._end(unit, run, asking, last if failed else "")
                    return failed is not None or asking.in_vain
            failed = self._ask(run, asking, requests)
            landed = len(self._missing(run)) < len(missing)
            run.came = run.came or landed
            if failed is not None:
                last = str(failed)
                if run.broke(landed=landed):
                    failed = None

    def _begin(self, run: _Run) -> Asking:
        """Return what there is to ask, without what an earlier job found to be impossible just now."""
        job, limits = run.job, run.hospital.limits
        with self._database.write() as unit:
            known = fetches.known_reasons(unit, job, time.time() - limits.back_off_seconds)
            fetches.will_not_come(unit, job.id, {sop_uid: fetches.AGAIN + why for sop_uid, why in known.items()})
            parts = studies.find_studies(unit, hospital=job.hospital, study_uid=job.study_uid)
            rows = [row for part in parts for row in studies.origin_catalogue(unit, part.id)]
        return Asking(job.study_uid, {sop: Listed(series, kind) for series, sop, kind in rows}, limits.requests)

    def _worded(self, run: _Run, reasons: dict[str, str]) -> dict[str, str]:
        return {sop_uid: f"the PACS of {run.hospital.key} {why}" for sop_uid, why in reasons.items()}

    def _end(self, unit: Unit, run: _Run, asking: Asking, last: str) -> None:
        missing, known = fetches.missing(unit, run.job.id), fetches.reasons(unit, run.job.id)
        verdict = self._verdict(run, missing, known, last)
        exhausted = [want.sop_uid for want in missing if asking.exhausted(want.sop_uid)]
        fetches.will_not_come(unit, run.job.id, dict.fromkeys(exhausted, verdict))
        fetches.finish(unit, run.job, verdict, time.time())
        self._announce(unit, run.job)

    def _give_up(self, run: _Run) -> None:
        with contextlib.suppress(Unavailable), self._database.write() as unit:
            fetches.alone(unit, run.job.hospital, run.job.study_uid)
            fetches.finish(unit, run.job, "an error of the broker itself", time.time())
            self._announce(unit, run.job)

    def _verdict(self, run: _Run, missing: Sequence[Wanted], known: dict[str, str], last: str) -> str:
        """Return why a job failed; empty when nothing is missing."""
        if not missing:
            return f"{len(known)} of the instances cannot be had: {next(iter(known.values()))}" if known else ""
        if last:
            return f"the PACS of {run.hospital.key} failed: {last}"
        if not run.goes_on():
            return f"the PACS of {run.hospital.key} was not done within {run.hospital.limits.total_seconds:.0f} seconds"
        return f"the PACS of {run.hospital.key} did not send {len(missing)} of the instances"

    def _ask(self, run: _Run, asking: Asking, requests: Sequence[Request]) -> Unavailable | None:
        """Carry out the requests; return when nothing more lands. Return the failure after which none was made, if any."""
        failed: Unavailable | None = None
        doubtful: set[str] = set()
        for number, request in enumerate(requests):
            if not run.goes_on():
                break
            try:
                one = self._retrieve(run, request)
            except Unavailable as error:
                log.warning("retrieve failed", job=run.job.id, hospital=run.hospital.key, reason=str(error))
                failed, one = error, Ended(request, Retrieved(words=str(error)), failed=True)
                asking.postpone(requests[number + 1:])
            asking.ended(one)
            doubtful |= one.doubtful
            if failed is not None:
                break
        self._settle(run, doubtful)
        return failed

    def _retrieve(self, run: _Run, request: Request) -> Ended:
        """Ask once. What was asked for before goes by the hospital's next route, where it has several."""
        routes = run.hospital.routes
        turn = request.want.attempt % len(routes)
        hospital = run.hospital.model_copy(update={"routes": (*routes[turn:], *routes[:turn])}) if turn else run.hospital
        try:
            return Ended(request, self._mover.retrieve(hospital, request.want, run.goes_on))
        except RetrieveFailed as error:
            log.info("a part of a study could not be had", job=run.job.id, hospital=run.hospital.key,
                     instances=len(request.sop_uids), reason=str(error))
            return Ended(request, replace(error.retrieved, words=error.retrieved.words or str(error)), failed=True)

    def _settle(self, run: _Run, doubtful: Collection[str]) -> None:
        """Return when all landed, or nothing did for a while: rows follow their objects within a second.

        The while is shorter where nothing is left that the PACS may have sent.
        """
        before, until = -1, 0.0
        while not run.gone:
            left = self._missing(run)
            if len(left) != before:
                grace = self._grace if left & set(doubtful) else min(self._grace, _GRACE_FAILED)
                before, until = len(left), time.monotonic() + grace
            if not left or time.monotonic() >= until:
                return
            run.stop.wait(_POLL)

    def _missing(self, run: _Run) -> set[str]:
        with self._database.read() as unit:
            return {want.sop_uid for want in fetches.missing(unit, run.job.id)}

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
