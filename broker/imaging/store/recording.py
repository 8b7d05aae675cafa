"""What comes in, as rows: objects that were received, and what a C-FIND of an origin returned.

All pictures of a study's row are of one patient; what contradicts that makes a conflict. Times are seconds since the epoch.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from broker.config.profile import Hospital, Profile
from broker.db import sql
from broker.imaging.identity import facts_of, fuller, is_corrected, patient_of, plain_id
from broker.imaging.store import cases, studies
from broker.imaging.store import tables as t
from broker.imaging.store.machines import MOVED
from broker.imaging.store.studies import Study
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import StoredObject
from broker.model.ports import Unit

# Says whether the archive keeps something under a SOP Instance UID for a part of a study; raises `Unavailable`.
Packed = Callable[[Unit, int, str], bool]


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
    parts = studies.ensure(unit, first.hospital, first.study_uid, whose, at, tier="online" if first.job is None else "origin")
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
    studies.add_series(unit, part.id, ((item.series_uid, item.tags) for item in items))
    studies.add_instances(unit, part.id, items, at)
    changes: dict[str, Any] = {"last_at": at, "patient_domain": part.patient.domain, "patient_value": part.patient.value}
    if part.tier != "origin" or not part.facts:
        facts = _together(part.facts, (item.tags for item in items))
        changes |= studies.described(facts) if facts != part.facts else {}
    if part.tier != "origin" and any(item.job is None for item in items):
        studies.mark(unit, part.id, "sent")
    sql(unit).execute(t.study.update().where(t.study.c.id == part.id).values(
        objects=t.study.c.objects + len(items), bytes=t.study.c.bytes + sum(item.size for item in items), **changes))


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
        listed = {sop for _, sop, _ in studies.origin_catalogue(unit, part.id)} if part.tier == "origin" else set()
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
    found = studies.ensure(unit, item.hospital, item.study_uid, PatientId(said.domain, ""), now,
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
        studies.add_series(unit, found[0].id, [(item.series_uid, item.tags)])
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
    here = studies.ensure(unit, hospital.key, study_uid, next(iter(groups)), at, tier="origin")
    before = {sop for part in here for _, sop, _ in studies.origin_catalogue(unit, part.id)}
    taken: list[int] = []
    for said, rows in groups.items():
        number = _part_for(here, said)
        listed = [(row["SeriesInstanceUID"], row["SOPInstanceUID"], row.get("SOPClassUID", "")) for row in rows]
        if number is None:
            kind = cases.CORRECTION if before.issuperset(sop for _, sop, _ in listed) else cases.PATIENT
            case_id = cases.open_case(unit, here[0].id, kind, said, _together({}, rows), at)
            cases.put_catalogue(unit, case_id, listed)
            studies.add_series(unit, here[0].id, ((row["SeriesInstanceUID"], row) for row in rows), replace=True)
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
            **studies.described(_together({}, rows)), last_at=at, patient_domain=part.patient.domain,
            patient_value=part.patient.value))
    studies.add_series(unit, part.id, ((row["SeriesInstanceUID"], row) for row in rows), replace=True)
    studies.set_catalogue(unit, part.id, listed, at)
