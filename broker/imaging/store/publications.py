"""Publications in SQL: one row per study that has a manifest or shall get one. Times are seconds since the epoch.

    due               to be published; `next_at` says when it may be tried (again)
    waiting_patient   no feed has named the patient yet; looked at again when one does, and at `next_at`
    published         `manifest_uid`, `entry_uuid` and `digest` are those of the manifest that is in the registry
    partial           as published, without the series that nobody could send, as `reason` says; looked at again now and then
                      (`next_at` is when it was looked at last), and when an object of the study came
    failed            refused for good; `reason` says what was refused. New images or an operator make it due again
    withdrawn         the study has no images any more; what was registered for it is deprecated

`manifest_uid`, `entry_uuid`, `entry_patient` (an affinity-domain id as CX) and `digest` always tell of the last manifest that was
accepted, in whatever state the row is. Where the row is `restored` from a container, the registry that accepted it may be gone:
the next manifest is published under these very UIDs, and replaces nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.db import batches, sql
from broker.imaging.store.machines import DUE, FAILED, PARTIAL, PUBLICATION, WAITING
from broker.imaging.store.tables import publication, series, study
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import SeriesFacts
from broker.model.ports import Unit

_OPEN = publication.c.state.in_((DUE, WAITING))
# A partial one is looked at again after five minutes, then ten, and so on to a day.
_AGAIN = sa.case(*((publication.c.attempts <= n + 1, 300.0 * 2 ** n) for n in range(9)), else_=86400.0)


@dataclass(frozen=True, slots=True)
class Draft:
    """A manifest on its way: Part-10 bytes and lcm:SubmitObjectsRequest, exactly as they were or will be sent."""

    document: bytes
    submission: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A row, with hospital, tier and state of its study."""

    study_id: int
    hospital: str
    tier: str
    study_state: str
    state: str
    patient: PatientId
    manifest_uid: str
    entry_uuid: str
    digest: str
    entry_patient: str
    restored: int
    attempts: int
    next_at: float
    reason: str
    draft: Draft | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A publication that does not go on: whose, in what state, and why."""

    hospital: str
    study_uid: str
    state: str
    reason: str
    attempts: int
    next_at: float


def get(unit: Unit, study_id: int) -> Publication | None:
    """Return the publication of a study, or None."""
    found = sql(unit).execute(
        sa.select(publication, study.c.hospital, study.c.tier, study.c.state.label("study_state"))
        .join(study, study.c.id == publication.c.study_id).where(publication.c.study_id == study_id)).one_or_none()
    if found is None:
        return None
    row = dict(found._mapping)
    document, submission = row.pop("document"), row.pop("submission")
    del row["again"]
    return Publication(
        patient=PatientId(row.pop("patient_domain"), row.pop("patient_value")),
        draft=Draft(document, submission) if document and submission else None, **row)


def request(unit: Unit, study_id: int, patient: PatientId, now: float, *, at_once: bool = False) -> None:
    """Make a study due. One that is being tried keeps its place unless it is wanted `at_once`."""
    here = publication.c.study_id == study_id
    fresh: dict[str, Any] = {
        "attempts": 0, "next_at": now, "reason": "", "patient_domain": patient.domain, "patient_value": patient.value}
    sql(unit).execute(sa.select(study.c.id).where(study.c.id == study_id).with_for_update())    # one asks at a time
    if sql(unit).scalar(sa.select(publication.c.state).where(here)) is None:
        sql(unit).execute(sa.insert(publication).values(
            study_id=study_id, state=PUBLICATION.first("asked for"), manifest_uid="", entry_uuid="", digest="", **fresh))
    else:
        PUBLICATION.move(unit, "wanted at once" if at_once else "asked for", here, **fresh)


def restore(unit: Unit, study_id: int, patient: PatientId, now: float, record: Mapping[str, str]) -> None:
    """Enter what a container tells of its study's publication: `manifest_uid`, `entry_uuid`, `digest`, `entry_patient`.

    It is published again, under the same UIDs, when its patient is known.
    """
    sql(unit).execute(sa.insert(publication).values(
        study_id=study_id, state=PUBLICATION.first("found packed"), restored=1, attempts=0, next_at=now, reason="",
        patient_domain=patient.domain, patient_value=patient.value, **record))


def request_anew(unit: Unit, study_id: int, patient: PatientId, now: float) -> None:
    """Make a study due whose manifest is to be replaced even where it names the same instances; a draft goes out before."""
    request(unit, study_id, patient, now)
    _set(unit, study_id, again=1, digest="")


def due(unit: Unit, now: float, limit: int) -> list[tuple[int, str]]:
    """Return the studies to try now and their hospitals: those of all hospitals in turn, longest due first."""
    turn = sa.func.row_number().over(partition_by=study.c.hospital, order_by=publication.c.next_at).label("turn")
    query = (
        sa.select(publication.c.study_id, study.c.hospital, turn).join(study, study.c.id == publication.c.study_id)
        .where(_is_due(now)).order_by(turn, publication.c.next_at).limit(limit))
    return [(row.study_id, row.hospital) for row in sql(unit).execute(query)]


def _is_due(now: float) -> sa.ColumnElement[bool]:
    its = study.alias()
    came = sa.exists().where(its.c.id == publication.c.study_id, its.c.last_at > publication.c.next_at)
    return sa.or_(
        sa.and_(_OPEN, publication.c.next_at <= now),
        sa.and_(publication.c.state == PARTIAL, sa.or_(publication.c.next_at + _AGAIN <= now, came)))


def stuck(unit: Unit, limit: int) -> list[Stuck]:
    """Return what was refused, waits for its patient, lacks images or is due again after a failure; longest due first."""
    query = (
        sa.select(study.c.hospital, study.c.study_uid, publication.c.state, publication.c.reason, publication.c.attempts,
                  sa.case((publication.c.state == PARTIAL, publication.c.next_at + _AGAIN), else_=publication.c.next_at)
                  .label("next_at"))
        .join(study, study.c.id == publication.c.study_id)
        .where(sa.or_(
            publication.c.state.in_((FAILED, WAITING, PARTIAL)), sa.and_(publication.c.state == DUE, publication.c.reason != "")))
        .order_by(publication.c.next_at).limit(limit))
    return [Stuck(**row._mapping) for row in sql(unit).execute(query)]


def claim(unit: Unit, study_id: int, now: float, until: float) -> Publication | None:
    """Take a due study until `until`: nobody else tries it before. None when it is not due (any more)."""
    taken = sql(unit).execute(
        sa.update(publication).where(publication.c.study_id == study_id, _is_due(now))
        .values(next_at=until, attempts=publication.c.attempts + 1,
                again=sa.case((publication.c.document.is_(None), 0), else_=publication.c.again)))
    return get(unit, study_id) if taken.rowcount else None


def save(unit: Unit, study_id: int, draft: Draft) -> None:
    """Keep what is about to be sent, before it is sent. Raise `Unavailable` when another attempt has ended meanwhile."""
    if not _move(unit, study_id, "drafted", document=draft.document, submission=draft.submission):
        raise Unavailable("the publication (another attempt at it has ended)")


def part(unit: Unit, study_id: int, attempts: int, now: float, reason: str) -> None:
    """Note, after `publish`, that the manifest lacks what may come later; `attempts` says how long to wait for it."""
    seen = sql(unit).scalar(sa.select(study.c.last_at).where(study.c.id == study_id)) or now
    PUBLICATION.move(unit, "series missing", publication.c.study_id == study_id, publication.c.again == 0,
                     attempts=attempts, next_at=max(now, seen), reason=reason)


def wait(unit: Unit, study_id: int, patient: PatientId, next_at: float) -> None:
    """Note that the patient is not known yet."""
    _move(unit, study_id, "patient unknown", patient_domain=patient.domain, patient_value=patient.value, attempts=0,
          next_at=next_at, reason="")


def retry(unit: Unit, study_id: int, next_at: float, reason: str, *, forget: bool = False) -> None:
    """Try again at `next_at`: with the same draft, or with a new one where the old is known to be refused (`forget`)."""
    _move(unit, study_id, "put off", next_at=next_at, reason=reason, **(_NO_DRAFT if forget else {}))


def fail(unit: Unit, study_id: int, reason: str) -> None:
    """Note a refusal; nothing is tried until someone asks again."""
    _move(unit, study_id, "refused", reason=reason, **_NO_DRAFT)


def exists(unit: Unit, study_id: int) -> bool:
    """Say whether a study has a publication, in whatever state."""
    return get(unit, study_id) is not None


def publish(
    unit: Unit, study_id: int, *, manifest_uid: str, entry_uuid: str, digest: str, entry_patient: str,
) -> None:
    """Note the manifest that the registry now has."""
    _move(unit, study_id, "accepted", manifest_uid=manifest_uid, entry_uuid=entry_uuid, digest=digest,
          entry_patient=entry_patient, restored=0, attempts=0, reason="", **_NO_DRAFT)
    PUBLICATION.move(unit, "asked for meanwhile", publication.c.study_id == study_id, publication.c.again == 1,
                     digest="", next_at=0.0)


def take_back(unit: Unit, study_id: int) -> None:
    """Note that the registered manifest is deprecated: the next one replaces nothing."""
    _set(unit, study_id, manifest_uid="", entry_uuid="", digest="", entry_patient="", restored=0)


def withdraw(unit: Unit, study_id: int) -> None:
    """Note that there is nothing to publish of a study."""
    _move(unit, study_id, "without images", attempts=0, reason="", **_NO_DRAFT)


def studies_of(unit: Unit, patient: PatientId) -> int:
    """Return how many studies there are of a patient, published or not."""
    its = (study.c.patient_domain == patient.domain) & (study.c.patient_value == patient.value)
    return sql(unit).scalar(sa.select(sa.func.count()).select_from(study).where(its)) or 0


def strayed(unit: Unit, patient: PatientId, affinity: PatientId) -> int:
    """Make due what is registered for another person than this patient now is; return how many studies that are."""
    return PUBLICATION.move(
        unit, "patient changed", publication.c.patient_domain == patient.domain, publication.c.patient_value == patient.value,
        publication.c.entry_patient.not_in(("", str(affinity))), attempts=0, next_at=0.0)


def merged(unit: Unit, retired: PatientId, survivor: PatientId) -> None:
    """Note that the registry gives everything of `retired` to `survivor`."""
    sql(unit).execute(
        sa.update(publication).where(publication.c.entry_patient == str(retired)).values(entry_patient=str(survivor)))


def moved(unit: Unit, entries: Collection[str], patient: PatientId) -> None:
    """Note that the registry gave these entries to `patient`."""
    for batch in batches(entries):
        sql(unit).execute(sa.update(publication).where(publication.c.entry_uuid.in_(batch)).values(entry_patient=str(patient)))


def arrived(unit: Unit, patient: PatientId) -> int:
    """Make due what waited for this patient, and return how many studies that are."""
    return PUBLICATION.move(
        unit, "patient known", publication.c.patient_domain == patient.domain, publication.c.patient_value == patient.value,
        next_at=0.0)


def described(unit: Unit, study_id: int) -> dict[str, SeriesFacts]:
    """Return what is known of every series a study ever had here, without instances, by its UID."""
    rows = sql(unit).execute(sa.select(series).where(series.c.study_id == study_id))
    return {
        row.series_uid: SeriesFacts(
            uid=row.series_uid, modality=row.modality, body_part=row.body_part, description=row.description)
        for row in rows
    }


def _move(unit: Unit, study_id: int, event: str, **values: Any) -> int:
    return PUBLICATION.move(unit, event, publication.c.study_id == study_id, **values)


def _set(unit: Unit, study_id: int, **values: Any) -> None:
    sql(unit).execute(sa.update(publication).where(publication.c.study_id == study_id).values(values))


_NO_DRAFT: dict[str, Any] = {"document": None, "submission": None}
