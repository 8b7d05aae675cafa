"""One durable store: connections of SQLite or PostgreSQL, and the units of work on them.

`Database.read()` sees what is committed, each statement the newest, and can write nothing. `Database.write()` is one short
transaction. Stores turn a unit into a connection with `sql(unit)`.
"""

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from broker.db.errors import DRIVER_ERRORS, unavailable
from broker.db.gathered_commit import CommitGathering, GatheredUnit
from broker.db.shared_commit import PATIENCE, SharedWriter
from broker.db.unit import SqlUnit
from broker.files.modes import make_file, make_folder

_LITE: dict[str, Any] = {"timeout": PATIENCE, "check_same_thread": False}
_CONNECTIONS = 15           # to PostgreSQL, of one process; opened as they are needed, and kept: opening one costs milliseconds
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={PATIENCE * 1000:.0f}", "cache_size=-65536")

metadata = sa.MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
})


class _Idle:
    """Open reading connections of SQLite: the one used last, which has the warmest cache, is used next."""

    def __init__(self, connect: Callable[[], sa.Connection]) -> None:
        self._connect = connect
        self._idle: deque[SqlUnit] = deque()

    @contextlib.contextmanager
    def unit(self) -> Iterator[SqlUnit]:
        """Return a unit on a connection that nobody else uses."""
        try:
            unit = self._idle.pop()
        except IndexError:
            connection = self._connect()
            unit = SqlUnit(connection, connection.connection.driver_connection)
        try:
            yield unit
        finally:
            if unit.connection.in_transaction():
                unit.connection.rollback()
            self._idle.append(unit)

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop().connection.close()


class Database:
    """One durable store. Safe to share between threads; make one per process (never across a fork).

    `share_commits` lets writers at work together share a durable flush: on SQLite one commit, on PostgreSQL one of its log.
    """

    def __init__(self, url: str, *, share_commits: bool = True) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        if self.is_sqlite:
            file = sa.make_url(url).database
            if file:
                _make_private(Path(file))
            self.engine = _lite(url)
            self._reader = _lite(url, "query_only=ON")
            self._idle = _Idle(self._reader.connect)
            self._writer = SharedWriter(self.engine.connect, share=share_commits)
        else:
            self.engine = sa.create_engine(
                url, pool_size=_CONNECTIONS, max_overflow=0, pool_use_lifo=True, pool_pre_ping=True)
            self._gathering = CommitGathering() if share_commits else CommitGathering(0)
            self._reader = self.engine.execution_options(postgresql_readonly=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[SqlUnit]:
        """Return a read-only unit. Raise `Unavailable` when the store cannot be reached."""
        try:
            with self._idle.unit() if self.is_sqlite else _plain(self._reader) as unit:
                yield unit
        except DRIVER_ERRORS as error:
            raise unavailable(error) or error from error

    @contextlib.contextmanager
    def write(self) -> Iterator[SqlUnit]:
        """Return one transaction: committed and durable on leaving, rolled back on any exception. Keep it short.

        Raise `Unavailable` when the store cannot be reached or has no room.
        """
        try:
            with self._writer.unit() if self.is_sqlite else _transaction(self.engine, self._gathering) as unit:
                yield unit
        except DRIVER_ERRORS as error:
            raise unavailable(error) or error from error
        for action in unit.actions:
            action()

    def ping(self) -> None:
        """Return when the store answers, else raise `Unavailable`."""
        with self.read() as unit:
            unit.connection.exec_driver_sql("SELECT 1")

    def close(self) -> None:
        """Close all connections."""
        if self.is_sqlite:
            self._idle.close()
            self._writer.close()
        self._reader.dispose()
        self.engine.dispose()


def _make_private(file: Path) -> None:
    """Make the database's file before SQLite does: its journals have the mode of the file, whatever the umask is."""
    make_folder(file.parent)
    with contextlib.suppress(OSError):      # SQLite says what is wrong, when it opens it
        make_file(file)


@contextlib.contextmanager
def _plain(engine: sa.Engine) -> Iterator[SqlUnit]:
    with engine.connect() as connection:
        yield SqlUnit(connection)


@contextlib.contextmanager
def _transaction(engine: sa.Engine, gathering: CommitGathering) -> Iterator[SqlUnit]:
    with engine.connect() as connection, connection.begin(), GatheredUnit(gathering) as gathered:
        yield SqlUnit(connection, waiting=gathered.waiting)


def _lite(url: str, *pragmas: str) -> sa.Engine:
    """Return an engine whose connections are kept by their users; each begins with the pragmas."""
    engine = sa.create_engine(url, connect_args=_LITE, poolclass=sa.NullPool)

    def tune(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        for pragma in (*_PRAGMAS, *pragmas):
            connection.execute(f"PRAGMA {pragma}").close()

    event.listen(engine, "connect", tune)
    return engine
