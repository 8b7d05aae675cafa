"""What an operator sees of notifications and does about them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.db import Database
from broker.model.ports import Unit
from broker.patients.notifier import KEPT_SECONDS
from broker.patients.store import outbox
from broker.patients.store.outbox import Notification

DROPPED = "dropped by an operator"


@dataclass(frozen=True, slots=True)
class Queue:
    """Notifications to one consumer in one state: how many, and since when the oldest is there (seconds since the epoch)."""

    consumer: str
    state: str
    number: int
    since: float


class Outbox:
    """The notifications of a region. Safe to share between threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def queues(self) -> list[Queue]:
        """Return how many notifications there are, by consumer and state."""
        with self._database.read() as unit:
            return [Queue(*one) for one in outbox.counts(unit)]

    def listed(self, consumer: str, state: str, limit: int) -> list[Notification]:
        """Return notifications, oldest first; of any consumer and in any state where these are empty."""
        with self._database.read() as unit:
            return outbox.listed(unit, consumer=consumer, state=state, limit=limit)

    def send_at_once(self, number: int) -> bool:
        """Have one that waits or was refused sent now, in its place before those that wait; False when there is none such.

        False also for a refused one when the consumer has heard something newer of the same ids, or may have: it would believe
        what is old again.
        """
        with self._database.write() as unit:
            one = outbox.find(unit, number)
            if one is None or (one.done_at is not None and self._overtaken(unit, one, one.done_at)):
                return False
            return bool(outbox.move(unit, "wanted at once", number, {"next_at": self._clock(), "done_at": None}))

    def _overtaken(self, unit: Unit, one: Notification, refused_at: float) -> bool:
        return refused_at < self._clock() - KEPT_SECONDS or outbox.overtaken(unit, one)

    def drop(self, number: int) -> bool:
        """Give up one that waits, so that those behind it go on; False when there is none such."""
        with self._database.write() as unit:
            return bool(outbox.move(unit, "dropped", number, {"done_at": self._clock(), "reason": DROPPED}))
