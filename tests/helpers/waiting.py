"""Waiting in tests: as long as a busy machine may need, and no longer than it takes.

No test asserts that something is quick in seconds. Where a deadline is under test, the others are set so long that only the
right one can end the wait; where two things race, what came first is asserted.
"""

import selectors
import socket
import time
from collections.abc import Callable, Sequence

PATIENCE = 45.0     # seconds for what happens at once on a calm machine; deadlines that no test may see are longer


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return as soon as the condition holds; fail when it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def spoken_to(connections: Sequence[socket.socket], seconds: float = PATIENCE) -> list[socket.socket]:
    """Return those with something to read as soon as there is one; none after so many seconds.

    `select.select` knows no descriptor above 1023, and a whole test run may have more.
    """
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
        return [key.data for key, _events in selector.select(seconds)]
