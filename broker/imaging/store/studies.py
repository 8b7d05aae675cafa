"""Studies, series and instances in SQL.

A study belongs to the hospital it came from: the same Study Instance UID of two hospitals is two rows. All pictures of a
row are of one patient. Part 0 takes what comes first; other parts hold what was settled for another patient (`conflicts`),
and what comes later for that one. A part in state `moved` has lost everything to others and takes nothing any more.
`objects` and `bytes` count what the broker itself keeps online. Times are seconds since the epoch.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker.db import sql
from broker.imaging.store import cases
from broker.imaging.store import tables as t
from broker.imaging.store.machines import RECEIVING, STUDY
from broker.model.ids import PatientId
from broker.model.imaging import Online, SeriesFacts, StoredObject, StudyFacts
from broker.model.ports import Unit
from broker.wire.study_text import day_of

_SERIES = {"modality": ("Modality", 16), "body_part": ("BodyPartExamined", 64), "description": ("SeriesDescription", 250)}


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


def add_instances(unit: Unit, study_id: int, items: Iterable[StoredObject], at: float) -> None:
    """Add rows of objects that are online; their study's counts are the caller's."""
    sql(unit).execute(t.instance.insert(), [
        {"study_id": study_id, "sop_uid": item.sop_uid, "series_uid": item.series_uid, "sop_class": item.sop_class,
         "transfer_syntax": item.transfer_syntax, "path": item.path, "size": item.size, "sha256": item.sha256, "at": at}
        for item in items
    ])


def set_catalogue(unit: Unit, study_id: int, listed: Sequence[cases.Listed], at: float) -> None:
    """Replace what an origin is said to keep of a study."""
    body = cases.pack(listed)
    upsert = _insert(unit, t.catalogue).values(study_id=study_id, body=body, at=at)
    sql(unit).execute(upsert.on_conflict_do_update(index_elements=["study_id"], set_={"body": body, "at": at}))


def origin_catalogue(unit: Unit, study_id: int) -> list[tuple[str, str, str]]:
    """Return what the origin says its study holds: (series UID, SOP Instance UID, SOP class); empty when it was not asked."""
    return cases.unpack(sql(unit).scalar(sa.select(t.catalogue.c.body).where(t.catalogue.c.study_id == study_id)))


def study(unit: Unit, hospital: str, study_uid: str) -> Study | None:
    """Return the study of this hospital, its part 0 where it has several, or None."""
    return min(find_studies(unit, hospital=hospital, study_uid=study_uid), key=lambda found: found.part, default=None)


def get(unit: Unit, study_id: int) -> Study:
    """Return the part of a study with this row id, which is there."""
    return _study(sql(unit).execute(sa.select(t.study).where(t.study.c.id == study_id)).one())


def find_studies(
    unit: Unit, *, hospital: str = "", study_uid: str = "", patient: PatientId | None = None, limit: int = 1000,
) -> list[Study]:
    """Return the studies that match everything given, newest first."""
    query = sa.select(t.study).order_by(t.study.c.last_at.desc(), t.study.c.id.desc()).limit(limit)
    if hospital:
        query = query.where(t.study.c.hospital == hospital)
    if study_uid:
        query = query.where(t.study.c.study_uid == study_uid)
    if patient:
        query = query.where(t.study.c.patient_domain == patient.domain, t.study.c.patient_value == patient.value)
    return [_study(row) for row in sql(unit).execute(query)]


def quiet(unit: Unit, before: float) -> list[Study]:
    """Return the studies in state `receiving` whose last object came before this time, longest quiet first."""
    query = (
        sa.select(t.study).where(t.study.c.state == RECEIVING, t.study.c.last_at < before)
        .order_by(t.study.c.last_at))
    return [_study(row) for row in sql(unit).execute(query)]


def instances(unit: Unit, study_id: int) -> list[Instance]:
    """Return the instances kept online, by series and UID."""
    rows = sql(unit).execute(
        sa.select(t.instance).where(t.instance.c.study_id == study_id)
        .order_by(t.instance.c.series_uid, t.instance.c.sop_uid))
    return [
        Instance(row.series_uid, row.sop_uid, row.sop_class, row.transfer_syntax, Online(row.path, row.size, row.sha256))
        for row in rows
    ]


def on_record(unit: Unit, hospital: str, study_uid: str) -> set[str]:
    """Return the paths of a study's instance rows."""
    return set(sql(unit).scalars(
        sa.select(t.instance.c.path).join(t.study, t.study.c.id == t.instance.c.study_id)
        .where(t.study.c.study_uid == study_uid, t.study.c.hospital == hospital)))


def aside_on_record(unit: Unit, hospital: str, study_uid: str) -> set[str]:
    """Return the paths of what is kept aside of a study, and of what a decision shows from there."""
    return cases.paths(unit, hospital, study_uid) | on_record(unit, hospital, study_uid)


def facts(unit: Unit, study_id: int) -> StudyFacts:
    """Return a study as its manifest needs it: of tier `origin` with the catalogue's instances, else those online."""
    connection = sql(unit)
    row = get(unit, study_id)
    listed = _given(unit, study_id) if row.tier == "origin" else [
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


def _given(unit: Unit, study_id: int) -> list[cases.Listed]:
    """Return what an origin lists, without what it sent for another patient than it says."""
    listed, aside = origin_catalogue(unit, study_id), cases.withheld(unit, study_id)
    if not aside:
        return listed
    here = {item.sop_uid for item in instances(unit, study_id)}
    return [one for one in listed if one[1] not in aside or one[1] in here]


def _procedure(found: dict[str, str]) -> tuple[str, str, str] | None:
    value, scheme, meaning = (
        found.get(key, "") for key in ("ProcedureCodeValue", "ProcedureCodingSchemeDesignator", "ProcedureCodeMeaning"))
    return (value, scheme, meaning) if value and scheme else None


def mark(unit: Unit, study_id: int, event: str, *, to: str = "") -> bool:
    """Note an event of `machines.STUDY`; False, and nothing changed, when it must not come in the study's state.

    `to` is needed for events that lead to several states.
    """
    return STUDY.move(unit, event, t.study.c.id == study_id, to=to) == 1


def touch(unit: Unit, study_id: int, at: float) -> None:
    """Note that a study was retrieved."""
    sql(unit).execute(t.study.update().where(t.study.c.id == study_id, t.study.c.used_at < at).values(used_at=at))


def ensure(unit: Unit, hospital: str, study_uid: str, patient: PatientId, at: float, *, tier: str) -> list[Study]:
    """Return all parts of a study, kept from others' changes until the unit ends; part 0 is made when there is none.

    What is made is a study of `patient` without pictures. Part 0 is the lock of all parts.
    """
    connection = sql(unit)
    connection.execute(_insert(unit, t.study).values(
        hospital=hospital, study_uid=study_uid, part=0, tier=tier, state=STUDY.first("sent" if tier == "online" else "fetched"),
        patient_domain=patient.domain, patient_value=patient.value, study_date="", accession="", facts={}, objects=0, bytes=0,
        first_at=at, last_at=at, used_at=at,
    ).on_conflict_do_nothing(index_elements=["study_uid", "hospital", "part"]))
    return parts(unit, hospital, study_uid)


def parts(unit: Unit, hospital: str, study_uid: str) -> list[Study]:
    """Return all parts of a study in their order, kept from others' changes until the unit ends."""
    mine = t.study.c.study_uid == study_uid, t.study.c.hospital == hospital
    if sql(unit).dialect.name == "postgresql":      # a part that was made while we waited for the lock is seen after it
        sql(unit).execute(sa.select(t.study.c.id).where(*mine, t.study.c.part == 0).with_for_update())
    return [_study(row) for row in sql(unit).execute(sa.select(t.study).where(*mine).order_by(t.study.c.part))]


def described(facts: dict[str, str]) -> dict[str, Any]:
    """Return the columns of a study that follow from its facts."""
    return {"study_date": day_of(facts.get("StudyDate", "")), "accession": facts.get("AccessionNumber", "")[:64], "facts": facts}


def add_series(
    unit: Unit, study_id: int, described: Iterable[tuple[str, dict[str, str]]], *, replace: bool = False,
) -> None:
    """Add series, or complete what is known of them: of two texts the greater stays, so that the order does not matter.

    With `replace` what is said now counts; what is left out does not undo what is known.
    """
    rows: dict[str, dict[str, Any]] = {}
    for uid, tags in described:
        row = {"study_id": study_id, "series_uid": uid, **{
            name: tags.get(keyword, "")[:most] for name, (keyword, most) in _SERIES.items()}}
        known = rows.setdefault(uid, row)
        known |= {name: max(known[name], row[name]) for name in _SERIES}
    sql(unit).execute(_series_statement(sql(unit).dialect.name, replace), list(rows.values()))


@functools.cache    # building it takes as long as running it
def _series_statement(dialect: str, replace: bool) -> "postgresql.Insert | sqlite.Insert":
    insert = postgresql.insert(t.series) if dialect == "postgresql" else sqlite.insert(t.series)
    new, old = insert.excluded, t.series.c
    greater = {name: new[name].collate("C" if dialect == "postgresql" else "BINARY") > old[name] for name in _SERIES}
    said = {
        name: sa.func.coalesce(sa.func.nullif(new[name], ""), old[name]) if replace
        else sa.case((greater[name], new[name]), else_=old[name]) for name in _SERIES}
    changed = None if replace else sa.or_(*greater.values())
    return insert.on_conflict_do_update(index_elements=["study_id", "series_uid"], set_=said, where=changed)


def _insert(unit: Unit, table: sa.Table) -> "postgresql.Insert | sqlite.Insert":
    return postgresql.insert(table) if sql(unit).dialect.name == "postgresql" else sqlite.insert(table)


def _study(row: sa.Row[Any]) -> Study:
    values = dict(row._mapping)
    return Study(patient=PatientId(values.pop("patient_domain"), values.pop("patient_value")), **values)
