"""Reads of single records and groups, for queries."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.db import Prepared, sql
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.model.ports import Unit
from broker.patients.events import person_of
from broker.patients.store.tables import ACTIVE, group, identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One source record: an id of a domain and what its source last said of the person."""

    id: int
    patient: PatientId
    active: bool
    survivor: int | None
    group: int | None
    person: Demographics


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One person as the index sees it; `value` is the affinity-domain id."""

    id: int
    value: str
    active: bool
    survivor: int | None


def find(unit: Unit, patient: PatientId) -> Identity | None:
    """Return the source record of a local id, retired or not."""
    where = (identity.c.domain == patient.domain) & (identity.c.value == patient.value)
    row = sql(unit).execute(sa.select(identity).where(where)).first()
    return _identity(row) if row else None


def survivor(unit: Unit, found: Identity) -> Identity:
    """Return the active record at the end of the merges, `found` itself when it is active."""
    while not found.active and found.survivor is not None:
        found = _identity(sql(unit).execute(sa.select(identity).where(identity.c.id == found.survivor)).one())
    return found


def members(unit: Unit, groups: Iterable[int]) -> list[Identity]:
    """Return the active records of these groups, oldest first."""
    query = sa.select(identity).where(identity.c.group_id.in_(list(groups)), identity.c.state == ACTIVE)
    return [_identity(row) for row in sql(unit).execute(query.order_by(identity.c.id))]


_mine = identity.alias("mine")
_TOGETHER = Prepared(
    sa.select(group.c.value, identity.c.domain, identity.c.value).join(_mine, _mine.c.group_id == group.c.id)
    .join(identity, identity.c.group_id == group.c.id).where(
        _mine.c.domain == sa.bindparam("domain", type_=sa.String()), _mine.c.value == sa.bindparam("value", type_=sa.String()),
        identity.c.state == ACTIVE))


def together(unit: Unit, patient: PatientId) -> tuple[str, list[PatientId]]:
    """Return the affinity-domain id of the person with an active local id, and all active local ids; nothing for another id."""
    rows = _TOGETHER.rows(unit, {"domain": patient.domain, "value": patient.value})
    return (rows[0][0] if rows else ""), [PatientId(domain, value) for _, domain, value in rows]


_FIND_GROUP = Prepared(sa.select(group.c.id, group.c.value, group.c.state, group.c.survivor_id).where(
    group.c.value == sa.bindparam("value", type_=sa.String())))


def get_group(unit: Unit, number: int) -> Group:
    """Return a group by its key."""
    row = sql(unit).execute(sa.select(group).where(group.c.id == number)).one()
    return Group(id=row.id, value=row.value, active=row.state == ACTIVE, survivor=row.survivor_id)


def find_group(unit: Unit, value: str) -> Group | None:
    """Return the group with this affinity-domain id, retired or not."""
    for number, name, state, survivor_id in _FIND_GROUP.rows(unit, {"value": value}):
        return Group(id=number, value=name, active=state == ACTIVE, survivor=survivor_id)
    return None


def group_survivor(unit: Unit, found: Group) -> Group:
    """Return the active group at the end of the joins, `found` itself when it is active."""
    while not found.active and found.survivor is not None:
        found = get_group(unit, found.survivor)
    return found


def _identity(row: sa.Row[Any]) -> Identity:
    return Identity(
        id=row.id, patient=PatientId(row.domain, row.value), active=row.state == ACTIVE, survivor=row.survivor_id,
        group=row.group_id, person=person_of(row.demographics))
