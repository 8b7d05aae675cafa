"""Reads of records by what is known of people: a bounded number of statements and of rows, however many people there are."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from broker.db import Prepared, batches
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.model.ports import Unit
from broker.patients.events import person_of
from broker.patients.store.tables import ACTIVE, group, identity, term
from broker.patients.terms import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An active record: number and affinity-domain id of its person, what its source last said, and when (epoch seconds)."""

    patient: PatientId
    group: int
    affinity: str
    person: Demographics
    at: float


# JSON as text: prepared statements give values as the driver has them.
_CANDIDATES = sa.select(
    identity.c.domain, identity.c.value, identity.c.group_id, group.c.value, sa.cast(identity.c.demographics, sa.Text),
    identity.c.updated_at,
).join(group, group.c.id == identity.c.group_id).where(identity.c.state == ACTIVE)
_RECORDS = Prepared(_CANDIDATES.where(identity.c.id.in_(sa.bindparam("numbers", expanding=True, type_=sa.Integer()))))
_MEMBERS = Prepared(_CANDIDATES.where(identity.c.group_id.in_(sa.bindparam("numbers", expanding=True, type_=sa.Integer()))))
_NUMBERS = Prepared(sa.select(term.c.identity_id).distinct().where(
    term.c.kind == sa.bindparam("kind", type_=sa.String()), term.c.value >= sa.bindparam("low", type_=sa.String()),
    term.c.value < sa.bindparam("high", type_=sa.String())).limit(sa.bindparam("most", type_=sa.Integer())))


def numbers(unit: Unit, ranges: Sequence[Range], most: int) -> list[int]:
    """Return the records that have a term in one of the ranges, at most so many of them, in no certain order."""
    found: dict[int, None] = {}
    for one in ranges:
        values = {"kind": one.kind, "low": one.low, "high": one.high, "most": most}
        found |= dict.fromkeys(number for (number,) in _NUMBERS.rows(unit, values))
        if len(found) >= most:
            break
    return [*found][:most]


def records(unit: Unit, wanted: Iterable[int]) -> Iterator[Candidate]:
    """Return the active records with these numbers."""
    return _read(unit, _RECORDS, wanted)


def members(unit: Unit, groups: Iterable[int]) -> Iterator[Candidate]:
    """Return the active records of these persons."""
    return _read(unit, _MEMBERS, groups)


def _read(unit: Unit, query: Prepared, wanted: Iterable[int]) -> Iterator[Candidate]:
    for some in batches(wanted):
        for domain, value, number, affinity, person, at in query.rows(unit, {"numbers": some}):
            yield Candidate(
                patient=PatientId(domain, value), group=number, affinity=affinity, person=person_of(json.loads(person)), at=at)
