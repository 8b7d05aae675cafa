"""How tests connect to a port: plain, or over TLS while `over` runs, so that one test tries both."""

import contextlib
import socket
import ssl
from collections.abc import Iterator

from tests.helpers.waiting import PATIENCE

LINES = ("plain", "tls")
_contexts: list[ssl.SSLContext] = []


@contextlib.contextmanager
def over(context: ssl.SSLContext | None) -> Iterator[None]:
    """Have every `dial` shake hands by this context; by none where it is None."""
    if context is None:
        yield
        return
    _contexts.append(context)
    try:
        yield
    finally:
        _contexts.pop()


def dial(port: int, timeout: float = PATIENCE, source: str = "") -> socket.socket:
    """Connect to a port of this machine."""
    sock = socket.create_connection(("127.0.0.1", port), timeout, (source, 0))
    if not _contexts:
        return sock
    try:
        return _contexts[-1].wrap_socket(sock, server_hostname="localhost")
    except BaseException:
        sock.close()
        raise
