"""What is kept aside, in SQL: a case for each patient whose objects do not agree with a study, and the objects of a case.

    patient     the objects name another patient than their study
    correction  objects that are here came again, with another patient, or another name, birth date or sex
    bytes       objects that are here came again with other bytes, for the same patient

A case is `open` until an operator has `assigned` it to a patient or `rejected` it; undoing opens it again. What comes of
the same kind meanwhile joins the open case. An object of role `came` disagrees; `was` is what a decision put in its place
for: both keep their files for good. Times are seconds since the epoch.
"""

import json
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.db import sql
from broker.imaging.identity import fuller
from broker.imaging.store import tables as t
from broker.model.ids import PatientId
from broker.model.imaging import Online, StoredObject
from broker.model.ports import Unit

PATIENT, CORRECTION, BYTES = "patient", "correction", "bytes"
OPEN, ASSIGNED, REJECTED = "open", "assigned", "rejected"
CAME, WAS, BACK = "came", "was", "back"

Listed = tuple[str, str, str]       # Series Instance UID, SOP Instance UID, SOP class


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case with the study it came for. `said` is whom its objects name, `catalogue` an origin's answer without objects."""

    id: int
    study_id: int
    hospital: str
    study_uid: str
    kind: str
    said: PatientId
    facts: dict[str, str]
    catalogue: tuple[Listed, ...]
    state: str
    first_at: float
    last_at: float
    decided_at: float
    decided_by: str
    decision: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """An object of a case. `study_id` is where a decision shows it, or where it was shown before one."""

    role: str
    study_id: int | None
    series_uid: str
    sop_uid: str
    sop_class: str
    transfer_syntax: str
    online: Online


def pack(listed: Iterable[Sequence[str]]) -> bytes:
    """Return a list of instances as it is stored."""
    return zlib.compress(json.dumps(list(listed)).encode())


def unpack(body: bytes | None) -> list[Listed]:
    """Return a stored list of instances; none where there is none."""
    return [] if body is None else [(series, sop, kind) for series, sop, kind in json.loads(zlib.decompress(body))]


def open_case(unit: Unit, study_id: int, kind: str, said: PatientId, facts: dict[str, str], now: float) -> int:
    """Return the open case of this study that objects of this kind, which name `said`, belong to; made when there is none.

    Call it with part 0 of the study locked. Pictures of another patient and corrections of the patient are one case, which
    is of kind `patient` as soon as one picture is new.
    """
    connection, case = sql(unit), t.conflict_case
    mine = sa.select(case.c.id, case.c.kind, case.c.facts).where(
        case.c.study_id == study_id, case.c.state == OPEN, case.c.patient_domain == said.domain,
        case.c.patient_value == said.value)
    kinds = (PATIENT, CORRECTION) if kind == PATIENT else (kind, PATIENT) if kind == CORRECTION else (kind,)
    found = connection.execute(mine.where(case.c.kind.in_(kinds)).order_by(case.c.kind.desc())).first()
    if found is not None and found.kind == PATIENT:
        kind = PATIENT
    if found is None:
        made: int = connection.execute(case.insert().returning(case.c.id), {
            "study_id": study_id, "kind": kind, "patient_domain": said.domain, "patient_value": said.value, "facts": facts,
            "catalogue": None, "state": OPEN, "first_at": now, "last_at": now, "decided_at": 0.0, "decided_by": "",
            "decision": {}}).scalar_one()
        return made
    connection.execute(case.update().where(case.c.id == found.id).values(
        kind=kind, last_at=now, facts=fuller(found.facts, facts)))
    return int(found.id)


def put(unit: Unit, case_id: int, item: StoredObject, role: str, study_id: int | None, now: float) -> None:
    """Add an object that lies aside at `item.path` to a case."""
    sql(unit).execute(t.conflict.insert(), {
        "hospital": item.hospital, "study_uid": item.study_uid, "sop_uid": item.sop_uid, "path": item.path,
        "sha256": item.sha256, "at": now, "case_id": case_id, "study_id": study_id, "role": role,
        "series_uid": item.series_uid, "sop_class": item.sop_class, "transfer_syntax": item.transfer_syntax,
        "size": item.size})


def put_catalogue(unit: Unit, case_id: int, listed: Sequence[Listed]) -> None:
    """Replace what an origin lists for the patient of a case."""
    sql(unit).execute(t.conflict_case.update().where(t.conflict_case.c.id == case_id).values(catalogue=pack(listed)))


def known(unit: Unit, item: StoredObject) -> int | None:
    """Return the case that has these bytes of this object already, or 0 where it belongs to none; None when they are new."""
    case = t.conflict.c
    row = sql(unit).execute(sa.select(case.case_id).where(
        case.hospital == item.hospital, case.study_uid == item.study_uid, case.sop_uid == item.sop_uid,
        case.sha256 == item.sha256)).first()
    return None if row is None else row.case_id or 0


def find(  # noqa: PLR0913 - each narrows the search, all by name
    unit: Unit, *, case_id: int = 0, hospital: str = "", state: str = "", kind: str = "", study_id: int = 0, lock: bool = False,
) -> list[Case]:
    """Return the cases that match everything given, oldest first; `lock` keeps them from others until the unit ends."""
    case, study = t.conflict_case, t.study
    query = sa.select(case, study.c.hospital, study.c.study_uid).join(study, study.c.id == case.c.study_id).order_by(case.c.id)
    given = {case.c.id: case_id, study.c.hospital: hospital, case.c.state: state, case.c.kind: kind, case.c.study_id: study_id}
    query = query.where(*(column == value for column, value in given.items() if value))
    return [_case(row) for row in sql(unit).execute(query.with_for_update(of=case) if lock else query)]


def shown(unit: Unit, case_id: int, study_id: int | None) -> None:
    """Note where the objects that came for a case are shown."""
    came = t.conflict.c.case_id == case_id, t.conflict.c.role == CAME
    sql(unit).execute(t.conflict.update().where(*came).values(study_id=study_id))


def decide(unit: Unit, case_id: int, state: str, by: str, decision: dict[str, Any], now: float) -> None:
    """Note what became of a case; the state `open` forgets who decided what."""
    sql(unit).execute(t.conflict_case.update().where(t.conflict_case.c.id == case_id).values(
        state=state, decided_by=by, decision=decision, decided_at=now))


def objects(unit: Unit, case_id: int, role: str = "") -> list[Aside]:
    """Return the objects of a case, those of one role where it is given."""
    query = sa.select(t.conflict).where(t.conflict.c.case_id == case_id).order_by(t.conflict.c.id)
    rows = sql(unit).execute(query.where(t.conflict.c.role == role) if role else query)
    return [
        Aside(role=row.role, study_id=row.study_id, series_uid=row.series_uid, sop_uid=row.sop_uid, sop_class=row.sop_class,
              transfer_syntax=row.transfer_syntax, online=Online(row.path, row.size, row.sha256)) for row in rows]


def take_back(unit: Unit, case_id: int) -> None:
    """Note that what a decision took the place of is shown again."""
    sql(unit).execute(t.conflict.update().where(t.conflict.c.case_id == case_id, t.conflict.c.role == WAS).values(role=BACK))


def forget_back(unit: Unit, case_id: int) -> None:
    """Forget what an undone decision had taken the place of; the next one notes it anew."""
    sql(unit).execute(t.conflict.delete().where(t.conflict.c.case_id == case_id, t.conflict.c.role == BACK))


def counts(unit: Unit, case_ids: Collection[int]) -> dict[int, int]:
    """Return how many objects came for each of these cases."""
    rows = sql(unit).execute(
        sa.select(t.conflict.c.case_id, sa.func.count()).where(t.conflict.c.role == CAME, t.conflict.c.case_id.in_(case_ids))
        .group_by(t.conflict.c.case_id))
    return {row[0]: row[1] for row in rows}


def withheld(unit: Unit, study_id: int) -> dict[str, tuple[int, str, float]]:
    """Return case, its state, and when the object came last, by SOP Instance UID, of what no decision shows of a study."""
    rows = sql(unit).execute(
        sa.select(t.conflict.c.sop_uid, t.conflict_case.c.id, t.conflict_case.c.state, t.conflict.c.at)
        .join(t.conflict_case, t.conflict_case.c.id == t.conflict.c.case_id)
        .where(t.conflict_case.c.study_id == study_id, t.conflict.c.role == CAME, t.conflict_case.c.state != ASSIGNED)
        .order_by(t.conflict.c.at))
    return {row.sop_uid: (row.id, row.state, row.at) for row in rows}


def paths(unit: Unit, hospital: str, study_uid: str) -> set[str]:
    """Return where the objects of all cases of a study lie."""
    return set(sql(unit).scalars(
        sa.select(t.conflict.c.path).where(t.conflict.c.hospital == hospital, t.conflict.c.study_uid == study_uid)))


def _case(row: sa.Row[Any]) -> Case:
    values = dict(row._mapping)
    said = PatientId(values.pop("patient_domain"), values.pop("patient_value"))
    return Case(said=said, **{**values, "catalogue": tuple(unpack(values["catalogue"]))})
