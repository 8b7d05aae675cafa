"""From the online tier to S-DICOM: the migration of a study, safe at every step.

    complete   claim                                                           -> packing
    packing    write a container, read it back and compare, switch the rows    -> dropping
    dropping   after the grace time read it back again, remove instance rows,
               then online files, then the container a new version replaced    -> complete

A crash leaves a state, and the next run goes on from it. A file counts for nothing until a row names it; rows that a
reader may follow are removed before their files. Objects that come late make a new version of the container.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum

import structlog

from broker.archive.formats.sdicom import Entry, PackImage, Progress
from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Packed, Pictures, Sdfo, archived
from broker.archive.tiers.base import WHAT as ARCHIVE
from broker.archive.tiers.online import ASIDE, HEAD
from broker.archive.tiers.online import WHAT as ONLINE
from broker.config.profile import Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.files.durable import reachable
from broker.imaging import header
from broker.imaging.alone import Alone
from broker.imaging.store import containers, recording, studies
from broker.imaging.store.containers import Container, Subject, Version
from broker.imaging.store.machines import COMPLETE, DROPPING, MOVED, RECEIVING
from broker.imaging.store.studies import Instance
from broker.model.errors import Rejected, Unavailable
from broker.model.imaging import Archived, Online, StoredObject
from broker.wire import tags

_LOCK_SECONDS = 3600.0      # a study of the largest kind is packed and read twice in that time
_SWEEP_SECONDS = 86400.0
_ROW_SECONDS = 600.0        # the row of a file follows it within a second, or when its store is back
_UNFINISHED = 86400.0       # what is older and unfinished belongs to nobody
_BATCH = 500
_INSTANCE_NUMBER = tags.TAGS["InstanceNumber"]

log = structlog.get_logger("broker.imaging.migrate")


class Outcome(StrEnum):
    """What became of one call of `migrate`."""

    ARCHIVED = "archived"       # the container is the only copy now
    WAITING = "waiting"         # packed and proven; online copies stay until the grace time is over
    CHANGED = "changed"         # objects came in the meantime; to be packed later
    NOTHING = "nothing"         # not complete, or nothing online
    BUSY = "busy"               # another process works on it


class Migrator:
    """Moves studies into the archive. Safe to run in several processes at once."""

    def __init__(
        self, database: Database, sdfo: Sdfo, profile: Profile, coord: Coord, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._sdfo, self._coord, self._clock = database, sdfo, coord, clock
        self._profile, self._retention = profile, profile.retention
        self._origins = [hospital.key for hospital in profile.hospitals if hospital.kind == "origin"]
        self._swept_at = 0.0
        self._packing = Alone(database, "pack", "a study was not archived")
        self._evicting, self._sweeping = Alone(database, "evict"), Alone(database, "sweep")

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
            self._sweeping.begin()
            self._sweeping.attempt("leftovers", now, self.sweep)
            self._evicting.begin()
            self._evicting.attempt("cache", now, lambda: self.evict(now))
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

    def migrate(self, study_id: int, progress: Progress | None = None) -> Outcome:
        """Take a study as far into the archive as it can go now, whatever its age. `progress(done, total)` counts images.

        Raise `TooLarge` for an image the container format cannot hold, `Damaged` when bytes are not what was received,
        `Unavailable` when a store is down. Every image stays readable at every moment.
        """
        with self._coord.lock(f"migrate:{study_id}", _LOCK_SECONDS) as held:
            if not held:
                return Outcome.BUSY
            with self._database.write() as unit:
                study = containers.subject(unit, study_id)
                if study is None or study.tier == "origin" or study.state in {RECEIVING, MOVED}:
                    return Outcome.NOTHING
                if study.state == COMPLETE:
                    studies.mark(unit, study_id, "begun to pack")
            return self._drop(study) if study.state == DROPPING else self._pack(study, progress)

    def sweep(self, older_than: float = _UNFINISHED) -> int:
        """Remove what crashes left: unfinished files, and containers no row names; return how many.

        Such a container goes only when each of its images is safe elsewhere. Else it may be all that is left of a
        study whose rows were lost, and is kept and logged.
        """
        removed, now = self._sdfo.sweep(older_than), self._clock()
        return removed + sum(
            bool(self._sweeping.attempt(path, now, functools.partial(self._sweep_container, path)))
            for path in self._unnamed(older_than))

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

    def _try(self, study_id: int, now: float) -> Outcome | None:
        return self._packing.attempt(study_id, now, lambda: self.migrate(study_id))

    def _pack(self, study: Subject, progress: Progress | None) -> Outcome:
        """State packing: write, prove and switch; nothing but the temporary state is left when it fails."""
        with self._database.read() as unit:
            rows, old = studies.instances(unit, study.id), containers.current(unit, study.id)
        packed: Packed | None = None
        try:
            entries = self._sdfo.index(old.path).entries if old else {}
            rows = self._settle(study, rows, entries)
            if all(row.sop_uid in entries for row in rows):
                return self._nothing_new(study, rows)
            images = self._images(rows, entries, old)
            packed = self._sdfo.pack(study.study_uid, images, {**study.manifest, "images": len(images)}, progress)
        except Exception:
            with self._database.write() as unit:
                studies.mark(unit, study.id, "not packed")
            if packed:
                self._sdfo.drop_container(packed.path)
            raise
        new = Version(path=packed.path, size=packed.size, sha256=packed.sha256, images=len(images))
        with self._database.write() as unit:
            switched = containers.switch(unit, study, rows, old, new, self._clock())
            if not switched:
                studies.mark(unit, study.id, "not packed")
        if not switched:
            self._sdfo.drop_container(packed.path)
            return Outcome.CHANGED
        log.info("a study was packed", study=study.id, images=len(images), bytes=packed.size)
        return self._drop(study)

    def _settle(self, study: Subject, rows: list[Instance], entries: Mapping[str, Entry]) -> list[Instance]:
        """Put aside what stands under the UID of other bytes in the container; return the rest."""
        good: list[Instance] = []
        for row in rows:
            if row.sop_uid not in entries or entries[row.sop_uid].sha256 == row.online.sha256:
                good.append(row)
                continue
            aside = self._sdfo.online.keep_as_conflict(row.online)
            item = self._described(study, row, aside)
            with self._database.write() as unit:
                containers.forget(unit, study.id, row.sop_uid)
                recording.set_aside(unit, item, self._profile, self._clock(), lambda _, part_id, __: part_id == study.id)
            self._sdfo.drop_online([row.online.path])
        return good

    def _described(self, study: Subject, row: Instance, aside: Online) -> StoredObject:
        """Return an object that goes aside, with what its file says of the patient as far as it can be read."""
        hospital = self._profile.hospital(study.hospital)
        text: dict[str, str] = {}
        with suppress(OSError, Rejected, tags.Truncated):
            if hospital:
                _, text = header.of_file(self._sdfo.online.path(aside.path), hospital)
        return StoredObject(
            hospital=study.hospital, study_uid=study.study_uid, series_uid=row.series_uid, sop_uid=row.sop_uid,
            sop_class=row.sop_class, transfer_syntax=row.transfer_syntax, path=aside.path, size=aside.size,
            sha256=aside.sha256, tags=text)

    def _nothing_new(self, study: Subject, rows: list[Instance]) -> Outcome:
        """All that is online is in the container already: it came a second time."""
        with self._database.write() as unit:
            studies.mark(unit, study.id, "packed" if rows else "not packed")
        return self._drop(study) if rows else Outcome.NOTHING

    def _images(self, rows: list[Instance], entries: Mapping[str, Entry], old: Container | None) -> list[PackImage]:
        """Return everything the new container is to hold: the old one's images, and the online ones it lacks."""
        pictures = self._sdfo.reading()
        found = [
            self._image(entry, pictures, archived(old.path, entry)) for entry in entries.values()] if old else []
        return found + [self._image(row, pictures, row.online) for row in rows if row.sop_uid not in entries]

    @staticmethod
    def _image(what: Instance | Entry, pictures: Pictures, location: Online | Archived) -> PackImage:
        source = pictures.open(location)
        with reachable(ARCHIVE):
            head = next(source.chunks(HEAD), b"")
        return PackImage(
            sop_uid=what.sop_uid, series_uid=what.series_uid, sop_class=what.sop_class, transfer_syntax=what.transfer_syntax,
            sha256=location.sha256, source=source, number=_instance_number(head, whole=source.size <= HEAD))

    def _drop(self, study: Subject) -> Outcome:
        """State dropping: when the grace time is over, prove the container once more, then remove the other copies."""
        with self._database.read() as unit:
            container, replaced = containers.current(unit, study.id), containers.retired(unit, study.id)
        if container is None:
            raise Damaged("a study in state dropping has none")
        if self._clock() < container.at + self._retention.grace_seconds:
            return Outcome.WAITING
        try:
            index = self._sdfo.prove(container.path, container.sha256, {})
        except Damaged:
            self._go_back(study, container, replaced[0] if replaced else None)
            raise
        proven = {entry.sop_uid: entry.sha256 for entry in index.entries.values()}
        with self._database.write() as unit:
            gone = containers.forget_online(unit, study.id, proven)
        paths = [path for path in gone if not path.startswith(ASIDE)]     # that of a conflict is kept, whatever was decided
        self._sdfo.drop_online([*paths, *self._without_row(study, proven, set(paths))])
        for one in replaced:
            self._sdfo.drop_container(one.path)
            with self._database.write() as unit:
                containers.forget_container(unit, one.id)
        with self._database.write() as unit:
            studies.mark(unit, study.id, "dropped")
        return Outcome.ARCHIVED

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
        """The container does not hold what it should: return to the copies from before it, when they are all there."""
        held: set[str] = set()
        if old:
            with suppress(Damaged):
                held.update(self._sdfo.index(old.path).entries)
        with self._database.write() as unit:
            held.update(row.sop_uid for row in studies.instances(unit, study.id))
            whole = len(held) >= bad.images
            if whole:
                containers.undo_switch(unit, study.id, old)
        log.error("a container is damaged", study=study.id, container=bad.id, rescued=whole)
        if whole:
            self._sdfo.drop_container(bad.path)

    def _unnamed(self, older_than: float) -> Iterator[str]:
        """Return the containers no row names."""
        found = self._sdfo.containers(older_than)
        while batch := dict(itertools.islice(found, _BATCH)):
            with self._database.read() as unit:
                named = containers.paths_of(unit, set(batch.values()))
            yield from (path for path in batch if path not in named)

    def _sweep_container(self, path: str) -> bool:
        safe = dict[str, str]()
        try:
            index = self._sdfo.index(path)
            with self._database.read() as unit:
                holders = containers.studies_with_uid(unit, index.study_uid)
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
        safe = {row.sop_uid: row.online.sha256 for row in rows}
        if container:
            safe.update({entry.sop_uid: entry.sha256 for entry in self._sdfo.index(container.path).entries.values()})
        return safe


def _instance_number(head: bytes, whole: bool) -> int:
    """Return the Instance Number in the beginning of a Part-10 file; 0 where it has none that can be read."""
    try:
        meta = tags.read_meta(head)
        return int(tags.scan(head, meta.transfer_syntax, meta.end, whole=whole).get(_INSTANCE_NUMBER, b"0"))
    except (tags.Truncated, Rejected, ValueError):
        return 0
