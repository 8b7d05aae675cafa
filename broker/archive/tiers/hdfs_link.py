"""The way to one HDFS: calls with a deadline each, again by the clock while the cluster is between two states."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hdfs_native import Client

from broker.archive.tiers import hdfs_errors
from broker.archive.tiers.base import WHAT
from broker.archive.tiers.hdfs_calls import Call, Calls, Hung
from broker.archive.tiers.hdfs_errors import Trouble
from broker.model.errors import Unavailable

T = TypeVar("T")

_PAUSE = 1.0    # seconds between two attempts
_VAIN = 0.5     # seconds that are long for a call
_REST = 0.1     # seconds in which no file is looked for after one was so long, and in vain


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: of a call to the NameNode, of a read without a byte, of a whole file's writing beside size / rate (bytes/s)."""

    metadata: float = 5.0
    read: float = 10.0
    write: float = 10.0
    rate: float = 10e6


class Failed(Exception):
    """A call that failed, and why."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


class _Connection:
    """A client, made by the first call that needs it."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect, self._lock = connect, threading.Lock()
        self._client: Client | None = None

    def client(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client


class Patience:
    """The time that is left of a call."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._before: Trouble | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return self._ends - time.monotonic()

    def again(self, trouble: Trouble) -> None:
        """Return when it is time for another attempt. Raise `Unavailable` when there is none.

        An attempt that was cut off says less than the one before it.
        """
        if not trouble.passing or self.left <= 2 * _PAUSE:
            raise hdfs_errors.unavailable(self._before if self._before and trouble is hdfs_errors.HUNG else trouble)
        self._before = trouble
        time.sleep(_PAUSE)


class Link:
    """A client that is replaced when it hangs. Safe to share between threads."""

    def __init__(self, connect: Callable[[], Client], deadlines: Deadlines) -> None:
        self._connect, self.deadlines = connect, deadlines
        self.calls = Calls()
        self._connection = _Connection(connect)
        self._away = (0.0, "")      # until when no file is looked for, and why

    def look(self, function: Callable[[Client], T]) -> T:
        """Return the NameNode's answer about one file of many, as `ask` does.

        Right after one that waited in vain the others fail at once: those of one retrieve have one deadline together.
        """
        begun = time.monotonic()
        until, reason = self._away
        if begun < until:
            raise Unavailable(WHAT, reason=reason)
        try:
            return self.ask(function)
        except Unavailable as error:
            if time.monotonic() > begun + _VAIN:
                self._away = (time.monotonic() + _REST, error.reason)
            raise

    def ask(self, function: Callable[[Client], T]) -> T:
        """Return the NameNode's answer. Raise FileNotFoundError, FileExistsError, or `Unavailable` within its deadline."""
        patience = Patience(self.deadlines.metadata)
        while True:
            try:
                return self.once(patience.left, function)
            except Failed as failed:
                patience.again(failed.trouble)

    def once(self, seconds: float, function: Callable[[Client], T]) -> T:
        """Return what the client gives. Raise FileNotFoundError, FileExistsError, or `Failed` within so many seconds."""
        return self.result(self.begin(function), seconds)

    def begin(self, function: Callable[[Client], T]) -> Call[T]:
        """Begin a call, whose `result` is then to be asked for, or which is to be left. Raise `Failed` when too many hang."""
        connection = self._connection
        try:
            return self.calls.begin(lambda: function(connection.client()))
        except Hung:
            raise Failed(hdfs_errors.HUNG) from None

    def result(self, call: Call[T], seconds: float) -> T:
        """Return what a call gives. Raise FileNotFoundError, FileExistsError, or `Failed` within so many seconds."""
        if not call.wait(seconds) and self.leave(call):
            raise Failed(hdfs_errors.HUNG)
        try:
            found = call.result()
        except (FileNotFoundError, FileExistsError):
            raise
        except (OSError, RuntimeError) as error:
            raise Failed(hdfs_errors.of(error)) from error
        self._away = (0.0, "")
        return found

    def leave(self, call: Call[Any]) -> bool:
        """Leave a call that hangs; the next ones go by a new client. False when it has come back after all."""
        if not self.calls.leave(call):
            return False
        self._connection = _Connection(self._connect)
        return True

    def end(self) -> None:
        """Let go of the client and of idle threads."""
        self._connection = _Connection(self._connect)
        self.calls.end()
