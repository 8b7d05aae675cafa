"""Calls that may never come back: each runs in a thread of its own that its caller can leave behind.

hdfs-native's remote calls have no time limit: a NameNode that is frozen, or whose machine is gone, holds them until its
connection ends. A caller waits as long as it means to; the thread comes back by itself when the cluster does. How many
are left behind is bounded: past that a call fails at once, but for one now and then that tries whether the cluster answers.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_LEFT = 16              # calls left behind since the cluster last answered, before calls fail at once
_LEFT_EVER = 256        # left behind in all, before no call is tried any more
_PAUSES = (1.0, 30.0)   # seconds between two tries, doubled each time: the first pause and the longest one
_KEPT = 16              # threads that wait for the next call


class Hung(Exception):
    """A call did not come back in its time, or would have been one too many that does not."""


class Call(Generic[T]):
    """A call under way in another thread."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: list[T] = []
        self._error: Exception | None = None
        self._ended = threading.Event()
        self.left = self.back = False

    def run(self) -> None:
        """Carry it out in this thread; what it raises is kept for who waits."""
        try:
            self._result.append(self._function())
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            self._error = error
        except BaseException as error:  # noqa: BLE001 - a panic of hdfs-native is no Exception
            self._error = RuntimeError(f"hdfs-native gave up: {type(error).__name__}")

    def end(self) -> None:
        """Let go on who waits."""
        self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended within so many seconds."""
        return self._ended.wait(max(seconds, 0))

    def result(self) -> T:
        """Return what it returned, or raise what it raised; after it has ended."""
        if self._error is not None:
            raise self._error
        return self._result[0]


class _Worker:
    """A thread that carries out one call after the other."""

    def __init__(self, calls: "Calls") -> None:
        self._calls = calls
        self.calls: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="hdfs", daemon=True).start()

    def _work(self) -> None:
        while (call := self.calls.get()) is not None:
            call.run()
            kept = self._calls.came_back(self, call)
            call.end()
            if not kept:
                return
            del call        # what it gave is not held until the next one comes


class Calls:
    """Runs calls in daemon threads: a process that ends does not wait for them. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._idle: list[_Worker] = []
        self._left = self._left_since_answer = 0
        self._pause, self._next_try = _PAUSES[0], 0.0

    @property
    def left(self) -> int:
        """How many calls were left behind and have not come back."""
        return self._left

    def begin(self, function: Callable[[], T]) -> Call[T]:
        """Begin a call and return at once. Raise `Hung` when too many are left behind. Wait for it, or leave it."""
        call = Call(function)
        with self._lock:
            self._admit()
            worker = self._idle.pop() if self._idle else None
        (worker or _Worker(self)).calls.put(call)       # no thread is begun under the lock: that may run others' code
        return call

    def leave(self, call: Call[Any]) -> bool:
        """Leave a call behind; False when it has come back after all."""
        with self._lock:
            if call.back:
                return False
            if not call.left:
                call.left = True
                self._left += 1
                self._left_since_answer += 1
            return True

    def came_back(self, worker: _Worker, call: Call[Any]) -> bool:
        """Take note that a call has ended: the cluster answers. Return whether its thread is to wait for another one."""
        with self._lock:
            call.back = True
            self._left -= call.left
            self._left_since_answer, self._pause = 0, _PAUSES[0]
            if len(self._idle) >= _KEPT:
                return False
            self._idle.append(worker)
            return True

    def end(self) -> None:
        """Let idle threads end."""
        with self._lock:
            while self._idle:
                self._idle.pop().calls.put(None)

    def _admit(self) -> None:
        if self._left_since_answer < _LEFT and self._left < _LEFT_EVER:
            return
        now = self._clock()
        if now < self._next_try or self._left >= _LEFT_EVER:
            raise Hung
        self._next_try = now + self._pause
        self._pause = min(2 * self._pause, _PAUSES[1])


class Channel:
    """Pieces of bytes on their way from one thread to another, at most so many bytes of them (or one piece) at once."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._pieces: list[bytes] = []
        self._changed = threading.Condition(threading.Lock())
        self._full = self._over = False

    def put(self, piece: bytes, seconds: float | None = None) -> bool:
        """Hand over a piece; False when nobody takes any more. Raise `Hung` when there is no room within so many seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._over or not self._held or self._held + len(piece) <= self._most, seconds):
                raise Hung
            if not self._over:
                self._pieces.append(piece)
                self._held += len(piece)
                self._changed.notify_all()
            return not self._over

    def take(self, seconds: float | None = None) -> list[bytes]:
        """Return all pieces that are there, at least one; none when no more come. Raise `Hung` after so many seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._over or self._full or self._pieces, seconds):
                raise Hung
            pieces, self._pieces, self._held = self._pieces, [], 0
            self._changed.notify_all()
            return pieces

    def full(self) -> None:
        """Say that what was handed over is all there is."""
        with self._changed:
            self._full = True
            self._changed.notify_all()

    def over(self) -> None:
        """Say that nobody takes or gives any more; what is on its way is dropped."""
        with self._changed:
            self._over = True
            self._pieces = []
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether somebody said so."""
        return self._over
