"""Studies that an operator keeps: a hold lets no copy of them be removed, a pin has them stay online.

Both are of a study as a hospital's whole, with every part of it that is or will be.
"""

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker.db import sql
from broker.imaging.store.tables import retain, study
from broker.model.ports import Unit

HOLD, PIN = "hold", "pin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """A row. `at` is in seconds since the epoch."""

    hospital: str
    study_uid: str
    kind: str
    reason: str
    set_by: str
    at: float


def is_kept(*kinds: str) -> sa.ColumnElement[bool]:
    """Return the condition under which a row of `study` is held or pinned."""
    return sa.exists().where(
        retain.c.hospital == study.c.hospital, retain.c.study_uid == study.c.study_uid, retain.c.kind.in_(kinds))


def kept(unit: Unit, study_id: int, *kinds: str) -> bool:
    """Say whether this part of a study is held or pinned."""
    return bool(sql(unit).scalar(sa.select(sa.exists().where(study.c.id == study_id, is_kept(*kinds)))))


def keep(unit: Unit, row: Retained) -> None:
    """Hold or pin a study; a later reason takes the place of the first."""
    insert = postgresql.insert(retain) if sql(unit).dialect.name == "postgresql" else sqlite.insert(retain)
    values = {name: getattr(row, name) for name in ("hospital", "study_uid", "kind", "reason", "set_by", "at")}
    changed = {name: values[name] for name in ("reason", "set_by", "at")}
    sql(unit).execute(insert.values(values).on_conflict_do_update(
        index_elements=["hospital", "study_uid", "kind"], set_=changed))


def release(unit: Unit, study_uid: str, hospitals: Collection[str]) -> list[Retained]:
    """Forget holds and pins of the study of these hospitals; return them."""
    found = [row for row in listed(unit, study_uid) if row.hospital in hospitals]
    sql(unit).execute(sa.delete(retain).where(retain.c.study_uid == study_uid, retain.c.hospital.in_(hospitals)))
    return found


def listed(unit: Unit, study_uid: str = "") -> list[Retained]:
    """Return all holds and pins, or those of one study, oldest first."""
    query = sa.select(retain).order_by(retain.c.at, retain.c.study_uid, retain.c.hospital, retain.c.kind)
    if study_uid:
        query = query.where(retain.c.study_uid == study_uid)
    return [Retained(**row._mapping) for row in sql(unit).execute(query)]
