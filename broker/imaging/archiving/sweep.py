"""What crashes left in both tiers is removed: unfinished files, and containers that no row names."""

import functools
import itertools
import time
from collections.abc import Callable, Collection, Iterator

import structlog

from broker.archive.sdfo import Sdfo
from broker.db import Database
from broker.imaging.alone import Alone
from broker.imaging.store import containers, damages, retained, studies
from broker.imaging.store.damages import WHOLE
from broker.imaging.store.retained import HOLD
from broker.model.errors import Unavailable

_UNFINISHED = 86400.0       # what is older and unfinished belongs to nobody
_BATCH = 500

log = structlog.get_logger("broker.imaging.archiving")


class Sweeper:
    """Removes leftovers. Safe to run in several processes at once."""

    def __init__(self, database: Database, sdfo: Sdfo, clock: Callable[[], float] = time.time) -> None:
        self._database, self._sdfo, self._clock = database, sdfo, clock
        self._sweeping = Alone(database, "sweep")

    def run(self, now: float) -> None:
        """Sweep; what fails is noted and tried again later."""
        self._sweeping.begin()
        self._sweeping.attempt("leftovers", now, self.sweep)

    def sweep(self, older_than: float = _UNFINISHED) -> int:
        """Remove what crashes left: unfinished files, and containers no row names; return how many.

        Such a container goes only when each of its images is safe elsewhere, and its study is not held. Else it may be all
        that is left of a study whose rows were lost, and is kept and logged. Age is judged by the clock of the store that
        keeps it; what is of a study that is being packed is young, whatever that clock says.
        """
        with self._database.read() as unit:
            writing = containers.being_written(unit)
        removed, now = self._sdfo.sweep(older_than, writing), self._clock()
        return removed + sum(
            bool(self._sweeping.attempt(path, now, functools.partial(self._sweep_container, path)))
            for path in self._unnamed(older_than, writing))

    def _unnamed(self, older_than: float, writing: Collection[str]) -> Iterator[str]:
        """Return the containers no row names, but for those of studies that are packed just now."""
        found = self._sdfo.containers(older_than)
        while batch := dict(itertools.islice(found, _BATCH)):
            with self._database.read() as unit:
                named = containers.paths_of(unit, set(batch.values()))
            yield from (path for path, study_uid in batch.items() if path not in named and study_uid not in writing)

    def _sweep_container(self, path: str) -> bool:
        safe = dict[str, str]()
        try:
            index = self._sdfo.index(path)
            with self._database.read() as unit:
                holders = containers.studies_with_uid(unit, index.study_uid)
                if any(retained.kept(unit, study_id, HOLD) for study_id in holders):
                    return False
            for study_id in holders:
                safe.update(self._safe(study_id))
        except Unavailable as error:
            log.warning("a container without a row cannot be judged", container=path, reason=str(error))
            return False
        lost = [entry for entry in index.entries.values() if safe.get(entry.sop_uid) != entry.sha256]
        if lost:
            log.warning("a container without a row holds images nobody else has", container=path, images=len(lost))
            return False
        self._sdfo.drop_container(path)
        return True

    def _safe(self, study_id: int) -> dict[str, str]:
        with self._database.read() as unit:
            rows, container = studies.instances(unit, study_id), containers.current(unit, study_id)
            bad = damages.damaged(unit, [study_id]).get(container.path, set()) if container else set()
        safe = {row.sop_uid: row.online.sha256 for row in rows}
        if container:
            entries = self._sdfo.index(container.path, fresh=WHOLE in bad).entries.values()
            safe.update({entry.sop_uid: entry.sha256 for entry in entries if entry.sop_uid not in bad})
        return safe
