"""Damage of the archive in SQL: a row for each picture that is not what was packed, and one for a container that is not.

A row counts while it is not mended and its container is the current one of its study: what was replaced holds nobody up.
Times are seconds since the epoch.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker.db import batches, sql
from broker.imaging.store import tables as t
from broker.model.ids import PatientId
from broker.model.ports import Unit

WHOLE = ""      # in the place of a SOP Instance UID: the container itself

_OPEN = t.damage.c.mended_at == 0
IS_DAMAGED = sa.exists().where(t.damage.c.study_id == t.study.c.id, _OPEN, t.container.c.study_id == t.damage.c.study_id,
                               t.container.c.path == t.damage.c.container, t.container.c.state == "current")
"""The condition under which something of a row of `study` is damaged."""

_CURRENT = sa.exists().where(t.container.c.study_id == t.damage.c.study_id, t.container.c.path == t.damage.c.container,
                             t.container.c.state == "current")


@dataclass(frozen=True, slots=True)
class Holder:
    """The part of a study whose current container something is."""

    study_id: int
    hospital: str
    study_uid: str
    patient: PatientId


@dataclass(frozen=True, slots=True)
class Damage:
    """One row that counts. `sop_uid` is `WHOLE` where it is about the container itself."""

    container: str
    sop_uid: str
    study_id: int
    hospital: str
    study_uid: str
    reason: str
    found_at: float


def holder(unit: Unit, study_uid: str, path: str) -> Holder | None:
    """Return whose current container this is, kept from others' changes until the unit ends; None when it is nobody's."""
    row = sql(unit).execute(
        sa.select(t.study).join(t.container, t.container.c.study_id == t.study.c.id)
        .where(t.study.c.study_uid == study_uid, t.container.c.path == path, t.container.c.state == "current")
        .with_for_update(of=t.study)).one_or_none()
    return Holder(row.id, row.hospital, row.study_uid, PatientId(row.patient_domain, row.patient_value)) if row else None


def enter(unit: Unit, study_id: int, path: str, sop_uids: Iterable[str], reason: str, now: float) -> None:
    """Enter damage of a container, also what was mended or was gone before."""
    insert = postgresql.insert(t.damage) if sql(unit).dialect.name == "postgresql" else sqlite.insert(t.damage)
    values = {"reason": reason, "found_at": now, "mended_at": 0.0}
    again = insert.on_conflict_do_update(index_elements=["container", "sop_uid"], set_=values)
    sql(unit).execute(again, [{"container": path, "sop_uid": sop_uid, "study_id": study_id, **values} for sop_uid in sop_uids])


def damaged(unit: Unit, study_ids: Iterable[int]) -> dict[str, set[str]]:
    """Return what is damaged of the containers of these studies: SOP Instance UIDs (`WHOLE` among them) by path."""
    found: dict[str, set[str]] = {}
    for batch in batches(study_ids):
        for row in sql(unit).execute(
                sa.select(t.damage.c.container, t.damage.c.sop_uid).where(t.damage.c.study_id.in_(batch), _OPEN)):
            found.setdefault(row.container, set()).add(row.sop_uid)
    return found


def mended(unit: Unit, path: str, now: float, but: Collection[str] = ()) -> list[str]:
    """Note that nothing of a container is damaged any more, `but` what is still; return what was."""
    known = damaged_of(unit, path) - set(but)
    for batch in batches(sorted(known)):
        sql(unit).execute(t.damage.update().values(mended_at=now).where(
            t.damage.c.container == path, t.damage.c.sop_uid.in_(batch)))
    return sorted(known)


def damaged_of(unit: Unit, path: str) -> set[str]:
    """Return what is damaged of a container."""
    return set(sql(unit).scalars(sa.select(t.damage.c.sop_uid).where(t.damage.c.container == path, _OPEN)))


def listed(unit: Unit) -> list[Damage]:
    """Return the damage that counts, by when it was found."""
    query = (
        sa.select(t.damage.c.container, t.damage.c.sop_uid, t.damage.c.study_id, t.study.c.hospital, t.study.c.study_uid,
                  t.damage.c.reason, t.damage.c.found_at)
        .join(t.study, t.study.c.id == t.damage.c.study_id).where(_OPEN, _CURRENT)
        .order_by(t.damage.c.found_at, t.damage.c.container, t.damage.c.sop_uid))
    return [Damage(*row) for row in sql(unit).execute(query)]
