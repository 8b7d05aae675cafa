"""Brings a packed study back to the online tier, so that something else can be shown of it."""

import structlog

from broker.archive.formats.sdicom import Entry, Progress
from broker.archive.sdfo import Sdfo, archived
from broker.db import Database
from broker.imaging.store import containers, damages, settlements, studies
from broker.imaging.store.containers import Container
from broker.imaging.store.damages import WHOLE
from broker.imaging.store.studies import Study
from broker.model.errors import Unavailable
from broker.model.imaging import StoredObject

log = structlog.get_logger("broker.conflicts")


def bring_back(
    database: Database, sdfo: Sdfo, part: Study, sops: set[str], now: float, progress: Progress | None = None,
) -> None:
    """Bring a packed study back to the online tier where it holds one of these pictures; its container goes.

    Call it under the lock of its migration. Raise `Unavailable` when objects came that are not packed yet, or when other
    pictures than these are damaged: those of them that are do not come back, something else is to be shown in their place.
    """
    with database.read() as unit:
        container, retired = containers.current(unit, part.id), containers.retired(unit, part.id)
        here = {row.sop_uid: row.online.sha256 for row in studies.instances(unit, part.id)}
        bad = damages.damaged(unit, [part.id]).get(container.path, set()) - {WHOLE} if container else set()
    entries = sdfo.index(container.path).entries if container else {}
    if container is None or not sops.intersection(entries):
        return
    if bad - here.keys() - sops:
        raise Unavailable("the study, whose archived copy is damaged,")
    if any(here.get(sop, entry.sha256) != entry.sha256 for sop, entry in entries.items()):
        raise Unavailable("the study, whose late objects are not packed yet,")
    missing = [entry for entry in entries.values() if entry.sop_uid not in here and entry.sop_uid not in bad]
    items = []
    for entry in missing:
        items.append(_restored(sdfo, part, container, entry))
        if progress:
            progress(len(items), len(missing))
    with database.write() as unit:
        if not settlements.unpacked(unit, part.id, container, items, now):
            raise Unavailable("the study, which is being packed,")
        for old in retired:
            containers.forget_container(unit, old.id)
    for path in (container.path, *(old.path for old in retired)):
        sdfo.drop_container(path)
    log.info("a study is online again to be settled", study=part.id, images=len(items))


def _restored(sdfo: Sdfo, part: Study, container: Container, entry: Entry) -> StoredObject:
    """Return a packed picture as a file of the online tier."""
    file = sdfo.online.begin()
    try:
        for piece in sdfo.open(archived(container.path, entry)).chunks():
            file.write(piece)
    except BaseException:
        file.abort()
        raise
    kept = file.commit(part.hospital, part.study_uid, entry.sop_uid)
    if kept.conflict:
        raise Unavailable("the study, to which objects came just now,")
    return StoredObject(
        hospital=part.hospital, study_uid=part.study_uid, series_uid=entry.series_uid, sop_uid=entry.sop_uid,
        sop_class=entry.sop_class, transfer_syntax=entry.transfer_syntax, path=kept.path, size=entry.size,
        sha256=entry.sha256)
