"""Rows of packed studies from their containers alone: what is left to do when the database is lost."""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog

from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Sdfo
from broker.config.profile import Profile
from broker.db import Database
from broker.imaging.archiving.told import Told, told
from broker.imaging.store import rebuilt
from broker.model.ids import PatientId
from broker.model.ports import Unit

_READERS = 4            # tails of containers that are read at once: a cluster answers several at a time
_STUDIES = 200          # entered in one transaction

Registered = Callable[[Unit, Collection[str]], Collection[str]]
"""Says which of these entryUUIDs are in our own registry and approved."""

log = structlog.get_logger("broker.imaging.archiving")


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild came to.

    `known` studies had a container already. `damaged` and `unused` are containers with the reason: those that cannot be read, and
    those that hold what the newest one of their study does not; nothing is done with either.
    """

    containers: int = 0
    studies: int = 0
    images: int = 0
    bytes: int = 0
    known: int = 0
    retired: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)


Watch = Callable[[Rebuilt], None]


class Rebuilder:
    """Fills rows from containers. May be broken off and run again, beside a broker that takes pictures in."""

    def __init__(
        self, database: Database, sdfo: Sdfo, profile: Profile, registered: Registered = lambda _, __: (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._sdfo, self._profile = database, sdfo, profile
        self._registered, self._clock = registered, clock

    def run(self, watch: Watch = lambda _: None) -> Rebuilt:
        """Enter every study that has a container and no row of one. `watch` is told after each transaction.

        Raise `Unavailable` when the store or the database is away: what was entered stays, and the next run goes on.
        """
        found = Rebuilt()
        with ThreadPoolExecutor(_READERS, "rebuild") as readers:
            for batch in self._batches(readers, found):
                with self._database.write() as unit:
                    self._enter(unit, batch, found)
                watch(found)
        return found

    def _batches(self, readers: ThreadPoolExecutor, found: Rebuilt) -> Iterator[list[list[Told]]]:
        """Return studies with all their containers, the newest first. Those of one UID are in one folder, side by side."""
        folders = itertools.groupby(self._sdfo.containers(), key=lambda one: one[0].partition("/")[0])
        paths = (path for _, folder in folders for path, _ in sorted(folder))
        same_uid = itertools.groupby(self._read(readers, paths, found), key=lambda one: one.study_uid)
        studies = itertools.chain.from_iterable(_divided(list(several)) for _, several in same_uid)
        while batch := list(itertools.islice(studies, _STUDIES)):
            yield batch

    def _read(self, readers: ThreadPoolExecutor, paths: Iterable[str], found: Rebuilt) -> Iterator[Told]:
        while some := list(itertools.islice(paths, _STUDIES)):
            for path, one in zip(some, readers.map(self._told, some), strict=True):
                found.containers += 1
                if isinstance(one, Damaged):
                    found.damaged[path] = str(one)
                    log.warning("a container cannot be read", container=path, reason=str(one))
                else:
                    yield one

    def _told(self, path: str) -> Told | Damaged:
        try:
            return told(self._sdfo.survey(path))
        except Damaged as error:
            return error

    def _enter(self, unit: Unit, batch: list[list[Told]], found: Rebuilt) -> None:
        now = self._clock()
        named = [record["entry_uuid"] for (newest, *_) in batch if (record := newest.publication)]
        registered = set(self._registered(unit, named)) if named else set()
        for newest, *others in batch:
            older = [one for one in others if newest.replaces(one)]
            study_id = rebuilt.enter(unit, newest, older, now)
            if study_id is None:
                found.known += 1
                found.unused.update(_left(rebuilt.named(unit, newest), [newest, *others]))
                continue
            found.unused.update((one.path, "it holds images that the newest one lacks") for one in others if one not in older)
            found.studies += 1
            found.images += len(newest.images)
            found.bytes += newest.size
            found.retired += len(older)
            rebuilt.publish(
                unit, study_id, newest, now, wanted=self._wanted(newest),
                registered=bool(newest.publication) and (newest.publication or {})["entry_uuid"] in registered)

    def _wanted(self, newest: Told) -> bool:
        """Say whether a study is to be published of which no container tells how it was."""
        hospital = self._profile.hospital(newest.hospital)
        published = newest.publication is None or bool(newest.publication)
        return published and hospital is not None and (hospital.kind != "origin" or bool(newest.part))


def _left(named: Collection[str] | None, found: list[Told]) -> Iterator[tuple[str, str]]:
    """Return which containers of a study that was known are not reached by its rows, and why; `named` as `rebuilt.named`."""
    if named is None:
        yield from ((one.path, "its study is being packed: run it again") for one in found)
        return
    reached = [one for one in found if one.path in named]
    for one in found:
        if not any(other.replaces(one) for other in reached):
            yield one.path, "its study has another container, which lacks images of it"


def _divided(found: list[Told]) -> list[list[Told]]:
    """Divide containers of one UID by hospital and part, each the newest first.

    One that does not tell its part is of the part that has its patient; without one, of its patient's.
    """
    groups: dict[tuple[str, int | PatientId], list[Told]] = {}
    parts = {(one.hospital, one.patient): one.part for one in found if one.part is not None}
    for one in found:
        part = parts.get((one.hospital, one.patient)) if one.part is None else one.part
        groups.setdefault((one.hospital, one.patient if part is None else part), []).append(one)
    return [sorted(several, key=lambda one: one.age, reverse=True) for several in groups.values()]
