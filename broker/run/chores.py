"""Background work as rows: what, how often, what wakes it early. Each has a thread: what takes long holds up nothing else."""

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from broker.coord.base import Subscription
from broker.model.errors import BrokerError, place_of
from broker.security.gate import reason

log = structlog.get_logger("broker.worker")


@dataclass(frozen=True, slots=True)
class Chore:
    """One kind of work, done again `period` seconds after it was done, or as soon as something is heard on `wake`.

    `halt` ends early what would take long when the process stops.
    """

    name: str
    period: float
    work: Callable[[], object]
    wake: Subscription | None = None
    halt: Callable[[], object] | None = None

    def attempt(self) -> None:
        """Do the work once; what goes wrong is logged, and the next time it is tried again."""
        try:
            self.work()
        except BrokerError as error:
            log.warning("background work will be tried again", work=self.name, reason=reason(error))
        except Exception as error:  # noqa: BLE001 - the edge of this kind of work; a traceback could hold what pictures say
            log.error("background work failed", work=self.name, reason=place_of(error))

    def repeat(self, stop: threading.Event) -> None:
        """Do the work until `stop` is set."""
        while not stop.is_set():
            self.attempt()
            if self.wake is None:
                stop.wait(self.period)
            else:
                self.wake.get(self.period)


def run_all(chores: Collection[Chore], stop: threading.Event) -> None:
    """Do all work until `stop` is set, and return when none is under way."""
    threads = [threading.Thread(target=chore.repeat, args=(stop,), name=chore.name) for chore in chores]
    try:
        for thread in threads:
            thread.start()
        stop.wait()
    finally:
        stop.set()
        for chore in chores:
            if chore.halt is not None:
                chore.halt()
        for thread in threads:
            thread.join()
