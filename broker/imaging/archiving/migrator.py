"""Which studies are packed, and when: everything that is due, several at once, each by itself.

The worker keeps to the hours and rates of the region, except when the online disk runs full. An operator's run does not.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from broker.archive.sdfo import Sdfo
from broker.config.profile import Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.imaging.alone import Alone, why
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.evict import Evictor
from broker.imaging.archiving.pace import Pace, Stopped, Unhurried
from broker.imaging.archiving.pack import Packer
from broker.imaging.archiving.recall import Recaller
from broker.imaging.archiving.report import PINNED, Report, Tally, Watch
from broker.imaging.archiving.sweep import Sweeper
from broker.imaging.store import due as store
from broker.model.imaging import Due

_SWEEP_SECONDS = 86400.0
_RUN_SECONDS = 600.0        # then the worker looks again whether the disk runs full, and at what is to be swept

log = structlog.get_logger("broker.imaging.archiving")


class Migrator:
    """Has due studies packed, leftovers swept and caches evicted. Safe to run in several processes at once.

    `stop` ends what is under way, here and in `recaller`.
    """

    def __init__(
        self, database: Database, sdfo: Sdfo, profile: Profile, coord: Coord, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._sdfo = database, sdfo
        self.packer = Packer(database, sdfo, profile, coord, clock)
        self.sweeper, self.evictor = Sweeper(database, sdfo, clock), Evictor(database, sdfo, profile, clock)
        self._retention, self._clock = profile.retention, clock
        self.stop = threading.Event()
        self.pace = Pace(self._retention, profile.region.timezone, self.stop)
        self.recaller = Recaller(database, sdfo, self._retention, coord, stop=self.stop, clock=clock)
        self._swept_at = 0.0
        self._packing = Alone(database, "pack", "a study was not archived")

    def due(self, now: float, limit: int = 1000) -> list[Due]:
        """Return the studies that the retention rules want packed, most urgent first."""
        with self._database.read() as unit:
            return store.due(unit, self._retention, now, limit)

    def run_due(self, now: float, limit: int = 100) -> int:
        """Finish what was begun, then pack up to `limit` studies that are due; return how many are archived.

        A study that fails is noted, stays readable where it is, and is tried again an hour later, then later still. Once
        a day leftovers are swept and the cache is evicted. Returns early at the end of the hours, and after ten minutes; when
        `stop` is set studies under way are given up.
        """
        if not 0 <= now - self._swept_at < _SWEEP_SECONDS:      # a clock may have been set back
            self._swept_at = now
            self._clear_up(now)
        if self._is_short(self._retention.low_water):
            return self._make_room(now, limit)
        if not self.pace.is_open(now):
            return 0
        self._packing.begin()
        end = time.monotonic() + _RUN_SECONDS

        def go_on() -> bool:
            return time.monotonic() < end and self.pace.is_open(self._clock())

        self._work(self._ready(self._unfinished(now), now), now, self.pace, go_on=go_on)
        with self._database.read() as unit:
            due = store.due(unit, self._retention, now, limit + self._packing.waiting)
        return self._work(self._ready(due, now)[:limit], now, self.pace, go_on=go_on).packed

    def run_all(self, limit: int, watch: Watch) -> Report:
        """Finish what was begun and pack up to `limit` studies that are due now, as fast as it goes; return what was done.

        Those that failed before are tried, too.
        """
        now = self._clock()
        self._packing.begin()
        found = [*self._unfinished(now), *self.due(now, limit)]
        report = self._work(found, now, Unhurried(self.stop), watch)
        with self._database.read() as unit:
            report.skipped.update({PINNED: count} if (count := store.pinned(unit, self._retention, now)) else {})
        return report

    def resume(self, now: float | None = None) -> None:
        """Finish migrations that a crash interrupted or that waited for their grace time; failures are logged."""
        at = self._clock() if now is None else now
        self._work(self._ready(self._unfinished(at), at), at, self.pace)

    def _unfinished(self, now: float) -> list[Due]:
        with self._database.read() as unit:
            return store.unfinished(unit, now, self._retention.grace_seconds)

    def _ready(self, found: list[Due], now: float) -> list[Due]:
        return [one for one in found if not self._packing.waits(one.id, now)]

    def _clear_up(self, now: float) -> None:
        with self._database.write() as unit:
            mended = store.mend_times(unit, now)
        if mended:
            log.warning("studies had times to come: a clock was ahead", studies=mended)
        self.sweeper.run(now)
        self.evictor.run(now)
        self.recaller.clear_up(now)

    def _is_short(self, per_cent: float) -> bool:
        if not per_cent:
            return False
        space = self._sdfo.online.space()
        return space.free * 100.0 < space.total * per_cent

    def _make_room(self, now: float, limit: int) -> int:
        """Let recalled copies go, then pack the oldest, those that are due first, until so much is free as `high_water` says.

        Return how many are archived.
        """
        self.recaller.make_room(lambda: not self._is_short(self._retention.high_water))
        self._packing.begin()
        pace, archived = Unhurried(self.stop), 0
        with self._database.read() as unit:
            found = store.due(unit, self._retention, now, limit + self._packing.waiting, room=True)
        log.warning("the online disk runs full, the oldest studies are packed", studies=len(found))
        found = [*self._unfinished(now), *found]
        for start in range(0, len(found), self._retention.parallel):
            if not self._is_short(self._retention.high_water):
                break
            archived += self._work(self._ready(found[start:start + self._retention.parallel], now), now, pace).packed
        return archived

    def _work(
        self, found: list[Due], now: float, pace: Pace, watch: Watch = lambda *_: None, go_on: Callable[[], bool] = lambda: True,
    ) -> Report:
        """Take these studies as far into the archive as they can go, several at once, each by itself, while `go_on`."""
        tally = Tally(found, watch)
        try:
            with ThreadPoolExecutor(self._retention.parallel, "pack") as pool:
                try:
                    for _ in pool.map(lambda one: self._one(one, now, pace, tally, go_on), found):
                        pass        # what a thread raises is raised here, and those that were not begun are not begun
                except KeyboardInterrupt:
                    self.stop.set()
                    raise
        except Stopped:
            log.info("packing stops")
        return tally.report

    def _one(self, due: Due, now: float, pace: Pace, tally: Tally, go_on: Callable[[], bool]) -> None:
        if not go_on():
            return
        moved = 0

        def progress(done: int, total: int) -> None:
            nonlocal moved
            step = due.bytes * done // total - moved
            moved += step
            tally.moved(step)
            pace.moved(step)

        def pack() -> Outcome:
            try:
                return self.packer.migrate(due.id, progress)
            except Exception as error:
                tally.failed(due, why(error), moved)
                raise

        pace.study()
        outcome = self._packing.attempt(due.id, now, pack, due.hospital)
        if outcome is not None:
            tally.ended(due, outcome, moved)
