"""PostgreSQL's writers of one process: those that are at work together ask for their commits at the same moment.

PostgreSQL writes its log to the disk once for all commits that wait for it, but the threads of one process reach theirs one
after the other, as each gets the interpreter. Whoever is ready therefore waits for those at work, a few milliseconds at the
most. Nobody waits who is alone, nor who holds a lock that another one waits for. See docs/decisions/0042-gathered-commits.md.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Self

LONGEST = 0.1     # seconds after its beginning for which others wait for a unit of work


LockKey = tuple[int, int]     # kind and key, as PostgreSQL's advisory locks have them


class CommitGathering:
    """Who is at work, and who waits with a finished unit of work. `longest` is in seconds; 0: nobody waits."""

    def __init__(self, longest: float = LONGEST) -> None:
        self._longest = longest
        self._changed = threading.Condition()
        self._working: dict[GatheredUnit, float] = {}     # when it began, or got its locks
        self._wanted: Counter[LockKey] = Counter()      # how many wait for each lock
        self.ready = 0      # how many wait for those at work

    def begin(self, unit: "GatheredUnit") -> None:
        """Note that a unit is at work."""
        with self._changed:
            self._working[unit] = time.monotonic()

    def stop(self, unit: "GatheredUnit") -> None:
        """Note that a unit is not at work any more."""
        with self._changed:
            del self._working[unit]
            if not self._working:
                self._changed.notify_all()

    @contextlib.contextmanager
    def wanting(self, locks: Collection[LockKey]) -> Iterator[None]:
        """Enclose waiting for locks."""
        with self._changed:
            self._wanted.update(locks)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._wanted -= Counter(locks)      # keeps no zeros

    def gather(self, held: Collection[LockKey]) -> None:
        """Return when nobody is at work, or all have been for too long, or somebody waits for a lock that is `held`."""
        with self._changed:
            if self._working:
                last = max(self._working.values()) + self._longest - time.monotonic()
                self.ready += 1
                self._changed.wait_for(lambda: not self._working or not self._wanted.keys().isdisjoint(held), max(0.0, last))
                self.ready -= 1


class GatheredUnit:
    """A context manager around one unit of work: left when it should commit, at once where it failed."""

    def __init__(self, gathering: CommitGathering) -> None:
        self._gathering = gathering
        self._held: set[LockKey] = set()

    def __enter__(self) -> Self:
        self._gathering.begin(self)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._gathering.stop(self)
        if kind is None:
            self._gathering.gather(self._held)

    @contextlib.contextmanager
    def waiting(self, locks: Collection[LockKey]) -> Iterator[None]:
        """Enclose waiting for locks: another unit, which may hold one, must not wait for this one, nor for any other."""
        self._gathering.stop(self)
        try:
            with self._gathering.wanting(locks):
                yield
        finally:
            self._gathering.begin(self)
        self._held.update(locks)
