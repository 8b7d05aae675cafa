"""Work on many things, of which each fails by itself: recorded with its reason, tried again later and later, visible."""

from collections.abc import Callable
from typing import TypeVar

import structlog

from broker.db import Database
from broker.imaging.store import setbacks
from broker.model.errors import BrokerError, place_of
from broker.security.gate import reason

log = structlog.get_logger("broker.background")

_T = TypeVar("_T")


def why(error: Exception) -> str:
    """Return what people may read of an error: what it says where it is one of ours, else where it came from."""
    return reason(error) if isinstance(error, BrokerError) else place_of(error)


class Alone:
    """One kind of work (`store.setbacks`). What failed before a process started is tried once when it starts.

    `event` is what the log says of a failure.
    """

    def __init__(self, database: Database, work: str, event: str = "background work on one thing failed") -> None:
        self._database, self._work, self._event = database, work, event
        self._failed: set[str] = set()
        self._waiting: dict[str, float] = {}
        self._started = False

    def begin(self) -> None:
        """Look at what failed; call it before each run."""
        with self._database.read() as unit:
            known = setbacks.known(unit, self._work)
        self._failed = set(known)
        self._waiting = known if self._started else {}
        self._started = True

    def waits(self, subject: object, now: float) -> bool:
        """Say whether the subject failed and is not to be tried yet."""
        return now < self._waiting.get(str(subject), now) <= now + setbacks.LONGEST_DELAY     # later: a clock was set back

    @property
    def waiting(self) -> int:
        """How many subjects failed."""
        return len(self._waiting)

    def attempt(self, subject: object, now: float, action: Callable[[], _T], hospital: str = "") -> _T | None:
        """Return what `action` does; None when it failed, which is noted. Raise `Unavailable` when that cannot be noted."""
        key = str(subject)
        try:
            done = action()
        except Exception as error:  # noqa: BLE001 - the edge of one subject
            said = why(error)
            with self._database.write() as unit:
                row = setbacks.note(unit, self._work, key, hospital, said, now)
            self._failed.add(key)
            self._waiting[key] = row.next_at
            log.error(self._event, work=self._work, subject=key, reason=said, attempts=row.attempts)
            return None
        if key in self._failed:
            with self._database.write() as unit:
                setbacks.clear(unit, self._work, key)
            self._failed.discard(key)
            self._waiting.pop(key, None)
        return done
