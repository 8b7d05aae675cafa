"""Gathers pictures from wherever they are: the only reader of SDFO for retrieves, and how a retrieve waits for a fetch.

What is online or packed is opened at once. For the rest one job per hospital and study is opened or joined; a fetch
process runs it (`fetch_worker`), the receiver announces what landed. Announcements only save time: the waiter also
looks into SQL every second.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Pictures, Sdfo
from broker.config.profile import Profile
from broker.coord.base import Coord, Subscription
from broker.db import Database
from broker.files.sources import CHUNK, ByteSource
from broker.imaging.locate import DAMAGED, Located, Place, locate, online
from broker.imaging.store import fetches, recalls, studies
from broker.imaging.store.locations import Holding
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import Archived, InstanceRef, Origin
from broker.model.ports import Unit

_LOOK = 1.0                 # seconds between two looks into SQL
_MARGIN = 5.0               # seconds a waiter gives a job beyond the hospital's own deadline
_TOUCH = 60.0               # seconds within which a further retrieve of a study is not noted again

NOT_KNOWN = "it is not known here under this study, series and source"    # why an instance is missing that nobody has

log = structlog.get_logger("broker.imaging")


@dataclass(frozen=True, slots=True)
class Found:
    """A picture that can be read now: its Part-10 bytes, the transfer syntax they are in, its patient's local id.

    `lies` orders the pictures of one answer as they lie in containers: read so, each container is read forward, once.
    """

    ref: InstanceRef
    source: ByteSource
    transfer_syntax: str
    patient: PatientId
    lies: tuple[str, int]


@dataclass(slots=True)
class RetrieveResult:
    """What became of each instance asked for: found, or missing with a reason for people. Together they are all of them.

    `impossible` are those of the missing ones that the PACS was asked for and cannot give; others may come next time.
    `patients` tells whose an instance is (the local id) of those that are on record here with a Patient ID.
    """

    found: dict[InstanceRef, Found] = field(default_factory=dict)
    missing: dict[InstanceRef, str] = field(default_factory=dict)
    impossible: set[InstanceRef] = field(default_factory=set)
    patients: dict[InstanceRef, PatientId] = field(default_factory=dict)


@dataclass(slots=True)
class _Flight:
    """A job we wait for, until when (monotonic seconds), what is still missing of it and what was announced."""

    hospital: str
    until: float
    waiting: set[InstanceRef]
    announced: set[str] = field(default_factory=set)

    @property
    def seems_complete(self) -> bool:
        return all(ref.sop_uid in self.announced for ref in self.waiting)


class Retriever:
    """Gathers pictures. Safe to share between threads."""

    def __init__(self, database: Database, coord: Coord, sdfo: Sdfo, profile: Profile) -> None:
        self._database, self._coord, self._sdfo, self._profile = database, coord, sdfo, profile

    def retrieve(self, refs: Iterable[InstanceRef], *, deadline: float | None = None) -> RetrieveResult:
        """Return these instances, asking their hospital's PACS where nothing nearer has them; each is found or missing.

        Waits at most `deadline` seconds, and at most the hospital's `total_seconds` and a little. A partial result is
        a result; `Unavailable` is raised only when the database is down.
        """
        gathered = RetrieveResult()
        until = time.monotonic() + deadline if deadline is not None else float("inf")
        located = self._locate(refs)
        used = {place.holding for places in located.places.values() for place in places}
        gathered.patients = {
            ref: places[0].holding.patient for ref, places in located.places.items()
            if places and places[0].holding.patient.value}
        rest = self._open_all(located, gathered)
        gathered.patients |= {ref: holding.patient for ref, holding in located.damaged.items() if holding.patient.value}
        if rest:
            self._wait(rest, until, gathered)
            gathered.missing |= {
                ref: f"{DAMAGED}, and {why}" for ref, why in gathered.missing.items() if ref in located.damaged and ref in rest}
        self._touch(used)
        return gathered

    def reopen(self, ref: InstanceRef) -> ByteSource:
        """Return an instance again that moved between the tiers since it was gathered. Raise `OSError` when it is gone."""
        found: dict[InstanceRef, Found] = {}
        try:
            for place in self._locate([ref]).places[ref]:
                if not isinstance(place.location, Origin) and self._open(ref, place, found, self._sdfo.reading()):
                    return found[ref].source
        except Unavailable as error:
            raise OSError(str(error)) from error
        raise FileNotFoundError("a picture is gone from every tier")

    def _locate(self, refs: Iterable[InstanceRef]) -> Located:
        with self._database.read() as unit:
            located = locate(unit, refs, self._sdfo, self._profile)
        for path in located.spoilt:
            self._sdfo.noticed(Archived(path, 0, 0, ""))
        return located

    def _open_all(self, located: Located, gathered: RetrieveResult) -> dict[InstanceRef, Origin]:
        """Open what has a file; return what only an origin has. What could not be opened may just have moved: once more."""
        rest: dict[InstanceRef, Origin] = {}
        pictures = self._sdfo.reading()
        failed = self._open_each(located, gathered, rest, pictures)
        if failed:
            again = self._locate(failed)
            failed = self._open_each(again, gathered, rest, pictures)
            located.damaged |= again.damaged
        for ref in failed:
            gathered.missing[ref] = "it is on record, but its store cannot give it now"
        return rest

    def _open_each(
        self, located: Located, gathered: RetrieveResult, rest: dict[InstanceRef, Origin], pictures: Pictures,
    ) -> list[InstanceRef]:
        failed = []
        for ref, places in located.places.items():
            stored = [place for place in places if not isinstance(place.location, Origin)]
            if any(self._open(ref, place, gathered.found, pictures) for place in stored):
                continue
            origin = next((place.location for place in places if isinstance(place.location, Origin)), None)
            if not stored and origin is not None:
                rest[ref] = origin
            elif stored or ref.study_uid in located.unread:
                failed.append(ref)
            else:
                gathered.missing[ref] = located.refused.get(ref, NOT_KNOWN)
        return failed

    def _open(self, ref: InstanceRef, place: Place, found: dict[InstanceRef, Found], pictures: Pictures) -> bool:
        location = place.location
        assert not isinstance(location, Origin)
        try:
            source = pictures.open(location)
        except Unavailable as error:
            log.warning("a picture cannot be opened", study=ref.study_uid, sop=ref.sop_uid, reason=str(error))
            if isinstance(error, Damaged) and isinstance(location, Archived):
                self._sdfo.noticed(location)
            return False
        lies = (location.container, location.offset) if isinstance(location, Archived) else ("", 0)
        found[ref] = Found(ref, _Moving(self, ref, source), place.transfer_syntax, place.holding.patient, lies)
        return True

    def _wait(self, rest: dict[InstanceRef, Origin], until: float, gathered: RetrieveResult) -> None:
        # Listening begins before the jobs exist: what lands in between is heard.
        with contextlib.closing(self._coord.subscribe("landed", "fetch_done")) as heard:
            flights = self._join_jobs(rest, until)
            while flights:
                self._listen(heard, flights)
                self._look(flights, gathered)

    def _join_jobs(self, rest: dict[InstanceRef, Origin], until: float) -> dict[int, _Flight]:
        """Open or join the jobs; return them. What landed since it was located waits for no job (id 0)."""
        groups: dict[tuple[str, str], set[InstanceRef]] = {}
        for ref, origin in rest.items():
            groups.setdefault((origin.hospital, ref.study_uid), set()).add(ref)
        flights: dict[int, _Flight] = {}
        now = time.monotonic()
        with self._database.write() as unit:
            for (hospital, study_uid), refs in sorted(groups.items()):
                # Inside the flight's lock: either the job that brought them is still open, or its rows are seen here.
                fetches.alone(unit, hospital, study_uid)
                here = online(unit, refs, self._profile).places
                away = {ref for ref in refs if not here[ref]}
                if refs - away:
                    flights.setdefault(0, _Flight("", now, set())).waiting.update(refs - away)
                if away:
                    job_id = self._enqueue(unit, hospital, study_uid, away)
                    flights[job_id] = _Flight(hospital, min(until, now + self._patience(hospital)), away)
        return flights

    def _enqueue(self, unit: Unit, hospital: str, study_uid: str, refs: set[InstanceRef]) -> int:
        wants = sorted((ref.series_uid, ref.sop_uid) for ref in refs)
        job_id = fetches.enqueue(unit, hospital, study_uid, wants, time.time())
        unit.after_commit(lambda: self._coord.publish("fetch", {"job": job_id}))
        return job_id

    def _patience(self, hospital: str) -> float:
        found = self._profile.hospital(hospital)
        return (found.limits.total_seconds if found else 0.0) + _MARGIN

    @staticmethod
    def _listen(heard: Subscription, flights: dict[int, _Flight]) -> None:
        """Return when a look into SQL is worth it: something ended, seems complete, is over, or a second went by."""
        until = min(time.monotonic() + _LOOK, *(flight.until for flight in flights.values()))
        while not any(flight.seems_complete for flight in flights.values()):
            left = until - time.monotonic()
            message = heard.get(left) if left > 0 else None
            if message is None:
                return
            channel, body = message
            job_id, sop_uids = body.get("job"), body.get("sops")
            flight = flights.get(job_id) if isinstance(job_id, int) else None
            if flight is not None and channel == "fetch_done":
                return
            if flight is not None and isinstance(sop_uids, str):
                flight.announced.update(sop_uids.split("\\"))

    def _look(self, flights: dict[int, _Flight], gathered: RetrieveResult) -> None:
        with self._database.read() as unit:
            # First the jobs, then the rows: what a job that has ended brought is on record.
            jobs = {job_id: fetches.state(unit, job_id) for job_id in flights}
            reasons = {job_id: fetches.reasons(unit, job_id) for job_id in flights}
            located = online(unit, [ref for flight in flights.values() for ref in flight.waiting], self._profile)
        pictures = self._sdfo.reading()
        for job_id, flight in list(flights.items()):
            flight.announced.clear()
            for ref in list(flight.waiting):
                if any(self._open(ref, place, gathered.found, pictures) for place in located.places[ref]):
                    flight.waiting.discard(ref)
            reason = self._over(jobs[job_id], flight)
            impossible = {ref for ref in flight.waiting if ref.sop_uid in reasons[job_id]}
            gathered.impossible |= impossible
            gathered.missing |= {ref: reasons[job_id][ref.sop_uid] for ref in impossible}
            flight.waiting -= impossible
            if reason:
                gathered.missing.update(dict.fromkeys(flight.waiting, reason))
            if reason or not flight.waiting:
                del flights[job_id]

    @staticmethod
    def _over(job: fetches.Job | None, flight: _Flight) -> str:
        """Say why nothing more will come of a flight; empty while something may."""
        if job is None:
            return "its store cannot give it now"
        if job.state in {"done", "failed"}:
            return job.reason or f"the PACS of {flight.hospital} did not send it"
        if time.monotonic() >= flight.until:
            return (
                f"the PACS of {flight.hospital} was not asked in time: others came first, or no fetch process runs"
                if job.state == "queued" else f"the PACS of {flight.hospital} did not send it in time")
        return ""

    def _touch(self, used: set[Holding]) -> None:
        now = time.time()
        stale = [holding for holding in used if holding.used_at < now - _TOUCH]
        if stale:
            with self._database.write() as unit:
                for holding in sorted(stale, key=lambda one: one.id):
                    studies.touch(unit, holding.id, now)
                    if holding.tier == "archive" and self._profile.retention.recall_reads:
                        recalls.count_use(unit, holding.id, now)


@dataclass(frozen=True, slots=True)
class _Moving:
    """A picture that is found again when it was packed or copied elsewhere between gathering and reading."""

    fetch: Retriever
    ref: InstanceRef
    opened: ByteSource

    @property
    def size(self) -> int:
        """Size in bytes; the same in every tier."""
        return self.opened.size

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Return the bytes."""
        pieces = self.opened.chunks(length)
        try:
            first = next(pieces, b"")
        except FileNotFoundError:
            again = self.fetch.reopen(self.ref)
            if again.size != self.size:
                raise OSError("a picture has another size than before") from None
            yield from again.chunks(length)
            return
        yield first
        yield from pieces
