"""SQLAlchemy engine and the unit of work.

`Database.read()` gives a snapshot, `Database.write()` one short transaction: on SQLite it starts with BEGIN IMMEDIATE
so that writers of all processes queue instead of failing. Stores turn a unit into a connection with `sql(unit)`.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError

from broker.model.errors import Unavailable
from broker.model.ports import Unit

metadata = sa.MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
})


class SqlUnit:
    """A transaction in progress and what to do once it is durable."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.actions: list[Callable[[], None]] = []

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the unit is durable; never when it rolled back."""
        self.actions.append(action)


def sql(unit: Unit) -> sa.Connection:
    """Give the connection of a unit of work. For stores only."""
    assert isinstance(unit, SqlUnit)
    return unit.connection


class Database:
    """One durable store. Safe to share between threads; make one per process (never across a fork)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {"pool_pre_ping": not self.is_sqlite}
        if self.is_sqlite:
            path = sa.make_url(url).database
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            options = {"connect_args": {"timeout": 30.0, "check_same_thread": False}, "pool_size": 40, "max_overflow": 40}
        self.engine = sa.create_engine(url, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _tune_sqlite)

    @contextlib.contextmanager
    def read(self) -> Iterator[SqlUnit]:
        """Give a consistent read-only unit. Raise `Unavailable` when the store cannot be reached."""
        with _reachable(), self.engine.connect() as connection:
            yield SqlUnit(connection)

    @contextlib.contextmanager
    def write(self) -> Iterator[SqlUnit]:
        """Give one transaction: committed and durable on leaving, rolled back on any exception. Keep it short."""
        with _reachable(), self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            unit = SqlUnit(connection)
            try:
                yield unit
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        for action in unit.actions:
            action()

    def ping(self) -> None:
        """Return when the store answers, else raise `Unavailable`."""
        with self.read() as unit:
            unit.connection.exec_driver_sql("SELECT 1")

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise Unavailable("database") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("database") from error
        raise


def _tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "cache_size=-65536"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
