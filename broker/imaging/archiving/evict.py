"""Cached copies of what origins keep go when nobody has retrieved them for a while."""

import functools
import time
from collections.abc import Callable

from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import WHAT as ONLINE
from broker.config.profile import Profile
from broker.db import Database
from broker.files.durable import reachable
from broker.imaging.alone import Alone
from broker.imaging.store import containers, studies

_ROW_SECONDS = 600.0        # the row of a file follows it within a second, or when its store is back


class Evictor:
    """Drops cached objects. Safe to run in several processes at once."""

    def __init__(self, database: Database, sdfo: Sdfo, profile: Profile, clock: Callable[[], float] = time.time) -> None:
        self._database, self._sdfo, self._clock = database, sdfo, clock
        self._retention = profile.retention
        self._origins = [hospital.key for hospital in profile.hospitals if hospital.kind == "origin"]
        self._evicting = Alone(database, "evict")

    def run(self, now: float) -> None:
        """Evict; what fails is noted and tried again later."""
        self._evicting.begin()
        self._evicting.attempt("cache", now, lambda: self.evict(now))

    def evict(self, now: float) -> int:
        """Drop cached objects of origins that were not retrieved for `cache_days`; return how many.

        Only what the origin's catalogue lists and its PACS can be asked for again.
        """
        with self._database.read() as unit:
            begun = containers.evictions_begun(unit)
            found = containers.idle_cached(unit, self._origins, now - self._retention.cache_days * 86400.0)
        for study_id, hospital, study_uid in begun:
            go_on = functools.partial(self._go_on_evicting, study_id, hospital, study_uid)
            self._evicting.attempt(study_id, now, go_on, hospital)
        return sum(self._evicting.attempt(study_id, now, functools.partial(self._evict_one, study_id)) or 0 for study_id in found)

    def _evict_one(self, study_id: int) -> int:
        with self._database.write() as unit:
            paths = containers.begin_eviction(unit, study_id)
        self._drop_cached(study_id, paths)
        return len(paths)

    def _drop_cached(self, study_id: int, paths: list[str]) -> None:
        self._sdfo.drop_online(paths)
        with self._database.write() as unit:
            containers.finish_eviction(unit, study_id, set(paths))

    def _go_on_evicting(self, study_id: int, hospital: str, study_uid: str) -> None:
        """Finish an interrupted eviction, unless a file without a row is so young that its row may be on its way."""
        with self._database.read() as unit:
            known = studies.on_record(unit, hospital, study_uid)
        online = self._sdfo.online
        paths = [path for path in online.of_study(hospital, study_uid) if path not in known]
        with reachable(ONLINE):
            young = any(online.path(path).stat().st_mtime >= self._clock() - _ROW_SECONDS for path in paths)
        if not young:
            self._drop_cached(study_id, paths)
