"""Studies, series and instances in SQL.

A study belongs to the hospital it came from: the same Study Instance UID of two hospitals is two rows. `objects` and
`bytes` count what the broker itself keeps online. Times are seconds since the epoch.
"""

import json
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker.config.profile import Hospital, Profile
from broker.db import sql
from broker.imaging.store import tables as t
from broker.model.ids import PatientId
from broker.model.imaging import Online, SeriesFacts, StoredObject, StudyFacts
from broker.model.ports import Unit
from broker.wire.study_text import day_of

FACTS = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "StudyDescription", "ReferringPhysicianName", "InstitutionName", "TimezoneOffsetFromUTC",
    "ProcedureCodeValue", "ProcedureCodingSchemeDesignator", "ProcedureCodeMeaning",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A row of the study table; `facts` holds decoded study-level text by DICOM keyword."""

    id: int
    hospital: str
    study_uid: str
    tier: str
    state: str
    patient: PatientId
    study_date: str
    accession: str
    facts: dict[str, str]
    objects: int
    bytes: int
    first_at: float
    last_at: float
    used_at: float
    part: int


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance the broker keeps online."""

    series_uid: str
    sop_uid: str
    sop_class: str
    transfer_syntax: str
    online: Online


class Recorded(NamedTuple):
    """What `record` made of a batch.

    `new` have rows now; `copies` are on record with the same bytes under another path (given beside it); `conflicts`
    are on record with other bytes: the first copy stays, no row was written for these.
    """

    new: list[StoredObject]
    copies: list[tuple[StoredObject, str]]
    conflicts: list[StoredObject]


def record(unit: Unit, objects: Sequence[StoredObject], profile: Profile, now: float | None = None) -> Recorded:
    """Enter objects that are durable on disk as study, series and instance rows, in one batch; safe to repeat.

    A submission (`job` None) puts its study into state `receiving`. What a fetch brought, and whatever comes to a study
    of tier `origin`, is cache: it changes neither tier nor state.
    """
    at = time.time() if now is None else now
    groups: dict[tuple[str, str], list[StoredObject]] = {}
    for item in objects:
        groups.setdefault((item.hospital, item.study_uid), []).append(item)
    result = Recorded([], [], [])
    for key in sorted(groups):  # one order for all writers: row locks cannot meet crosswise
        _record_study(unit, groups[key], profile, at, result)
    return result


def _record_study(unit: Unit, objects: list[StoredObject], profile: Profile, at: float, result: Recorded) -> None:
    first = objects[0]
    hospital = profile.hospital(first.hospital)
    study_id, tier = _ensure(unit, {
        "hospital": first.hospital, "study_uid": first.study_uid, **_columns(first.tags, hospital), "first_at": at,
        "tier": "online" if first.job is None else "origin", "state": "receiving" if first.job is None else "complete",
    })
    fresh = _sort_out(unit, study_id, objects, result)
    if not fresh:
        return
    connection = sql(unit)
    _add_series(unit, study_id, ((item.series_uid, item.tags) for item in fresh))
    connection.execute(t.instance.insert(), [
        {"study_id": study_id, "sop_uid": item.sop_uid, "series_uid": item.series_uid, "sop_class": item.sop_class,
         "transfer_syntax": item.transfer_syntax, "path": item.path, "size": item.size, "sha256": item.sha256, "at": at}
        for item in fresh
    ])
    changes: dict[str, Any] = {
        "objects": t.study.c.objects + len(fresh), "bytes": t.study.c.bytes + sum(item.size for item in fresh), "last_at": at}
    if tier != "origin" and any(item.job is None for item in fresh):
        changes["state"] = "receiving"
    connection.execute(t.study.update().where(t.study.c.id == study_id).values(changes))
    result.new.extend(fresh)


def _sort_out(unit: Unit, study_id: int, objects: list[StoredObject], result: Recorded) -> list[StoredObject]:
    """Give the objects without a row; put copies and conflicts into `result`."""
    rows = sql(unit).execute(
        sa.select(t.instance.c.sop_uid, t.instance.c.sha256, t.instance.c.path)
        .where(t.instance.c.study_id == study_id, t.instance.c.sop_uid.in_([item.sop_uid for item in objects])))
    known = {row.sop_uid: (row.sha256, row.path) for row in rows}
    fresh: list[StoredObject] = []
    for item in objects:
        if item.sop_uid not in known:
            known[item.sop_uid] = item.sha256, item.path
            fresh.append(item)
            continue
        sha256, path = known[item.sop_uid]
        if path == item.path:
            continue
        if sha256 == item.sha256:
            result.copies.append((item, path))
        else:
            result.conflicts.append(item)
    return fresh


def add_conflict(unit: Unit, item: StoredObject, now: float) -> None:
    """Note that `item.path` holds other bytes under a UID that is taken; once per path."""
    connection = sql(unit)
    if connection.scalar(sa.select(sa.exists().where(t.conflict.c.path == item.path))):
        return
    connection.execute(t.conflict.insert(), {
        "hospital": item.hospital, "study_uid": item.study_uid, "sop_uid": item.sop_uid, "path": item.path,
        "sha256": item.sha256, "at": now})


def record_origin(unit: Unit, hospital: Hospital, found: Sequence[dict[str, str]], now: float | None = None) -> int:
    """Enter what a C-FIND of one study returned, one dict of text by keyword per instance; give the study's row id.

    The study's facts and catalogue are replaced, and what is said of its series; a study that is already here keeps its
    tier.
    """
    at = time.time() if now is None else now
    first = found[0]
    columns = _columns(first, hospital)
    study_id, tier = _ensure(unit, {
        "hospital": hospital.key, "study_uid": first["StudyInstanceUID"], **columns, "first_at": at, "tier": "origin",
        "state": "complete"})
    connection = sql(unit)
    if tier == "origin":
        connection.execute(t.study.update().where(t.study.c.id == study_id).values(**columns, last_at=at))
    _add_series(unit, study_id, ((tags["SeriesInstanceUID"], tags) for tags in found), replace=True)
    body = zlib.compress(json.dumps(
        [[tags["SeriesInstanceUID"], tags["SOPInstanceUID"], tags.get("SOPClassUID", "")] for tags in found]).encode())
    upsert = _insert(unit, t.catalogue).values(study_id=study_id, body=body, at=at)
    connection.execute(upsert.on_conflict_do_update(index_elements=["study_id"], set_={"body": body, "at": at}))
    return study_id


def origin_catalogue(unit: Unit, study_id: int) -> list[tuple[str, str, str]]:
    """Give what the origin says its study holds: (series UID, SOP Instance UID, SOP class); empty when it was not asked."""
    body = sql(unit).scalar(sa.select(t.catalogue.c.body).where(t.catalogue.c.study_id == study_id))
    return [] if body is None else [(series, sop, kind) for series, sop, kind in json.loads(zlib.decompress(body))]


def study(unit: Unit, hospital: str, study_uid: str) -> Study | None:
    """Give the study of this hospital, or None."""
    return next(iter(find_studies(unit, hospital=hospital, study_uid=study_uid)), None)


def find_studies(
    unit: Unit, *, hospital: str = "", study_uid: str = "", patient: PatientId | None = None, limit: int = 1000,
) -> list[Study]:
    """Give the studies that match everything given, newest first."""
    query = sa.select(t.study).order_by(t.study.c.last_at.desc(), t.study.c.id.desc()).limit(limit)
    if hospital:
        query = query.where(t.study.c.hospital == hospital)
    if study_uid:
        query = query.where(t.study.c.study_uid == study_uid)
    if patient:
        query = query.where(t.study.c.patient_domain == patient.domain, t.study.c.patient_value == patient.value)
    return [_study(row) for row in sql(unit).execute(query)]


def quiet(unit: Unit, before: float) -> list[Study]:
    """Give the studies in state `receiving` whose last object came before this time, longest quiet first."""
    query = (
        sa.select(t.study).where(t.study.c.state == "receiving", t.study.c.last_at < before)
        .order_by(t.study.c.last_at))
    return [_study(row) for row in sql(unit).execute(query)]


def instances(unit: Unit, study_id: int) -> list[Instance]:
    """Give the instances kept online, by series and UID."""
    rows = sql(unit).execute(
        sa.select(t.instance).where(t.instance.c.study_id == study_id)
        .order_by(t.instance.c.series_uid, t.instance.c.sop_uid))
    return [
        Instance(row.series_uid, row.sop_uid, row.sop_class, row.transfer_syntax, Online(row.path, row.size, row.sha256))
        for row in rows
    ]


def on_record(unit: Unit, hospital: str, study_uid: str) -> set[str]:
    """Give the paths of a study's instance rows."""
    return set(sql(unit).scalars(
        sa.select(t.instance.c.path).join(t.study, t.study.c.id == t.instance.c.study_id)
        .where(t.study.c.study_uid == study_uid, t.study.c.hospital == hospital)))


def aside_on_record(unit: Unit, hospital: str, study_uid: str) -> set[str]:
    """Give the paths of a study's conflict rows."""
    return set(sql(unit).scalars(
        sa.select(t.conflict.c.path).where(t.conflict.c.hospital == hospital, t.conflict.c.study_uid == study_uid)))


def facts(unit: Unit, study_id: int) -> StudyFacts:
    """Give a study as its manifest needs it: of tier `origin` with the catalogue's instances, else those online."""
    connection = sql(unit)
    row = _study(connection.execute(sa.select(t.study).where(t.study.c.id == study_id)).one())
    listed = origin_catalogue(unit, study_id) if row.tier == "origin" else [
        (item.series_uid, item.sop_uid, item.sop_class) for item in instances(unit, study_id)]
    by_series: dict[str, list[tuple[str, str]]] = {}
    for series_uid, sop_uid, sop_class in listed:
        by_series.setdefault(series_uid, []).append((sop_class, sop_uid))
    described = {
        found.series_uid: found
        for found in connection.execute(sa.select(t.series).where(t.series.c.study_id == study_id))
    }
    text = row.facts.get
    return StudyFacts(
        uid=row.study_uid, patient=row.patient, patient_name=text("PatientName", ""), birth_date=text("PatientBirthDate", ""),
        sex=text("PatientSex", ""), date=text("StudyDate", ""), time=text("StudyTime", ""),
        accession=text("AccessionNumber", ""), study_id=text("StudyID", ""), description=text("StudyDescription", ""),
        referring=text("ReferringPhysicianName", ""), institution=text("InstitutionName", ""),
        procedure_code=_procedure(row.facts),
        series=tuple(
            SeriesFacts(
                uid=uid, modality=described[uid].modality, body_part=described[uid].body_part,
                description=described[uid].description, instances=tuple(sorted(found, key=lambda pair: pair[1])))
            for uid, found in sorted(by_series.items())))


def _procedure(found: dict[str, str]) -> tuple[str, str, str] | None:
    value, scheme, meaning = (
        found.get(key, "") for key in ("ProcedureCodeValue", "ProcedureCodingSchemeDesignator", "ProcedureCodeMeaning"))
    return (value, scheme, meaning) if value and scheme else None


def mark(unit: Unit, study_id: int, state: str, *, was: str = "") -> bool:
    """Set the state of a study, with `was` only when it is still in that state; say whether it was set."""
    query = t.study.update().where(t.study.c.id == study_id).values(state=state)
    return sql(unit).execute(query.where(t.study.c.state == was) if was else query).rowcount == 1


def touch(unit: Unit, study_id: int, at: float) -> None:
    """Note that a study was retrieved."""
    sql(unit).execute(t.study.update().where(t.study.c.id == study_id, t.study.c.used_at < at).values(used_at=at))


def _ensure(unit: Unit, values: dict[str, Any]) -> tuple[int, str]:
    """Give id and tier of a study's row, made from `values` when there is none, and keep others from changing it."""
    connection = sql(unit)
    insert = _insert(unit, t.study).values(
        objects=0, bytes=0, last_at=values["first_at"], used_at=values["first_at"], **values)
    connection.execute(insert.on_conflict_do_nothing(index_elements=["study_uid", "hospital", "part"]))
    row = connection.execute(
        sa.select(t.study.c.id, t.study.c.tier)
        .where(t.study.c.study_uid == values["study_uid"], t.study.c.hospital == values["hospital"], t.study.c.part == 0)
        .with_for_update()).one()
    return row.id, row.tier


def _columns(tags: dict[str, str], hospital: Hospital | None) -> dict[str, Any]:
    return {
        "patient_domain": hospital.domain if hospital else "", "patient_value": tags.get("PatientID", "")[:250],
        "study_date": day_of(tags.get("StudyDate", "")), "accession": tags.get("AccessionNumber", "")[:64],
        "facts": {keyword: tags[keyword] for keyword in FACTS if keyword in tags},
    }


def _add_series(
    unit: Unit, study_id: int, described: Iterable[tuple[str, dict[str, str]]], *, replace: bool = False,
) -> None:
    rows = {
        uid: {"study_id": study_id, "series_uid": uid, "modality": tags.get("Modality", "")[:16],
              "body_part": tags.get("BodyPartExamined", "")[:64], "description": tags.get("SeriesDescription", "")[:250]}
        for uid, tags in described
    }
    insert, key = _insert(unit, t.series), ["study_id", "series_uid"]
    said = {     # what is left out does not undo what is known
        name: sa.func.coalesce(sa.func.nullif(insert.excluded[name], ""), t.series.c[name])
        for name in ("modality", "body_part", "description")}
    sql(unit).execute(
        insert.on_conflict_do_update(index_elements=key, set_=said) if replace
        else insert.on_conflict_do_nothing(index_elements=key), list(rows.values()))


def _insert(unit: Unit, table: sa.Table) -> "postgresql.Insert | sqlite.Insert":
    return postgresql.insert(table) if sql(unit).dialect.name == "postgresql" else sqlite.insert(table)


def _study(row: Any) -> Study:
    values = dict(row._mapping)
    return Study(patient=PatientId(values.pop("patient_domain"), values.pop("patient_value")), **values)
