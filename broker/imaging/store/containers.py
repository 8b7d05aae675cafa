"""The steps of a migration in SQL. Each function is one step's rows; `imaging/archiving/` says in which order.

A study is `complete`, `packing` while a container is written, `dropping` from the moment the container counts until the
online copies are gone, then `complete` again. `container.at` is the time a row came into its present state.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.archive.tiers.online import ASIDE
from broker.db import batches, sql
from broker.imaging.store import recalls
from broker.imaging.store import tables as t
from broker.imaging.store.machines import COMPLETE, DROPPING, PACKING, QUEUED, RUNNING, STUDY
from broker.imaging.store.retained import HOLD, PIN, is_kept, kept
from broker.imaging.store.studies import Instance, instances, mark, origin_catalogue
from broker.model.ports import Unit

_PUBLISHED = ("manifest_uid", "entry_uuid", "digest", "entry_patient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The study a migration works on; `manifest` is what its container tells of it."""

    id: int
    hospital: str
    study_uid: str
    tier: str
    state: str
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of a study: relative path, size, SHA-256 (hex), number of images, since when it is in its state."""

    id: int
    path: str
    size: int
    sha256: str
    images: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A new container that is to be the current one."""

    path: str
    size: int
    sha256: str
    images: int


def subject(unit: Unit, study_id: int) -> Subject | None:
    """Return the study, kept from others' changes until the unit ends; None when there is none."""
    connection = sql(unit)
    row = connection.execute(sa.select(t.study).where(t.study.c.id == study_id).with_for_update()).one_or_none()
    if row is None:
        return None
    return Subject(
        id=row.id, hospital=row.hospital, study_uid=row.study_uid, tier=row.tier, state=row.state, manifest=_manifest(unit, row))


def _manifest(unit: Unit, row: sa.Row[Any]) -> dict[str, Any]:
    """Return what a container tells of its study: enough to fill the rows from it, and to publish the study as it was."""
    connection = sql(unit)
    described = connection.execute(sa.select(t.series).where(t.series.c.study_id == row.id).order_by(t.series.c.series_uid))
    published = connection.execute(sa.select(t.publication).where(t.publication.c.study_id == row.id)).one_or_none()
    return {
        "study": row.study_uid, "hospital": row.hospital, "part": row.part, "accession": row.accession,
        "study_date": row.study_date, "patient": {"domain": row.patient_domain, "value": row.patient_value}, "facts": row.facts,
        "first_at": row.first_at, "last_at": row.last_at, "used_at": row.used_at,
        "series": [{"uid": one.series_uid, "modality": one.modality, "body_part": one.body_part,
                    "description": one.description} for one in described],
        "publication": {name: getattr(published, name) for name in _PUBLISHED} if published else {},
    }


def current(unit: Unit, study_id: int) -> Container | None:
    """Return the container of a packed study, or None."""
    return next(iter(_containers(unit, study_id, "current")), None)


def retired(unit: Unit, study_id: int) -> list[Container]:
    """Return the containers a newer one replaced, newest first."""
    return _containers(unit, study_id, "retired")


def switch(
    unit: Unit, study: Subject, packed: Sequence[Instance], old: Container | None, new: Version, now: float,
) -> bool:
    """Make `new` the study's container and begin dropping what it holds; the one it replaces is retired.

    Return False and change nothing when the study's objects are no longer those that were packed: further ones came, or
    another process packed it first.
    """
    found, container = subject(unit, study.id), current(unit, study.id)
    if found is None or found.state != PACKING or container != old or instances(unit, study.id) != list(packed):
        return False
    connection = sql(unit)
    connection.execute(t.container.update().where(t.container.c.study_id == study.id, t.container.c.state == "current")
                       .values(state="retired", at=now))
    connection.execute(t.container.insert(), {
        "study_id": study.id, "path": new.path, "size": new.size, "sha256": new.sha256, "images": new.images,
        "state": "current", "at": now, "verified_at": now})
    STUDY.move(unit, "packed", t.study.c.id == study.id, tier="archive")
    recalls.packed_again(unit, study.id)
    return True


def being_written(unit: Unit) -> set[str]:
    """Return the Study Instance UIDs of the studies of which a container is written."""
    return set(sql(unit).scalars(sa.select(t.study.c.study_uid).where(t.study.c.state == PACKING)))


def size(unit: Unit, study_id: int) -> int:
    """Return how many bytes a new container of the study would hold at most: those online and those packed."""
    online = sa.select(sa.func.coalesce(sa.func.sum(t.study.c.bytes), 0)).where(t.study.c.id == study_id).scalar_subquery()
    packed = sa.select(sa.func.coalesce(sa.func.sum(t.container.c.size), 0)).where(
        t.container.c.study_id == study_id, t.container.c.state == "current").scalar_subquery()
    return int(sql(unit).scalar(sa.select(online + packed)) or 0)


def restamp(unit: Unit, container_id: int, now: float) -> None:
    """Let a container have come into its state now."""
    sql(unit).execute(t.container.update().where(t.container.c.id == container_id).values(at=now))


def forget_online(unit: Unit, study_id: int, container: Container, proven: Mapping[str, str]) -> list[str] | None:
    """Remove the instance rows whose SOP Instance UID and SHA-256 are in `proven`; return the paths of their files.

    None, and nothing is removed, when `container`, of which that was proven, is not the study's any more, or the study is held.
    """
    subject(unit, study_id)     # the lock: nobody takes the container away or holds the study meanwhile
    now = current(unit, study_id)
    if now is None or now.id != container.id or kept(unit, study_id, HOLD):
        return None
    gone = [row for row in instances(unit, study_id) if proven.get(row.sop_uid) == row.online.sha256]
    delete_instances(unit, study_id, [row.sop_uid for row in gone])
    return [row.online.path for row in gone]


def forget(unit: Unit, study_id: int, sop_uid: str) -> None:
    """Remove the row of an instance that is kept aside now."""
    delete_instances(unit, study_id, [sop_uid])


def undo_switch(unit: Unit, study_id: int, bad: Container, old: Container | None) -> bool:
    """Undo `switch`: the current container is no good. The one it replaced, if there is one, is current again.

    False, and nothing changed, when `bad` is not the current one any more.
    """
    connection = sql(unit)
    if not connection.execute(t.container.delete().where(t.container.c.id == bad.id, t.container.c.state == "current")).rowcount:
        return False
    if old:
        connection.execute(t.container.update().where(t.container.c.id == old.id).values(state="current"))
    connection.execute(t.study.update().where(t.study.c.id == study_id).values(tier="archive" if old else "online"))
    mark(unit, study_id, "damaged")
    recalls.packed_again(unit, study_id)
    return True


def forget_container(unit: Unit, container_id: int) -> None:
    """Remove a container's row."""
    sql(unit).execute(t.container.delete().where(t.container.c.id == container_id))


def idle_cached(unit: Unit, hospitals: Collection[str], before: float) -> list[int]:
    """Return the studies of these hospitals whose cached objects neither came nor were retrieved since before this time."""
    return list(sql(unit).scalars(
        sa.select(t.study.c.id)
        .where(t.study.c.tier == "origin", t.study.c.state == COMPLETE, t.study.c.objects > 0, sa.not_(is_kept(HOLD, PIN)),
               t.study.c.hospital.in_(hospitals), t.study.c.used_at < before, t.study.c.last_at < before)
        .order_by(t.study.c.used_at)))


def begin_eviction(unit: Unit, study_id: int) -> list[str]:
    """Remove the instance rows that the origin's catalogue lists too; return the paths of their files, to be dropped.

    What a decision shows stays: its PACS would send it with the other patient again. None while a fetch of the study is
    open, or when it is held or pinned. Until `finish_eviction` is called the study is in state dropping.
    """
    found = subject(unit, study_id)
    if found is None or found.tier != "origin" or kept(unit, study_id, HOLD, PIN) or sql(unit).scalar(sa.select(sa.exists().where(
            t.fetch_job.c.study_uid == found.study_uid, t.fetch_job.c.state.in_((QUEUED, RUNNING))))):
        return []
    if not mark(unit, study_id, "unused"):
        return []
    listed = {sop_uid for _, sop_uid, _ in origin_catalogue(unit, study_id)}
    gone = [row for row in instances(unit, study_id) if row.sop_uid in listed and not row.online.path.startswith(ASIDE)]
    delete_instances(unit, study_id, [row.sop_uid for row in gone])
    return [row.online.path for row in gone]


def finish_eviction(unit: Unit, study_id: int, paths: Collection[str]) -> None:
    """End the eviction of a study whose files are gone; a row that came for one of them meanwhile goes too."""
    again = [row.sop_uid for row in instances(unit, study_id) if row.online.path in paths]
    delete_instances(unit, study_id, again)
    mark(unit, study_id, "dropped")


def evictions_begun(unit: Unit) -> list[tuple[int, str, str]]:
    """Return (id, hospital, Study Instance UID) of the studies whose eviction was begun."""
    query = sa.select(t.study.c.id, t.study.c.hospital, t.study.c.study_uid).where(
        t.study.c.tier == "origin", t.study.c.state == DROPPING)
    return [(row.id, row.hospital, row.study_uid) for row in sql(unit).execute(query)]


def paths_of(unit: Unit, study_uids: Collection[str]) -> set[str]:
    """Return the paths of all containers that rows of these studies name."""
    return set(sql(unit).scalars(
        sa.select(t.container.c.path).join(t.study, t.study.c.id == t.container.c.study_id)
        .where(t.study.c.study_uid.in_(study_uids))))


def studies_with_uid(unit: Unit, study_uid: str) -> list[int]:
    """Return the ids of the studies with this UID, one per hospital that has it."""
    return list(sql(unit).scalars(sa.select(t.study.c.id).where(t.study.c.study_uid == study_uid)))


def _containers(unit: Unit, study_id: int, state: str) -> list[Container]:
    rows = sql(unit).execute(
        sa.select(t.container).where(t.container.c.study_id == study_id, t.container.c.state == state)
        .order_by(t.container.c.id.desc()))
    return [Container(id=row.id, path=row.path, size=row.size, sha256=row.sha256, images=row.images, at=row.at)
            for row in rows]


def delete_instances(unit: Unit, study_id: int, sop_uids: Sequence[str]) -> None:
    """Remove these instance rows of a study, and count what it has online now."""
    connection = sql(unit)
    for batch in batches(sop_uids):
        connection.execute(t.instance.delete().where(t.instance.c.study_id == study_id, t.instance.c.sop_uid.in_(batch)))
    count, size = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(t.instance.c.size), 0))
        .where(t.instance.c.study_id == study_id)).one()
    connection.execute(t.study.update().where(t.study.c.id == study_id).values(objects=count, bytes=size))
