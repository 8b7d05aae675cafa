"""Lists of active records, in portions: memory does not grow with the index, and no statement runs long."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from broker.db import Prepared, sql
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.patients.events import person_of
from broker.patients.listed import Listed
from broker.patients.store.tables import ACTIVE, group, identity

# JSON as text: prepared statements give values as the driver has them.
_LISTED = sa.select(
    identity.c.id, identity.c.group_id, identity.c.domain, identity.c.value, group.c.value,
    sa.cast(identity.c.demographics, sa.Text), identity.c.created_at,
).join(group, group.c.id == identity.c.group_id).where(identity.c.state == ACTIVE).order_by(identity.c.id)
_PORTION = Prepared(_LISTED.where(identity.c.id > sa.bindparam("after", type_=sa.Integer())).limit(
    sa.bindparam("most", type_=sa.Integer())))
_MEMBERS = Prepared(_LISTED.where(
    identity.c.domain == sa.bindparam("domain", type_=sa.String()),
    identity.c.group_id.in_(sa.bindparam("groups", expanding=True, type_=sa.Integer()))))


def portion(unit: Unit, after: int, most: int) -> list[Listed]:
    """Return the next active records behind the one with this number, the one known longest first."""
    return [_listed(row) for row in _PORTION.rows(unit, {"after": after, "most": most})]


def duplicates(unit: Unit, domain: str) -> list[int]:
    """Return the numbers of the persons with several active ids of a domain, by the id known longest."""
    mine = (identity.c.domain == domain) & (identity.c.state == ACTIVE)
    query = sa.select(identity.c.group_id).where(mine).group_by(identity.c.group_id)
    return [*sql(unit).execute(query.having(sa.func.count() > 1).order_by(sa.func.min(identity.c.id))).scalars()]


def members(unit: Unit, domain: str, groups: Sequence[int]) -> Mapping[int, list[Listed]]:
    """Return the active records of these persons in a domain, by the person's number, the one known longest first."""
    found: dict[int, list[Listed]] = {}
    for row in _MEMBERS.rows(unit, {"domain": domain, "groups": groups}):
        found.setdefault(row[1], []).append(_listed(row))
    return found


def _listed(row: tuple[Any, ...]) -> Listed:
    number, _, domain, value, affinity, person, since = row
    return Listed(
        number=number, patient=PatientId(domain, value), affinity=affinity, person=person_of(json.loads(person)), since=since)
