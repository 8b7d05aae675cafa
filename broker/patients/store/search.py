"""Reads of records by what is known of people: a bounded number of statements and of rows, however many people there are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.db import batches, sql
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


_CANDIDATES = sa.select(
    identity.c.domain, identity.c.value, identity.c.group_id, group.c.value.label("affinity"), identity.c.demographics,
    identity.c.updated_at,
).join(group, group.c.id == identity.c.group_id).where(identity.c.state == ACTIVE)


def numbers(unit: Unit, ranges: Sequence[Range], most: int) -> list[int]:
    """Return the records that have a term in one of the ranges, at most so many of them, in no certain order."""
    found = [
        sa.select(term.c.identity_id).where(term.c.kind == one.kind, term.c.value >= one.low, term.c.value < one.high)
        for one in ranges]
    every = sa.union(*found).limit(most) if len(found) > 1 else found[0].distinct().limit(most)
    return [*sql(unit).execute(every).scalars()]


def records(unit: Unit, wanted: Iterable[int]) -> Iterator[Candidate]:
    """Return the active records with these numbers."""
    for some in batches(wanted):
        yield from _read(unit, _CANDIDATES.where(identity.c.id.in_(some)))


def members(unit: Unit, groups: Iterable[int]) -> Iterator[Candidate]:
    """Return the active records of these persons."""
    for some in batches(groups):
        yield from _read(unit, _CANDIDATES.where(identity.c.group_id.in_(some)))


def _read(unit: Unit, query: sa.Select[Any]) -> Iterator[Candidate]:
    for row in sql(unit).execute(query):
        yield Candidate(
            patient=PatientId(row.domain, row.value), group=row.group_id, affinity=row.affinity,
            person=person_of(row.demographics), at=row.updated_at)
