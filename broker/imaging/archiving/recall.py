"""Packed studies come back to the online tier for a while: when somebody asks, when they are pinned, when they are read often.

What comes back is a copy of the container, compared with its SHA-256 while it is written. The container stays the master: late
objects, conflicts and new versions are its affair alone, and a copy goes without anything being written elsewhere.
"""

import contextlib
import functools
import threading
from collections.abc import Callable

import structlog

from broker.archive.formats.sdicom import Progress
from broker.archive.sdfo import Sdfo, study_of
from broker.config.profile import Retention
from broker.coord.base import Coord
from broker.db import Database
from broker.imaging.alone import Alone
from broker.imaging.archiving.lease import seconds_for
from broker.imaging.archiving.pace import Stopped
from broker.imaging.store import containers, recalls
from broker.imaging.store.machines import WANTED
from broker.model.errors import Unavailable

_DAY = 86400.0

log = structlog.get_logger("broker.imaging.archiving")


class Recaller:
    """Makes copies and lets them go. Safe to run in several processes at once; `stop` ends what is under way."""

    def __init__(
        self, database: Database, sdfo: Sdfo, retention: Retention, coord: Coord, *, stop: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self._database, self._sdfo, self._coord, self._stop, self._clock = database, sdfo, coord, stop, clock
        self._retention = retention
        self._recalling = Alone(database, "recall", "a study was not recalled")

    def run(self, now: float) -> int:
        """Make the copies that are asked for, pinned or due by rule; return how many were made.

        A study that fails is noted and tried again an hour later, then later still.
        """
        self._recalling.begin()
        self._ask(now)
        with self._database.read() as unit:
            found = [row.study_id for row in recalls.wanted(unit)]
        made = 0
        with contextlib.suppress(Stopped):
            for study_id in found:
                if not self._recalling.waits(study_id, now):
                    made += bool(self._recalling.attempt(study_id, now, functools.partial(self._copy, study_id)))
        return made

    def recall(self, study_id: int, days: int, progress: Progress | None = None) -> int:
        """Have a packed study near for so many days; return the bytes of its copy, 0 when it is not packed.

        `progress(done, total)` counts bytes. Raise `Unavailable` when a store fails or another process works on it,
        `Damaged` when its container is not what was packed.
        """
        now = self._clock()
        with self._database.write() as unit:
            if containers.current(unit, study_id) is None:
                return 0
            recalls.ask(unit, study_id, recalls.ASKED, now, now + days * _DAY)
        size = self._copy(study_id, progress)
        if size is None:
            raise Unavailable("the study, which another process recalls,")
        return size

    def clear_up(self, now: float) -> None:
        """Let go what is over; what fails is noted and tried again later."""
        self._recalling.begin()
        self._recalling.attempt("copies", now, lambda: self.expire(now))

    def expire(self, now: float) -> int:
        """Let copies go whose time is over, and files that no row names; return how many."""
        there = self._sdfo.recalled()
        with self._database.write() as unit:
            recalls.lost(unit, there)
            rows = recalls.listed(unit)
            found = recalls.expired(unit, now, self._retention.recall_days)
        coming = {row.study_uid for row in rows if row.state == WANTED}     # the row of a copy follows its file
        for path in set(there) - {row.path for row in rows}:
            if study_of(path) not in coming:
                self._sdfo.forget_recalled(path)
        return sum(self._end(row.study_id) for row in found)

    def make_room(self, enough: Callable[[], bool]) -> int:
        """Let copies go, the longest unused first, until there is enough room; return how many."""
        with self._database.read() as unit:
            found = recalls.least_used(unit)
        gone = 0
        for row in found:
            if enough():
                break
            gone += self._end(row.study_id)
        return gone

    def _ask(self, now: float) -> None:
        until = now + self._retention.recall_days * _DAY
        with self._database.read() as unit:
            pinned = recalls.pinned(unit)
        if not pinned and not self._retention.recall_reads:
            return
        with self._database.write() as unit:
            found = dict.fromkeys(pinned, recalls.PINNED)
            if self._retention.recall_reads and self._has_room():
                found |= dict.fromkeys(recalls.often_read(unit, self._retention, now), recalls.READS)
            for study_id, why in sorted(found.items()):
                recalls.ask(unit, study_id, why, now, until)

    def _has_room(self) -> bool:
        space = self._sdfo.online.space()
        return space.free * 100.0 >= space.total * self._retention.high_water

    def _copy(self, study_id: int, progress: Progress | None = None) -> int | None:
        """Return the bytes of the copy of a study's container, made now unless it is there; 0 when it has none any more.

        None when another process is at it.
        """
        with self._database.read() as unit:
            container = containers.current(unit, study_id)
        if container is None:
            self._end(study_id)
            return 0
        with self._coord.lock(f"recall:{study_id}", seconds_for(container.size)) as held:
            if not held:
                return None
            if self._is_near(study_id, container.path) and self._sdfo.is_recalled(container.path):
                return container.size
            size = self._sdfo.recall(container.path, container.sha256, self._or_stop(progress))
            with self._database.write() as unit:
                noted = recalls.copied(unit, study_id, container.path, size, self._clock())
            if not noted and not self._is_near(study_id, container.path):
                self._sdfo.forget_recalled(container.path)      # packed again, or settled, meanwhile
                return 0
        log.info("a study was recalled", study=study_id, bytes=size)
        return size

    def _is_near(self, study_id: int, path: str) -> bool:
        with self._database.read() as unit:
            return recalls.path_of(unit, study_id) == path

    def _or_stop(self, progress: Progress | None) -> Progress:
        def told(done: int, total: int) -> None:
            if self._stop.is_set():
                raise Stopped
            if progress:
                progress(done, total)
        return told

    def _end(self, study_id: int) -> bool:
        """Let a copy go, the row first; False when another process is at it."""
        with self._coord.lock(f"recall:{study_id}", seconds_for(0)) as held:
            if held:
                with self._database.write() as unit:
                    path = recalls.over(unit, study_id)
                if path:
                    self._sdfo.forget_recalled(path)
            return held
