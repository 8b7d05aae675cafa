"""SQLAlchemy engine and the unit of work.

`Database.read()` gives what is committed, each statement the newest; `Database.write()` one short transaction: on SQLite
it starts with BEGIN IMMEDIATE so that writers of all processes queue instead of failing. Stores turn a unit into a
connection with `sql(unit)`.
"""

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError

from broker.model.errors import Unavailable
from broker.model.ports import Unit

_PATIENCE = 30.0            # seconds a writer waits for those before it
_LITE: dict[str, Any] = {"timeout": _PATIENCE, "check_same_thread": False}

_DISK_FULL = "53100"        # SQLSTATE disk_full of PostgreSQL

metadata = sa.MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
})


class SqlUnit:
    """A transaction in progress and what to do once it is durable.

    `driver` is the connection below SQLAlchemy's, for prepared statements. A reading unit may have one of its own:
    SQLAlchemy's `connection` is then opened when a store asks for it.
    """

    def __init__(self, engine: sa.Engine, driver: Any = None) -> None:
        self._engine, self._driver = engine, driver
        self._connection: sa.Connection | None = None
        self.dialect = engine.dialect
        self.actions: list[Callable[[], None]] = []

    @property
    def connection(self) -> sa.Connection:
        """SQLAlchemy's connection."""
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    @property
    def driver(self) -> Any:
        """The driver's connection (sqlite3 or psycopg)."""
        if self._driver is None:
            self._driver = self.connection.connection.driver_connection
        return self._driver

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the unit is durable; never when it rolled back."""
        self.actions.append(action)

    def close(self) -> None:
        """Give the connection back; what was not committed is rolled back."""
        if self._connection is not None:
            self._connection.close()


def sql(unit: Unit) -> sa.Connection:
    """Give the connection of a unit of work. For stores only."""
    assert isinstance(unit, SqlUnit)
    return unit.connection


class _Readers:
    """SQLite connections that only run prepared SELECTs; the one used last, which has the warmest cache, is used next."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()

    def take(self) -> sqlite3.Connection:
        """Give one that nobody uses."""
        try:
            return self._idle.pop()
        except IndexError:
            made: sqlite3.Connection = sqlite3.connect(self._path, **_LITE)
            _tune_sqlite(made, None)
            return made

    def give(self, reader: sqlite3.Connection) -> None:
        """Take one back."""
        self._idle.append(reader)

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop().close()


class _Reading:
    """A read-only unit while it lasts."""

    def __init__(self, engine: sa.Engine, readers: _Readers | None) -> None:
        self._engine, self._readers = engine, readers
        self._reader: sqlite3.Connection | None = None

    def __enter__(self) -> SqlUnit:
        try:
            self._reader = self._readers.take() if self._readers else None
        except sqlite3.OperationalError as error:
            raise away(error) from error
        self._unit = SqlUnit(self._engine, self._reader)
        return self._unit

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._unit.close()
        if self._readers and self._reader:
            self._readers.give(self._reader)
        if isinstance(error, DBAPIError) and _is_away(error):
            raise away(error) from error


class _Turn:
    """The turn to write, among the threads of a process: SQLite's own waiting sleeps longer each time it looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=_PATIENCE):
            raise Unavailable("database")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Database:
    """One durable store. Safe to share between threads; make one per process (never across a fork)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {"pool_pre_ping": not self.is_sqlite}
        path = sa.make_url(url).database
        if self.is_sqlite:
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            options = {"connect_args": _LITE, "pool_size": 40, "max_overflow": 40}
        self.engine = sa.create_engine(url, **options)
        self._readers = _Readers(path) if self.is_sqlite and path else None
        self._turn = _Turn() if self.is_sqlite else contextlib.nullcontext()
        if self.is_sqlite:
            event.listen(self.engine, "connect", _tune_sqlite)

    def read(self) -> contextlib.AbstractContextManager[SqlUnit]:
        """Give a read-only unit. Raise `Unavailable` when the store cannot be reached."""
        return _Reading(self.engine, self._readers)

    @contextlib.contextmanager
    def write(self) -> Iterator[SqlUnit]:
        """Give one transaction: committed and durable on leaving, rolled back on any exception. Keep it short."""
        unit = SqlUnit(self.engine)
        try:
            with self._turn, unit.connection as connection:
                connection.begin()
                if self.is_sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield unit
                except BaseException:
                    connection.rollback()
                    raise
                connection.commit()
        except DBAPIError as error:
            if _is_away(error):
                raise away(error) from error
            raise
        for action in unit.actions:
            action()

    def ping(self) -> None:
        """Return when the store answers, else raise `Unavailable`."""
        with self.read() as unit:
            unit.connection.exec_driver_sql("SELECT 1")

    def close(self) -> None:
        """Close all pooled connections."""
        if self._readers is not None:
            self._readers.close()
        self.engine.dispose()


def _is_away(error: DBAPIError) -> bool:
    """Say whether an error means that the store cannot be reached."""
    return isinstance(error, OperationalError) or error.connection_invalidated


def away(error: Exception) -> Unavailable:
    """Give what to raise for an error of the driver that means that the store cannot work; it may have no room left."""
    origin = getattr(error, "orig", None) or error
    full = getattr(origin, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL or getattr(origin, "sqlstate", "") == _DISK_FULL
    return Unavailable("database", full=full)


def _tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "cache_size=-65536"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
