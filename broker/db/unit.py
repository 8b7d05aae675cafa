"""The unit of work: one transaction on one connection, and what to do once it is durable."""

import contextlib
from collections.abc import Callable, Collection
from typing import Any

import sqlalchemy as sa

from broker.model.ports import Unit


class SqlUnit:
    """A transaction in progress. It belongs to the thread that opened it.

    `connection` is SQLAlchemy's, `driver` the driver's own (sqlite3 or psycopg) below it, for prepared statements. `waiting`
    encloses waiting for locks, (kind, key) each.
    """

    def __init__(
        self, connection: sa.Connection, driver: Any = None,
        waiting: Callable[[Collection[tuple[int, int]]], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self.connection, self._driver, self.waiting = connection, driver, waiting
        self.dialect = connection.dialect
        self.highest_lock = 0         # `broker.db.locks.Lock` taken last
        self.actions: list[Callable[[], None]] = []

    @property
    def driver(self) -> Any:
        """The driver's connection."""
        if self._driver is None:
            self._driver = self.connection.connection.driver_connection
        return self._driver

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the unit is durable; never when it rolled back."""
        self.actions.append(action)


def sql(unit: Unit) -> sa.Connection:
    """Return the connection of a unit of work. For stores only."""
    assert isinstance(unit, SqlUnit)
    return unit.connection
