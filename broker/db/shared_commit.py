"""SQLite's writers of one process: one after the other, and those that wait together share one durable commit.

On a disk a commit costs milliseconds, whatever it holds. Each unit of work after the first is a savepoint of one transaction:
a unit that fails takes back its own savepoint and nothing else. Whoever finishes while others wait for their turn hands the open
transaction on and sleeps until it is durable; the last one commits for all. See docs/decisions/0030-shared-commit.md.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from broker.db.errors import DRIVER_ERRORS
from broker.db.unit import SqlUnit
from broker.model.errors import Unavailable

PATIENCE = 30.0             # seconds a writer waits for those before it
_MAX_UNITS = 64             # units of one commit
OPEN_FOR = 0.02             # seconds after its beginning in which a transaction takes further units


class _WriteQueue:
    """The turn to write, in order of arrival: SQLite's own waiting sleeps longer each time it looks."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return len(self._waiting)

    def take(self) -> None:
        """Wait for the turn. Raise `Unavailable` after `PATIENCE` seconds."""
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            called = threading.Lock()
            called.acquire()
            self._waiting.append(called)
        if called.acquire(timeout=PATIENCE):
            return
        with self._mutex:
            if called in self._waiting:
                self._waiting.remove(called)
                raise Unavailable("database")

    def hand_on(self) -> bool:
        """Return the turn to the next one, if anybody waits; say whether."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
                return True
        return False

    def give_back(self) -> None:
        """Return the turn to the next one, or to nobody."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


class _Transaction:
    """What several units of work share, and how it ended."""

    def __init__(self, open_for: float) -> None:
        self.closes_at = time.monotonic() + open_for
        self.units = 0
        self.ended = threading.Event()
        self.error: Exception | None = None


class SharedWriter:
    """The one connection of a process that writes. `share=False`: each unit has a commit of its own.

    A transaction takes further units for `open_for` seconds after its beginning, so that other processes get their turn.
    """

    def __init__(self, connect: Callable[[], sa.Connection], *, share: bool = True, open_for: float = OPEN_FOR) -> None:
        self._connect, self._max_units, self._open_for = connect, _MAX_UNITS if share else 1, open_for
        self._turn = _WriteQueue()
        self._connection: sa.Connection | None = None
        self._driver: Any = None
        self._open: _Transaction | None = None

    @contextlib.contextmanager
    def unit(self) -> Iterator[SqlUnit]:
        """Return one unit of work: durable on leaving, or taken back on any exception.

        Raise `Unavailable` when the turn does not come, and errors of the driver.
        """
        self._turn.take()
        try:
            unit = self._begin()
        except BaseException:
            self._finish()
            raise
        try:
            yield unit
        except BaseException:
            self._take_back(unit)
            self._finish()
            raise
        self._keep(unit)

    @property
    def waiting(self) -> int:
        """How many writers wait for their turn."""
        return self._turn.waiting

    def close(self) -> None:
        """Close the connection; nobody may be writing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _begin(self) -> SqlUnit:
        if self._connection is None:
            self._connection = self._connect()
            self._driver = self._connection.connection.driver_connection
        unit = SqlUnit(self._connection, self._driver)
        if self._open is None:
            unit.driver.execute("BEGIN IMMEDIATE")
            self._open = _Transaction(self._open_for)
        if self._open.units:
            unit.driver.execute("SAVEPOINT unit")
        return unit

    def _take_back(self, unit: SqlUnit) -> None:
        if self._open is not None and not self._open.units:
            return      # there is nothing else in the transaction, which `_commit` takes back
        try:
            unit.driver.execute("ROLLBACK TO unit")
            unit.driver.execute("RELEASE unit")
        except DRIVER_ERRORS:       # a full disk may have ended the whole transaction already; `_commit` finds it gone
            with contextlib.suppress(*DRIVER_ERRORS):
                unit.driver.execute("ROLLBACK")

    def _keep(self, unit: SqlUnit) -> None:
        """Make what the unit did durable, with others if there are any; raise what went wrong."""
        shared = self._open
        assert shared is not None
        try:
            self._release(unit, shared)
        except BaseException:
            self._take_back(unit)
            self._finish()
            raise
        shared.units += 1
        may_grow = shared.units < self._max_units and time.monotonic() < shared.closes_at
        if may_grow and self._turn.hand_on():
            shared.ended.wait()
        else:
            self._finish()
        if shared.error is not None:
            raise shared.error

    def _release(self, unit: SqlUnit, shared: _Transaction) -> None:
        if shared.units:
            unit.driver.execute("RELEASE unit")
        elif not self._driver.in_transaction:       # SQLite ended it, and what the unit did last is not part of it
            raise Unavailable("database")

    def _finish(self) -> None:
        """End the transaction if there is one, tell those that wait for it, and return the turn back."""
        shared, self._open = self._open, None
        try:
            if shared is not None:
                shared.error = Unavailable("database")      # until more is known
                shared.error = self._commit(shared)
        finally:
            if shared is not None:
                shared.ended.set()
            self._turn.give_back()

    def _commit(self, shared: _Transaction) -> Exception | None:
        connection, driver = self._connection, self._driver
        assert connection is not None
        try:
            if not driver.in_transaction:
                return Unavailable("database")
            driver.execute("COMMIT" if shared.units else "ROLLBACK")
        except DRIVER_ERRORS as error:
            with contextlib.suppress(*DRIVER_ERRORS):
                driver.execute("ROLLBACK")
            return error
        finally:
            self._forget(connection)
        return None

    def _forget(self, connection: sa.Connection) -> None:
        """Let SQLAlchemy forget its transaction, of which nothing is left to take back; else take another connection next."""
        try:
            connection.rollback()       # does nothing where all statements were the driver's own
            ended = not self._driver.in_transaction
        except DRIVER_ERRORS:
            ended = False
        if not ended:
            self._connection = None
            with contextlib.suppress(*DRIVER_ERRORS):
                connection.invalidate()
