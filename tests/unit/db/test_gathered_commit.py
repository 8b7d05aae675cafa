"""Writers of PostgreSQL that are at work together commit together; whoever waits for another unit is not waited for."""

import contextlib
import threading
import time
from collections.abc import Callable, Collection

import pytest

from broker.db.gathered_commit import CommitGathering, GatheredUnit, LockKey

LONG = 3600.0       # nobody is late


class Unit(threading.Thread):
    """A unit of work in a thread of its own, which ends when it is told to."""

    def __init__(self, gathering: CommitGathering, locks: Collection[LockKey] = ()) -> None:
        super().__init__(daemon=True)
        self._gathering, self._locks = gathering, locks
        self.begun, self.told, self.failing = threading.Event(), threading.Event(), False
        self.start()
        assert self.begun.wait(30)

    def run(self) -> None:
        with contextlib.suppress(AssertionError), GatheredUnit(self._gathering) as unit:
            with unit.waiting(self._locks):
                """They are free."""
            self.begun.set()
            assert self.told.wait(30)
            assert not self.failing

    def end(self, *, failing: bool = False) -> None:
        self.failing = failing
        self.told.set()


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def test_who_is_alone_does_not_wait() -> None:
    unit = Unit(CommitGathering(LONG))
    unit.end()
    unit.join(30)
    assert not unit.is_alive()


@pytest.mark.parametrize("failing", [False, True])
def test_who_is_ready_waits_for_those_at_work(failing: bool) -> None:
    gathering = CommitGathering(LONG)
    units = [Unit(gathering) for _ in range(3)]
    for ready, unit in enumerate(units[:2], 1):
        unit.end()
        until(lambda ready=ready: gathering.ready == ready)     # type: ignore[misc]
    assert all(unit.is_alive() for unit in units)
    units[2].end(failing=failing)
    for unit in units:
        unit.join(30)
    assert [unit.is_alive() for unit in units] == [False] * 3


def test_who_waits_for_another_unit_is_not_waited_for() -> None:
    gathering = CommitGathering(LONG)
    holder = Unit(gathering)
    with GatheredUnit(gathering) as blocked:
        holder.end()
        until(lambda: gathering.ready == 1)
        with blocked.waiting([]):
            holder.join(30)
    assert not holder.is_alive()


def test_who_holds_a_lock_that_another_waits_for_waits_for_nobody() -> None:
    gathering = CommitGathering(LONG)
    at_work = Unit(gathering)
    holder, other = (Unit(gathering, locks) for locks in ([(4, 1)], [(4, 2)]))
    for unit in (holder, other):
        unit.end()
    until(lambda: gathering.ready == 2)
    with GatheredUnit(gathering) as blocked:
        with blocked.waiting([(4, 1)]):
            holder.join(30)
            assert [unit.is_alive() for unit in (holder, other)] == [False, True]
        at_work.end()
    other.join(30)
    assert not other.is_alive()


def test_nobody_is_waited_for_longer_than_said() -> None:
    gathering = CommitGathering(0)
    long_one, unit = Unit(gathering), Unit(gathering)
    unit.end()
    unit.join(30)
    assert not unit.is_alive()
    long_one.end()
