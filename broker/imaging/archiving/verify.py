"""Containers are read back in turn, at a set rate, and compared with their rows: what is damaged goes into quarantine.

A store that cannot be reached is not damage: the reading stops, and goes on later. A file that is not there is damage of the
whole container; when it is back, the next reading ends that. So is what a store that is well did not give time and again.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import structlog

from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Sdfo
from broker.config.profile import Retention
from broker.coord.base import Coord
from broker.db import Database
from broker.imaging.archiving.pace import Rate
from broker.imaging.damage import ROTTEN, Quarantine
from broker.imaging.store import damages, proofs, setbacks
from broker.imaging.store.damages import WHOLE
from broker.imaging.store.proofs import Kept
from broker.model.errors import Unavailable

_LOCK_SECONDS = 3600.0      # a container of the largest kind is read in that time
_TRIES = 4                  # attempts, in seven hours or more, after which what cannot be read is taken for damaged
_LOOK = 60.0                # seconds between two looks for work when there was none

log = structlog.get_logger("broker.imaging.archiving")


class Verdict(StrEnum):
    """What reading a container led to."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    UNREAD = "unread"           # its store is well and cannot give this file now
    REPLACED = "replaced"       # another container is its study's current one by now


@dataclass(frozen=True, slots=True)
class Verified:
    """One container that was read: `sop_uids` are its damaged pictures, `WHOLE` is itself; `cleared`: it was damaged before."""

    container: Kept
    verdict: Verdict
    reason: str = ""
    sop_uids: tuple[str, ...] = ()
    cleared: bool = False

    @property
    def images(self) -> list[str]:
        """The damaged pictures."""
        return [uid for uid in self.sop_uids if uid != WHOLE]


_Damaged = tuple[str, tuple[str, ...]]      # why, and which pictures


class Verifier:
    """Reads containers through. Safe in several processes at once."""

    def __init__(
        self, database: Database, sdfo: Sdfo, quarantine: Quarantine, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._sdfo, self._quarantine, self._clock = database, sdfo, quarantine, clock

    def todo(self, *, sample: int = 0, study_uid: str = "", days: float = 0.0) -> list[tuple[int, int]]:
        """Return (row id, size) of containers to read: so many by chance, those of a study, or all not read in `days`."""
        with self._database.read() as unit:
            if study_uid:
                return proofs.of_study(unit, study_uid)
            if sample:
                return proofs.sample(unit, sample)
            return proofs.todo(unit, self._clock() - days * 86400.0)

    def each(
        self, todo: Iterable[tuple[int, int]], rate: Rate, wait: Callable[[float], object] = time.sleep,
    ) -> Iterator[Verified]:
        """Read these containers, no faster than `rate`; what is no study's current one any more is left out.

        Raise `Unavailable` when their store cannot be reached.
        """
        for container_id, size in todo:
            with self._database.read() as unit:
                container = proofs.get(unit, container_id)
            if container is not None:
                wait(rate.take(0))
                rate.take(size)
                yield self.verify(container)

    def verify(self, container: Kept) -> Verified:
        """Read one container and note what came of it. Raise `Unavailable` when its store cannot be reached."""
        try:
            damaged = self._look(container)
        except Unavailable as error:
            if self._sdfo.store.health():
                raise
            damaged = self._unread(container, str(error))
            if damaged is None:
                return Verified(container, Verdict.UNREAD, str(error))
        else:
            with self._database.write() as unit:
                setbacks.clear(unit, "verify", container.path)
        if damaged:
            self._sdfo.check_mounted()
        reason, sop_uids = damaged or ("", ())
        with self._database.write() as unit:
            proofs.read(unit, container.id, self._clock())
            cleared = damages.mended(unit, container.path, self._clock(), but=sop_uids)
        if not damaged:
            return Verified(container, Verdict.WHOLE, cleared=bool(cleared))
        self._quarantine.enter(container.path, sop_uids, reason)
        with self._database.read() as unit:
            if proofs.get(unit, container.id) is None:      # it may be gone because it was replaced
                return Verified(container, Verdict.REPLACED)
        return Verified(container, Verdict.DAMAGED, reason, sop_uids)

    def _look(self, container: Kept) -> _Damaged | None:
        """Return why a container is damaged, and which pictures of it; None when it is whole."""
        reason = ""
        for _ in range(2):      # what went wrong on its way to us once is not what lies there
            reason = self._fault(container)
            if not reason:
                return None
            try:
                rotten = self._sdfo.rotten(container.path)
            except Damaged as error:
                return error.why, (WHOLE,)
            if rotten:
                return ROTTEN, tuple(rotten)
        return reason, (WHOLE,)

    def _fault(self, container: Kept) -> str:
        try:
            self._sdfo.prove(container.path, container.sha256, {})
        except Damaged as error:
            return error.why
        return ""

    def _unread(self, container: Kept, reason: str) -> _Damaged | None:
        """Note that a container could not be read; return what of it is taken for damaged when that was so too often."""
        with self._database.write() as unit:
            attempts = setbacks.note(unit, "verify", container.path, container.hospital, reason, self._clock()).attempts
        log.warning("a container cannot be verified now", container=container.path, reason=reason, attempts=attempts)
        if attempts < _TRIES:
            return None
        try:
            unread = self._sdfo.rotten(container.path, or_unread=True)
        except Unavailable:
            unread = []
        return f"its store did not give it in {attempts} attempts: {reason}", tuple(unread) or (WHOLE,)


class Scrub:
    """Reads every container once in the days that the region set, one at a call, no faster than it allows."""

    def __init__(
        self, database: Database, verifier: Verifier, coord: Coord, retention: Retention,
        clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._verifier, self._coord, self._clock = database, verifier, coord, clock
        self._seconds = retention.verify_days * 86400.0
        self._rate = Rate(retention.verify_bytes_per_second, monotonic)
        self._monotonic, self._look_at = monotonic, 0.0

    def run_due(self) -> Verified | None:
        """Read the container that was not read for longest, when one is due and may be read now; return what came of it.

        Raise `Unavailable` when its store cannot be reached.
        """
        if not self._seconds or self._rate.take(0) or self._monotonic() < self._look_at:
            return None
        now = self._clock()
        with self._coord.lock("verify", _LOCK_SECONDS) as held:     # one at a time in the whole region
            if not held:
                return None
            with self._database.read() as unit:
                waiting = {path for path, at in setbacks.known(unit, "verify").items() if at > now}
                container = proofs.next_due(unit, now - self._seconds, waiting)
            if container is None:
                self._look_at = self._monotonic() + _LOOK
                return None
            self._rate.take(container.size)
            return self._verifier.verify(container)
