"""Calls that other threads leave for the thread of a poller."""

import os
import queue
import selectors
from collections.abc import Callable


class Calls:
    """What is left here from any thread is run by the thread that polls `selector`, in order."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        selector.register(self._event, selectors.EVENT_READ, self._run)

    def leave(self, call: Callable[[], object]) -> None:
        """Have it called soon."""
        self._queue.put(call)
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """End; what is left is not run."""
        self._selector.unregister(self._event)
        os.close(self._event)

    def _run(self, _event: object) -> None:
        os.eventfd_read(self._event)
        for _ in range(self._queue.qsize()):
            self._queue.get_nowait()()
