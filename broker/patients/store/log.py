"""The log of what happened: only ever appended to."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from broker.db import sql
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.patients import events
from broker.patients.events import Decided, Happened
from broker.patients.store.tables import event

_AT_ONCE = 100      # ids in one statement
_MOST = 100_000     # events of one person and of all who ever were taken for it


def append(unit: Unit, log: Sequence[Happened]) -> None:
    """Append to the log."""
    if log:
        sql(unit).execute(sa.insert(event), [{
            "at": one.at, "kind": one.event.kind, "domain": one.event.patient.domain, "value": one.event.patient.value,
            "sender": one.sender, "message_id": one.message_id, "body": one.event.body(), "about": events.about(one.event)}
            for one in log])


def read(unit: Unit) -> Iterator[Happened]:
    """Return everything that happened, in order."""
    return map(_happened, sql(unit).execute(sa.select(event).order_by(event.c.id)))


def of(unit: Unit, patient: PatientId) -> list[Happened]:
    """Return what happened to one id, in order."""
    its = (event.c.domain == patient.domain) & (event.c.value == patient.value)
    return [_happened(row) for row in sql(unit).execute(sa.select(event).where(its).order_by(event.c.id))]


def around(unit: Unit, patient: PatientId, affinity_domain: str) -> list[tuple[int, Happened]]:
    """Return everything that led to the person with this id, of all ids that ever were one person's with it, in order.

    Each with its number. Raise `Rejected` where that is too much to be looked through.
    """
    found = dict[int, sa.Row[Any]]()
    ids, fresh = {patient}, {patient}
    while fresh:
        joined = set[PatientId]()
        for some in _portions(fresh):
            rows = sql(unit).execute(_telling_of(some, affinity_domain).limit(_MOST + 1)).all()
            found |= {row.id: row for row in rows}
            if len(found) > _MOST:
                raise Rejected("TooMuchHistory", f"more than {_MOST} events have to do with {patient}")
            told = (row for row in rows if row.kind != Decided.kind)    # what was decided may tell of another person
            joined |= {one for row in told for one in _told_of(row, affinity_domain)}
        fresh = joined - ids
        ids |= fresh
    return [(number, _happened(found[number])) for number in sorted(found)]


def _portions(patients: Collection[PatientId]) -> Iterator[list[PatientId]]:
    listed = sorted(patients)
    return (listed[start:start + _AT_ONCE] for start in range(0, len(listed), _AT_ONCE))


def _telling_of(patients: Sequence[PatientId], affinity_domain: str) -> sa.Select[Any]:
    its = sa.or_(*((event.c.domain == one.domain) & (event.c.value == one.value) for one in patients))
    names = [one.value if one.domain == affinity_domain else events.name_of(one) for one in patients]
    return sa.select(event).where(its | event.c.about.in_(names))


def _told_of(row: sa.Row[Any], affinity_domain: str) -> Iterator[PatientId]:
    yield PatientId(row.domain, row.value)
    if row.about:
        yield events.named_by(row.about, affinity_domain)


def decided_by(unit: Unit, one: PatientId, other: PatientId) -> str:
    """Return who decided last of two ids; nothing where nobody has."""
    either = sa.or_(*(
        (event.c.domain == a.domain) & (event.c.value == a.value) & (event.c.about == events.name_of(b))
        for a, b in ((one, other), (other, one))))
    query = sa.select(event.c.sender).where(event.c.kind == Decided.kind, either).order_by(event.c.id.desc()).limit(1)
    return sql(unit).scalar(query) or ""


def _happened(row: sa.Row[Any]) -> Happened:
    return Happened(
        at=row.at, sender=row.sender, message_id=row.message_id,
        event=events.read(row.kind, PatientId(row.domain, row.value), row.body))
