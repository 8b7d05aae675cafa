"""Which studies are packed, and when: everything that is due, each study by itself."""

import time
from collections.abc import Callable

from broker.archive.formats.sdicom import Progress
from broker.config.profile import Retention
from broker.db import Database
from broker.imaging.alone import Alone
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.evict import Evictor
from broker.imaging.archiving.pack import Packer
from broker.imaging.archiving.sweep import Sweeper
from broker.imaging.store import containers

_SWEEP_SECONDS = 86400.0


class Migrator:
    """Has due studies packed, leftovers swept and caches evicted. Safe to run in several processes at once."""

    def __init__(
        self, database: Database, packer: Packer, sweeper: Sweeper, evictor: Evictor, retention: Retention,
        *, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self.packer, self._sweeper, self._evictor = database, packer, sweeper, evictor
        self._retention, self._clock = retention, clock
        self._swept_at = 0.0
        self._packing = Alone(database, "pack", "a study was not archived")

    def due(self, now: float, limit: int = 1000) -> list[tuple[int, str]]:
        """Return (id, Study Instance UID) of the studies that the retention rules want packed, most urgent first."""
        with self._database.read() as unit:
            return containers.due(unit, self._retention, now, limit)

    def run_due(self, now: float, limit: int = 100, progress: Progress | None = None) -> int:
        """Finish what was begun, then pack up to `limit` studies that are due; return how many are archived.

        A study that fails is noted, stays readable where it is, and is tried again an hour later, then later still. Once
        a day leftovers are swept and the cache is evicted. `progress(done, total)` counts studies.
        """
        self._packing.begin()
        self.resume(now)
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            self._sweeper.run(now)
            self._evictor.run(now)
        due = self.due(now, limit + self._packing.waiting)
        found = [study_id for study_id, _ in due if not self._packing.waits(study_id, now)][:limit]
        archived_now = 0
        for done, study_id in enumerate(found, 1):
            archived_now += self._try(study_id, now) is Outcome.ARCHIVED
            if progress:
                progress(done, len(found))
        return archived_now

    def resume(self, now: float | None = None) -> None:
        """Finish migrations that a crash interrupted or that waited for their grace time; failures are logged."""
        at = self._clock() if now is None else now
        with self._database.read() as unit:
            found = containers.unfinished(unit, at - self._retention.grace_seconds)
        for study_id in found:
            if not self._packing.waits(study_id, at):
                self._try(study_id, at)

    def _try(self, study_id: int, now: float) -> Outcome | None:
        return self._packing.attempt(study_id, now, lambda: self.packer.migrate(study_id))
