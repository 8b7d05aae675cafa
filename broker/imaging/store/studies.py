"""Studies, series and instances in SQL.

A study belongs to the hospital it came from: the same Study Instance UID of two hospitals is two rows. All pictures of a
row are of one patient. Part 0 takes what comes first; other parts hold what was settled for another patient (`conflicts`),
and what comes later for that one. A part in state `moved` has lost everything to others and takes nothing any more.
`objects` and `bytes` count what the broker itself keeps online. Times are seconds since the epoch.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker.config.profile import Hospital, Profile
from broker.db import sql
from broker.imaging.identity import facts_of, fuller, is_corrected, patient_of, plain_id
from broker.imaging.store import cases
from broker.imaging.store import tables as t
from broker.imaging.store.machines import MOVED, RECEIVING, STUDY
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import Online, SeriesFacts, StoredObject, StudyFacts
from broker.model.ports import Unit
from broker.wire.study_text import day_of

# Says whether the archive keeps something under a SOP Instance UID for a part of a study; raises `Unavailable`.
Packed = Callable[[Unit, int, str], bool]

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


class Recorded(NamedTuple):
    """What `record` made of a batch.

    `new` have rows now; `copies` are on record with the same bytes under another path (given beside it). No row was
    written for `conflicts`: other bytes than those on record, or another patient than the study's.
    """

    new: list[StoredObject]
    copies: list[tuple[StoredObject, str]]
    conflicts: list[StoredObject]


def record(
    unit: Unit, objects: Sequence[StoredObject], profile: Profile, now: float | None = None, packed: Packed | None = None,
) -> Recorded:
    """Enter objects that are durable on disk as study, series and instance rows, in one batch; safe to repeat.

    A submission (`job` None) puts its study into state `receiving`. What a fetch brought, and whatever comes to a study
    of tier `origin`, is cache: it changes neither tier nor state. Any object completes what is known of its study.
    """
    at = time.time() if now is None else now
    groups: dict[tuple[str, str], list[StoredObject]] = {}
    for item in objects:
        groups.setdefault((item.hospital, item.study_uid), []).append(item)
    result = Recorded([], [], [])
    for key in sorted(groups):  # one order for all writers: row locks cannot meet crosswise
        _record_study(unit, groups[key], profile, at, result, packed)
    return result


def _record_study(
    unit: Unit, objects: list[StoredObject], profile: Profile, at: float, result: Recorded, packed: Packed | None,
) -> None:
    first = objects[0]
    hospital = profile.hospital(first.hospital)
    said = [patient_of(item.tags, hospital, profile) for item in objects]
    whose = next((patient for patient in said if patient.value), said[0])
    parts = ensure(unit, first.hospital, first.study_uid, whose, at, tier="online" if first.job is None else "origin")
    known = _known(unit, parts, objects)
    kept = _kept_by(unit, parts, objects, packed)
    fresh: dict[int, list[StoredObject]] = {}
    for item, patient in zip(objects, said, strict=True):
        sha256, path = known.get(item.sop_uid, ("", ""))
        if path == item.path:
            continue
        if sha256 == item.sha256:
            result.copies.append((item, path))
        elif path or (number := _part_for(parts, patient)) is None or kept.get(item.sop_uid, set()) - {number}:
            result.conflicts.append(item)
        else:
            known[item.sop_uid] = item.sha256, item.path
            fresh.setdefault(number, []).append(item)
    for number, items in fresh.items():
        _enter(unit, parts[number], items, at)
        result.new.extend(items)


def _part_for(parts: list[Study], said: PatientId) -> int | None:
    """Return which part of a study takes an object that names `said`; None when that contradicts all of them.

    The first id that comes for a study without one becomes its patient's; an object that names nobody goes along.
    """
    living = [number for number, part in enumerate(parts) if part.state != MOVED]
    for number in living:
        if not said.value or agrees(parts[number], said):
            return number
    for number in living:
        if not parts[number].patient.value:
            parts[number] = replace(parts[number], patient=said)
            return number
    return None


def agrees(part: Study, said: PatientId) -> bool:
    """Say whether `said` is the patient of this part. A PACS that was asked need not have told the issuer of its ids."""
    unissued = part.tier == "origin" and not part.facts.get("IssuerOfPatientID")
    return part.patient == said or (unissued and part.patient.value == said.value != "")


def _enter(unit: Unit, part: Study, items: list[StoredObject], at: float) -> None:
    """Add objects that have no row to a part that is theirs, and what they say to what is known of it."""
    _add_series(unit, part.id, ((item.series_uid, item.tags) for item in items))
    add_instances(unit, part.id, items, at)
    changes: dict[str, Any] = {"last_at": at, "patient_domain": part.patient.domain, "patient_value": part.patient.value}
    if part.tier != "origin" or not part.facts:
        facts = _together(part.facts, (item.tags for item in items))
        changes |= described(facts) if facts != part.facts else {}
    if part.tier != "origin" and any(item.job is None for item in items):
        mark(unit, part.id, "sent")
    sql(unit).execute(t.study.update().where(t.study.c.id == part.id).values(
        objects=t.study.c.objects + len(items), bytes=t.study.c.bytes + sum(item.size for item in items), **changes))


def add_instances(unit: Unit, study_id: int, items: Iterable[StoredObject], at: float) -> None:
    """Add rows of objects that are online; their study's counts are the caller's."""
    sql(unit).execute(t.instance.insert(), [
        {"study_id": study_id, "sop_uid": item.sop_uid, "series_uid": item.series_uid, "sop_class": item.sop_class,
         "transfer_syntax": item.transfer_syntax, "path": item.path, "size": item.size, "sha256": item.sha256, "at": at}
        for item in items
    ])


def _known(unit: Unit, parts: list[Study], objects: list[StoredObject]) -> dict[str, tuple[str, str]]:
    """Return SHA-256 and path by SOP Instance UID of those objects that any part has a row of."""
    rows = sql(unit).execute(
        sa.select(t.instance.c.sop_uid, t.instance.c.sha256, t.instance.c.path)
        .where(t.instance.c.study_id.in_([part.id for part in parts]),
               t.instance.c.sop_uid.in_([item.sop_uid for item in objects])))
    return {row.sop_uid: (row.sha256, row.path) for row in rows}


def _kept_by(
    unit: Unit, parts: list[Study], objects: list[StoredObject], packed: Packed | None,
) -> dict[str, set[int]]:
    """Return which parts of a divided study keep these objects where no row says so: packed, or listed by their origin.

    A picture is of one part only: retrieves name it by UIDs that do not tell parts apart. A container that cannot be read
    now may hold it.
    """
    found: dict[str, set[int]] = {}
    for number, part in enumerate(parts if len(parts) > 1 else ()):
        listed = {sop for _, sop, _ in origin_catalogue(unit, part.id)} if part.tier == "origin" else set()
        for item in objects:
            if item.sop_uid in listed or (part.tier == "archive" and packed and _may_hold(packed, unit, part.id, item.sop_uid)):
                found.setdefault(item.sop_uid, set()).add(number)
    return found


def _may_hold(packed: Packed, unit: Unit, part_id: int, sop_uid: str) -> bool:
    try:
        return packed(unit, part_id, sop_uid)
    except Unavailable:
        return True


def set_aside(
    unit: Unit, item: StoredObject, profile: Profile, now: float, packed: Packed | None = None,
) -> int | None:
    """Note that `item.path` holds an object that does not agree with its study; return its case.

    None when it is on record with these bytes.
    """
    case_id = cases.known(unit, item)
    if case_id is not None:
        return case_id
    said = patient_of(item.tags, profile.hospital(item.hospital), profile)
    found = ensure(unit, item.hospital, item.study_uid, PatientId(said.domain, ""), now,
                   tier="online" if item.job is None else "origin")
    row = sql(unit).execute(
        sa.select(t.instance.c.study_id, t.instance.c.sha256)
        .where(t.instance.c.study_id.in_([part.id for part in found]), t.instance.c.sop_uid == item.sop_uid)).first()
    if row is not None and row.sha256 == item.sha256:
        return None
    living = [part for part in found if part.state != MOVED] or found
    holder = row.study_id if row is not None else _packed_in(unit, found, item.sop_uid, packed)
    shown = next((part for part in found if part.id == holder), living[0])
    facts = facts_of(item.tags)
    case_id = cases.open_case(unit, found[0].id, _kind(shown, said, facts, taken=holder is not None), said, facts, now)
    cases.put(unit, case_id, item, cases.CAME, None, now)
    if item.tags:
        _add_series(unit, found[0].id, [(item.series_uid, item.tags)])
    return case_id


def _packed_in(unit: Unit, parts: list[Study], sop_uid: str, packed: Packed | None) -> int | None:
    """Return the part for which the archive keeps something under this UID, as far as it can be read now."""
    with contextlib.suppress(Unavailable):
        return next((part.id for part in parts if packed and packed(unit, part.id, sop_uid)), None)
    return None


def _kind(shown: Study, said: PatientId, facts: dict[str, str], *, taken: bool) -> str:
    if said.value and shown.patient.value and not agrees(shown, said):
        return cases.CORRECTION if taken else cases.PATIENT
    return cases.CORRECTION if is_corrected(shown.facts, facts) else cases.BYTES


def record_origin(
    unit: Unit, hospital: Hospital, found: Sequence[dict[str, str]], now: float | None = None, profile: Profile | None = None,
) -> int:
    """Enter what a C-FIND of one study returned, one dict of text by keyword per instance; return the study's row id.

    The study's facts and catalogue are replaced, and what is said of its series; a study that is already here keeps its
    tier. Rows that name another patient than the study make a case: nothing is shown for them until it is settled.
    """
    at = time.time() if now is None else now
    study_uid = found[0]["StudyInstanceUID"]
    groups = _by_patient(found, hospital, profile)
    here = ensure(unit, hospital.key, study_uid, next(iter(groups)), at, tier="origin")
    before = {sop for part in here for _, sop, _ in origin_catalogue(unit, part.id)}
    taken: list[int] = []
    for said, rows in groups.items():
        number = _part_for(here, said)
        listed = [(row["SeriesInstanceUID"], row["SOPInstanceUID"], row.get("SOPClassUID", "")) for row in rows]
        if number is None:
            kind = cases.CORRECTION if before.issuperset(sop for _, sop, _ in listed) else cases.PATIENT
            case_id = cases.open_case(unit, here[0].id, kind, said, _together({}, rows), at)
            cases.put_catalogue(unit, case_id, listed)
            _add_series(unit, here[0].id, ((row["SeriesInstanceUID"], row) for row in rows), replace=True)
        else:
            _list(unit, here[number], rows, listed, at)
            taken.append(here[number].id)
    return taken[0] if taken else here[0].id


def _by_patient(
    found: Sequence[dict[str, str]], hospital: Hospital, profile: Profile | None,
) -> dict[PatientId, list[dict[str, str]]]:
    """Return the rows of a C-FIND by whom they name, the largest part first; rows that name nobody go with it."""
    groups: dict[PatientId, list[dict[str, str]]] = {}
    for row in found:
        said = patient_of(row, hospital, profile) if profile else PatientId(hospital.domain, plain_id(row.get("PatientID", "")))
        groups.setdefault(said, []).append(row)
    ordered = sorted((said for said in groups if said.value), key=lambda said: (-len(groups[said]), said))
    nobody = [row for said, rows in groups.items() if not said.value for row in rows]
    if not ordered:
        return groups
    groups[ordered[0]] += nobody
    return {said: groups[said] for said in ordered}


def _together(facts: dict[str, str], pictures: Iterable[dict[str, str]]) -> dict[str, str]:
    """Return what is known of a study together with what these pictures say of it."""
    before: dict[str, str] = {}
    for tags in pictures:
        if (said := facts_of(tags)) != before:      # most pictures of a study say the same
            facts, before = (fuller(facts, said) if said != facts else facts), said
    return facts


def _list(unit: Unit, part: Study, rows: list[dict[str, str]], listed: list[cases.Listed], at: float) -> None:
    """Replace what is known of a part that stays in its hospital's PACS."""
    if part.tier == "origin":
        sql(unit).execute(t.study.update().where(t.study.c.id == part.id).values(
            **described(_together({}, rows)), last_at=at, patient_domain=part.patient.domain,
            patient_value=part.patient.value))
    _add_series(unit, part.id, ((row["SeriesInstanceUID"], row) for row in rows), replace=True)
    set_catalogue(unit, part.id, listed, at)


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


def _add_series(
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
