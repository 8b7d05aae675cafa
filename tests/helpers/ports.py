"""TCP ports for the servers of tests.

A port that the system gave and that is let go again may be given to somebody's outgoing connection before its server
starts. These lie below the system's own range, and each process begins at a place of its own.
"""

import itertools
import os
import socket
from collections.abc import Iterator

FIRST, LAST = 10_240, 32_767


def _walk() -> Iterator[int]:
    width = LAST - FIRST + 1
    start = os.getpid() * 7919 % width        # neighbouring process ids are far enough from each other
    return (FIRST + (start + step) % width for step in itertools.count())


_candidates = _walk()


def free_ports(count: int) -> list[int]:
    """Return loopback ports nobody listens on now; the same process gets none of them again soon."""
    return [free_port() for _ in range(count)]


def free_port() -> int:
    """Return a loopback port nobody listens on now."""
    return next(port for port in _candidates if is_free(port))


def is_free(port: int) -> bool:
    """Whether nobody listens on this loopback port now."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
