"""The log of what happened: only ever appended to."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from broker.db import sql
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.patients import events
from broker.patients.events import Happened
from broker.patients.store.tables import event


def append(unit: Unit, log: Sequence[Happened]) -> None:
    """Append to the log."""
    if log:
        sql(unit).execute(sa.insert(event), [{
            "at": one.at, "kind": one.event.kind, "domain": one.event.patient.domain, "value": one.event.patient.value,
            "sender": one.sender, "message_id": one.message_id, "body": one.event.body()} for one in log])


def read(unit: Unit) -> Iterator[Happened]:
    """Return everything that happened, in order."""
    return map(_happened, sql(unit).execute(sa.select(event).order_by(event.c.id)))


def of(unit: Unit, patient: PatientId) -> list[Happened]:
    """Return what happened to one id, in order."""
    its = (event.c.domain == patient.domain) & (event.c.value == patient.value)
    return [_happened(row) for row in sql(unit).execute(sa.select(event).where(its).order_by(event.c.id))]


def _happened(row: sa.Row[Any]) -> Happened:
    return Happened(
        at=row.at, sender=row.sender, message_id=row.message_id,
        event=events.read(row.kind, PatientId(row.domain, row.value), row.body))
