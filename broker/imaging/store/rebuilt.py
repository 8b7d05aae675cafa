"""Rows of studies whose rows were lost, from what their containers tell; and all rows of packed studies, to compare them."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.db import batches, sql
from broker.imaging.archiving.told import Told
from broker.imaging.store import containers, publications, studies
from broker.imaging.store import tables as t
from broker.imaging.store.machines import PACKING, PUBLICATION, STUDY
from broker.imaging.store.studies import Study
from broker.model.ports import Unit

_BATCH = 500
_COMPARED = (
    t.study.c.hospital, t.study.c.study_uid, t.study.c.part, t.study.c.patient_domain, t.study.c.patient_value,
    t.study.c.study_date, t.study.c.accession, t.study.c.facts, t.container.c.path, t.container.c.size, t.container.c.images)
_PUBLISHED = (t.publication.c.manifest_uid, t.publication.c.entry_uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedStudy:
    """A packed study as rows tell of it: `columns` by name, the manifest it is published under; `path` is its container."""

    hospital: str
    study_uid: str
    part: int
    path: str
    columns: dict[str, Any]


def enter(unit: Unit, newest: Told, older: Collection[Told], now: float) -> int | None:
    """Enter a study that is packed; return its row id, or None when it has a container already or is being packed.

    A study that is here without one, since pictures came before the rows were back, gets it. Those `older` containers that the
    newest replaces are retired; its proof and their removal are left to the migration.
    """
    parts = studies.parts(unit, newest.hospital, newest.study_uid)
    row = _row(parts, newest)
    if row is not None and (row.state == PACKING or containers.current(unit, row.id) is not None):
        return None
    known = set[str]()
    if row is not None:
        study_id, known = row.id, _series(unit, row.id)
        sql(unit).execute(t.study.update().where(t.study.c.id == row.id, t.study.c.tier == "online").values(tier="archive"))
    else:
        study_id = _new(unit, newest, parts, now)
    fresh = [one for one in newest.series if one["uid"] not in known]
    if fresh:
        sql(unit).execute(t.series.insert(), [
            {"study_id": study_id, "series_uid": one["uid"][:64], "modality": one["modality"][:16],
             "body_part": one["body_part"][:64], "description": one["description"][:250]} for one in fresh])
    sql(unit).execute(t.container.insert(), [
        {"study_id": study_id, "path": one.path, "size": one.size, "sha256": "", "images": len(one.images),
         "state": "current" if one is newest else "retired", "at": now} for one in (newest, *older)])
    if older:
        STUDY.move(unit, "superseded", t.study.c.id == study_id)
    return study_id


def named(unit: Unit, found: Told) -> set[str] | None:
    """Return the paths of the containers that the rows of a study name; None while it is being packed."""
    row = _row(studies.parts(unit, found.hospital, found.study_uid), found)
    if row is None or row.state == PACKING:
        return None
    current = containers.current(unit, row.id)
    return {one.path for one in (*containers.retired(unit, row.id), *([current] if current else []))}


def _row(parts: list[Study], found: Told) -> Study | None:
    """Return the row of a study: that of its part, or where the container does not tell, the part of its patient."""
    if found.part is not None:
        return next((part for part in parts if part.part == found.part), None)
    return next((part for part in parts if part.patient == found.patient), None)


def _new(unit: Unit, found: Told, parts: list[Study], now: float) -> int:
    part = found.part
    if part is None:
        part = 1 + max((one.part for one in parts), default=-1)
    key = sql(unit).execute(sa.insert(t.study).values(
        hospital=found.hospital, study_uid=found.study_uid, part=part, tier="archive", state=STUDY.first("found packed"),
        patient_domain=found.patient.domain, patient_value=found.patient.value, study_date=found.study_date,
        accession=found.accession, facts=found.facts, objects=0, bytes=0,
        **{name: found.times[name] or now for name in ("first_at", "last_at", "used_at")})).inserted_primary_key
    assert key is not None
    return int(key[0])


def _series(unit: Unit, study_id: int) -> set[str]:
    return set(sql(unit).scalars(sa.select(t.series.c.series_uid).where(t.series.c.study_id == study_id)))


def publish(unit: Unit, study_id: int, found: Told, now: float, *, registered: bool, wanted: bool) -> None:
    """Enter the publication of a study that has none.

    One that the container tells of is published under the same UIDs, unless it is `registered` still. `wanted`: a study
    without a record of one is to be published.
    """
    record = found.publication or {}
    if publications.exists(unit, study_id):
        return
    if record.get("manifest_uid") and registered:
        sql(unit).execute(sa.insert(t.publication).values(
            study_id=study_id, state=PUBLICATION.first("found registered"), attempts=0, next_at=now, reason="",
            patient_domain=found.patient.domain, patient_value=found.patient.value, **record))
    elif record.get("manifest_uid"):
        publications.restore(unit, study_id, found.patient, now, record)
    elif wanted:
        publications.request(unit, study_id, found.patient, now)


def packed(unit: Unit, after: int) -> list[tuple[int, PackedStudy]]:
    """Return the next packed studies behind this row id, with their row ids."""
    rows = sql(unit).execute(_query().where(t.study.c.id > after).order_by(t.study.c.id).limit(_BATCH))
    return [(row.id, _packed(row)) for row in rows]


def packed_with(unit: Unit, study_uids: Iterable[str]) -> Iterator[PackedStudy]:
    """Return the packed studies with these UIDs."""
    for batch in batches(study_uids):
        yield from map(_packed, sql(unit).execute(_query().where(t.study.c.study_uid.in_(batch))))


def _query() -> sa.Select[Any]:
    return (
        sa.select(t.study.c.id, *_COMPARED, *_PUBLISHED)
        .join(t.container, sa.and_(t.container.c.study_id == t.study.c.id, t.container.c.state == "current"))
        .outerjoin(t.publication, t.publication.c.study_id == t.study.c.id))


def _packed(row: sa.Row[Any]) -> PackedStudy:
    columns = dict(row._mapping)
    del columns["id"]
    return PackedStudy(
        hospital=columns["hospital"], study_uid=columns["study_uid"], part=columns["part"], path=columns["path"],
        columns={name: value or "" for name, value in columns.items()})
