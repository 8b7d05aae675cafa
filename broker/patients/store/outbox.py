"""Notifications on their way, in SQL: written in the unit of work of what they tell, sent in their order to each consumer.

    waiting     to be sent; `next_at` says when it may be tried (again). Those behind it wait as well
    delivered   the consumer has acknowledged it; kept for a while
    refused     the consumer will not have it, or an operator dropped it; `reason` says why
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.db import sql
from broker.db.machine import GONE, NEW, Machine
from broker.model.message_id import MessageId
from broker.model.ports import Unit
from broker.patients.notices import Notice
from broker.patients.store.tables import notification

WAITING, DELIVERED, REFUSED = "waiting", "delivered", "refused"

NOTIFICATION = Machine("notification", notification.c.state, [
    (NEW, "written", WAITING),
    (WAITING, "put off", WAITING),          # the consumer is away, or cannot take it now
    (WAITING, "acknowledged", DELIVERED),
    (WAITING, "refused", REFUSED),
    (WAITING, "dropped", REFUSED),          # by an operator, so that those behind it go on
    (WAITING, "wanted at once", WAITING),
    (REFUSED, "wanted at once", WAITING),
    (DELIVERED, "forgotten", GONE),
])


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One row. Times are seconds since the epoch; `control_id` stays the same however often it is sent."""

    id: int
    consumer: str
    transaction: str
    body: Mapping[str, Any]
    control_id: str
    state: str
    attempts: int
    next_at: float
    reason: str
    created_at: float
    done_at: float | None


def write(unit: Unit, told: Iterable[Notice], at: float) -> None:
    """Keep what consumers are to be told."""
    rows = [{
        "consumer": one.consumer, "transaction": one.transaction, "body": dict(one.body),
        "control_id": MessageId.now().control_id, "state": NOTIFICATION.first("written"), "attempts": 0, "next_at": at,
        "reason": "", "created_at": at} for one in told]
    if rows:
        sql(unit).execute(sa.insert(notification), rows)


def first(unit: Unit, consumer: str) -> Notification | None:
    """Return what this consumer is to be told next, due or not."""
    rows = _select(unit, notification.c.consumer == consumer, notification.c.state == WAITING, limit=1)
    return rows[0] if rows else None


def listed(unit: Unit, *, consumer: str = "", state: str = "", limit: int = 1000) -> list[Notification]:
    """Return notifications, oldest first, of one consumer and in one state where they are given."""
    where = [column == value for column, value in ((notification.c.consumer, consumer), (notification.c.state, state)) if value]
    return _select(unit, *where, limit=limit)


def counts(unit: Unit) -> list[tuple[str, str, int, float]]:
    """Return consumer, state, how many, and since when the oldest of them is there."""
    columns = notification.c.consumer, notification.c.state
    query = sa.select(*columns, sa.func.count(), sa.func.min(notification.c.created_at)).group_by(*columns).order_by(*columns)
    return [(consumer, state, number, since) for consumer, state, number, since in sql(unit).execute(query)]


def move(unit: Unit, event: str, number: int, values: Mapping[str, object]) -> int:
    """Let `event` happen to one notification; return 0 when it is in no state for that, or there is none."""
    return NOTIFICATION.move(unit, event, notification.c.id == number, to="", **values)


def find(unit: Unit, number: int) -> Notification | None:
    """Return one notification."""
    return next(iter(_select(unit, notification.c.id == number, limit=1)), None)


def overtaken(unit: Unit, one: Notification) -> bool:
    """Say whether the consumer has acknowledged a later notification that tells of one of the same ids."""
    later = sa.select(notification.c.body).where(
        notification.c.consumer == one.consumer, notification.c.state == DELIVERED, notification.c.id > one.id)
    told = _told(one.body)
    with sql(unit).execute(later.execution_options(yield_per=1000)) as rows:     # closed, however many of them are looked at
        return any(told & _told(body) for body in rows.scalars())


def _told(body: Mapping[str, Any]) -> set[object]:
    """Return of which ids a notification tells whose they are, or that they are or end."""
    if "ids" in body:
        return set(map(tuple, body["ids"]))
    if "local" in body:
        return {tuple(body[name]) for name in ("local", "retired") if name in body}
    return {body.get("retired", body["id"])}


def forget(unit: Unit, before: float) -> int:
    """Remove what was delivered before this time; return how many."""
    return NOTIFICATION.remove(unit, "forgotten", notification.c.done_at < before)


def _select(unit: Unit, *where: sa.ColumnElement[bool], limit: int) -> list[Notification]:
    query = sa.select(notification).where(*where).order_by(notification.c.id).limit(limit)
    return [Notification(**row._mapping) for row in sql(unit).execute(query)]
