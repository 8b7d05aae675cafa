"""From the online tier to S-DICOM: the migration of a study, safe at every step.

    complete   claim                                                           -> packing
    packing    write a container, read it back and compare, switch the rows    -> dropping
    dropping   after the grace time read it back again, remove instance rows,
               then online files, then the container a new version replaced    -> complete

A crash leaves a state, and the next run goes on from it. A file counts for nothing until a row names it; rows that a
reader may follow are removed before their files. Objects that come late make a new version of the container.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog

from broker.archive.formats.sdicom import Entry, PackImage, Progress
from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Packed, Pictures, Sdfo, archived
from broker.archive.tiers.base import WHAT as ARCHIVE
from broker.archive.tiers.online import HEAD
from broker.config.profile import Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.files.durable import reachable
from broker.imaging import header
from broker.imaging.archiving import lease
from broker.imaging.archiving.drop import Dropper, Outcome
from broker.imaging.archiving.lease import Lease
from broker.imaging.store import containers, damages, recording, studies
from broker.imaging.store.containers import Container, Subject, Version
from broker.imaging.store.damages import WHOLE
from broker.imaging.store.machines import COMPLETE, DROPPING, MOVED, RECEIVING
from broker.imaging.store.studies import Instance
from broker.model.charsets import NO_SETS, CharacterSets
from broker.model.errors import Rejected
from broker.model.imaging import Archived, Online, StoredObject
from broker.wire import tags

_INSTANCE_NUMBER = tags.TAGS["InstanceNumber"]

log = structlog.get_logger("broker.imaging.archiving")


class Packer:
    """Moves one study at a time into the archive. Safe to run in several processes at once."""

    def __init__(
        self, database: Database, sdfo: Sdfo, profile: Profile, coord: Coord, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._sdfo, self._profile, self._coord, self._clock = database, sdfo, profile, coord, clock
        self._dropper = Dropper(database, sdfo, profile.retention.grace_seconds, clock)

    def migrate(self, study_id: int, progress: Progress | None = None) -> Outcome:
        """Take a study as far into the archive as it can go now, whatever its age. `progress(done, total)` counts images.

        Raise `TooLarge` for an image the container format cannot hold, `Damaged` when bytes are not what was received,
        `Unavailable` when a store is down. Every image stays readable at every moment.
        """
        with self._database.read() as unit:
            seconds = lease.seconds_for(containers.size(unit, study_id), self._profile.retention.bytes_per_second)
        with self._coord.lock(f"migrate:{study_id}", seconds) as held:
            if not held:
                return Outcome.BUSY
            held_until = Lease(seconds)
            with self._database.write() as unit:
                study = containers.subject(unit, study_id)
                if study is None or study.tier == "origin" or study.state in {RECEIVING, MOVED}:
                    return Outcome.NOTHING
                if study.state == COMPLETE:
                    studies.mark(unit, study_id, "begun to pack")
            return self._dropper.drop(study, held_until) if study.state == DROPPING else self._pack(study, held_until, progress)

    def _pack(self, study: Subject, held_until: Lease, progress: Progress | None) -> Outcome:
        """State packing: write, prove and switch; nothing but the temporary state is left when it fails."""
        with self._database.read() as unit:
            rows, old = studies.instances(unit, study.id), containers.current(unit, study.id)
            known = damages.damaged(unit, [study.id]).get(old.path, set()) if old else set()
        packed: Packed | None = None
        try:
            bad = set() if old and known and self._sdfo.has_good_copy(old.path, old.sha256) else known
            entries = self._sdfo.index(old.path, fresh=WHOLE in bad).entries if old else {}
            rows = self._settle(study, rows, entries)
            if known:
                entries = _without_damaged(entries, bad, rows)
            elif all(row.sop_uid in entries for row in rows):
                return self._nothing_new(study, rows, held_until)
            images = self._images(rows, entries, old)
            packed = self._sdfo.pack(
                study.study_uid, images, self._manifest(study, len(images), old), progress, self._sets(study))
        except BaseException:       # of a stop, too
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
        return self._dropper.drop(study, held_until)

    def _manifest(self, study: Subject, images: int, old: Container | None) -> dict[str, Any]:
        """Return what the new container tells of its study; `version` orders those of one study, whatever clocks say."""
        before = self._sdfo.index(old.path).manifest.get("version", 1) if old else 0
        return {**study.manifest, "images": images, "version": before + 1, "packed_at": self._clock()}

    def _sets(self, study: Subject) -> CharacterSets:
        hospital = self._profile.hospital(study.hospital)
        return hospital.character_sets if hospital else NO_SETS

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

    def _nothing_new(self, study: Subject, rows: list[Instance], held_until: Lease) -> Outcome:
        """All that is online is in the container already: it came a second time."""
        with self._database.write() as unit:
            studies.mark(unit, study.id, "packed" if rows else "not packed")
        return self._dropper.drop(study, held_until) if rows else Outcome.NOTHING

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


def _without_damaged(entries: Mapping[str, Entry], bad: set[str], rows: list[Instance]) -> dict[str, Entry]:
    """Return what a new version may take from the old one. Raise `Damaged` when it would lack a picture that the old one has."""
    good = {uid: entry for uid, entry in entries.items() if uid not in bad}
    lost = entries.keys() - good.keys() - {row.sop_uid for row in rows}
    if lost:
        raise Damaged(f"{len(lost)} of its {len(entries)} pictures are damaged, and there is no good copy")
    return good


def _instance_number(head: bytes, *, whole: bool) -> int:
    """Return the Instance Number in the beginning of a Part-10 file; 0 where it has none that can be read."""
    try:
        meta = tags.read_meta(head)
        return int(tags.scan(head, meta.transfer_syntax, meta.end, whole=whole).get(_INSTANCE_NUMBER, b"0"))
    except (tags.Truncated, Rejected, ValueError):
        return 0
