"""The second half of a migration: after the grace time, and a second proof of the container, its online copies go."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum

import structlog

from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import ASIDE
from broker.db import Database
from broker.imaging.archiving.lease import Lease
from broker.imaging.store import containers, damages, retained, setbacks, studies
from broker.imaging.store.containers import Container, Subject
from broker.imaging.store.retained import HOLD

log = structlog.get_logger("broker.imaging.archiving")


class Outcome(StrEnum):
    """What became of one call of `migrate`."""

    ARCHIVED = "archived"       # the container is the only copy now
    WAITING = "waiting"         # packed and proven; online copies stay until the grace time is over
    CHANGED = "changed"         # objects came in the meantime; to be packed later
    NOTHING = "nothing"         # not complete, or nothing online
    BUSY = "busy"               # another process works on it
    HELD = "held"               # packed and proven; no copy of it may be removed


class Dropper:
    """Ends migrations: what a container holds twice over is removed elsewhere."""

    def __init__(self, database: Database, sdfo: Sdfo, grace_seconds: float, clock: Callable[[], float]) -> None:
        self._database, self._sdfo, self._grace_seconds, self._clock = database, sdfo, grace_seconds, clock

    def drop(self, study: Subject, lease: Lease) -> Outcome:
        """State dropping: when the grace time is over, prove the container once more, then remove the other copies.

        No file goes when `lease` is over, nor one of a study that is held.
        """
        with self._database.read() as unit:
            container, replaced = containers.current(unit, study.id), containers.retired(unit, study.id)
            held = retained.kept(unit, study.id, HOLD)
        if container is None:
            raise Damaged("a study in state dropping has none")
        if self._is_young(container):
            return Outcome.WAITING
        if held:
            return Outcome.HELD
        try:
            index = self._sdfo.unchanged(container.path, container.sha256)
        except Damaged:
            self._go_back(study, container, replaced[0] if replaced else None)
            raise
        proven = {entry.sop_uid: entry.sha256 for entry in index.entries.values()}
        with self._database.write() as unit:
            gone = containers.forget_online(unit, study.id, container, proven)
        if gone is None:
            return Outcome.CHANGED
        paths = [path for path in gone if not path.startswith(ASIDE)]     # that of a conflict is kept, whatever was decided
        files = [*paths, *self._without_row(study, proven, set(paths))]
        lease.check()
        self._sdfo.drop_online(files)
        for one in replaced:
            lease.check()
            self._sdfo.drop_container(one.path)
            with self._database.write() as unit:
                damages.mended(unit, one.path, self._clock())
                setbacks.clear(unit, "verify", one.path)
                containers.forget_container(unit, one.id)
        with self._database.write() as unit:
            studies.mark(unit, study.id, "dropped")
        return Outcome.ARCHIVED

    def _is_young(self, container: Container) -> bool:
        """Say whether the grace time runs. It begins anew for a container of a time to come: a clock was set back."""
        now = self._clock()
        if container.at > now:
            with self._database.write() as unit:
                containers.restamp(unit, container.id, now)
        return now < min(container.at, now) + self._grace_seconds

    def _without_row(self, study: Subject, proven: Mapping[str, str], gone: set[str]) -> list[str]:
        """Return the online files a crash left without a row, other than `gone`: only those that are safe elsewhere.

        The rest may be acknowledged objects whose rows are on their way.
        """
        with self._database.read() as unit:
            known = gone | studies.on_record(unit, study.hospital, study.study_uid)     # those of its other parts, too
        online, found = self._sdfo.online, []
        for path in online.of_study(study.hospital, study.study_uid):
            if path not in known:
                digest = online.sha256(path)
                if proven.get(path.rpartition("/")[2]) == digest or online.has_aside(path, digest):
                    found.append(path)
        return found

    def _go_back(self, study: Subject, bad: Container, old: Container | None) -> None:
        """The container does not hold what it should: return to the copies from before it, when all are there and good.

        Else it stays: a picture of it that is good may be the only one.
        """
        held: set[str] = set()
        if old:
            with suppress(Damaged):
                rotten = set(self._sdfo.rotten(old.path))
                held.update(self._sdfo.index(old.path).entries.keys() - rotten)
        with self._database.read() as unit:
            rows = studies.instances(unit, study.id)
        held.update(row.sop_uid for row in rows if self._sdfo.online.sha256(row.online.path) == row.online.sha256)
        with self._database.write() as unit:
            whole = len(held) >= bad.images and containers.undo_switch(unit, study.id, bad, old)
        log.error("a container is damaged", study=study.id, container=bad.id, rescued=whole)
        if whole:
            self._sdfo.drop_container(bad.path)
