"""Where connections wait until they have asked for an association: a descriptor each, no thread, and a deadline.

pynetdicom gives every connection two threads that poll a thousand times a second, and reads whatever length a first PDU
claims. So it sees only connections whose A-ASSOCIATE-RQ is here and of a sane size. The deadline is the ARTIM timer of
PS3.8 9.1.5.
"""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

_SHORTEST = 68              # the fixed part of an A-ASSOCIATE-RQ, PDU type 1 (PS3.8 9.3.2)
_LONGEST = 1 << 20          # 127 contexts with all syntaxes there are take 100 KB
_ABORT = b"\7\0\0\0\0\4\0\0\2\2"    # by the service provider: unexpected PDU
_AT_ONCE = 64
_PAUSE = 0.05

Ready = Callable[[socket.socket, tuple[str, int], bytes], None]

log = structlog.get_logger("broker.dimse")


@dataclass(slots=True, eq=False)
class _Guest:
    sock: socket.socket
    address: tuple[str, int]
    until: float
    said: bytearray = field(default_factory=bytearray)

    @property
    def lacks(self) -> int:
        """Bytes still to come, as far as is known."""
        size = 6 + int.from_bytes(self.said[2:6], "big") if len(self.said) >= 6 else 6
        return size - len(self.said)

    @property
    def is_sane(self) -> bool:
        """Whether this may become an A-ASSOCIATE-RQ."""
        length = int.from_bytes(self.said[2:6], "big") if len(self.said) >= 6 else _SHORTEST
        return (not self.said or self.said[0] == 1) and _SHORTEST <= length <= _LONGEST


class Lobby:
    """Accepts connections of `listener` and gives those that asked for an association to `ready`, with the request's bytes.

    At most `most` wait, each at most `seconds`; one more closes the one that waits longest. For one thread.
    """

    def __init__(self, listener: socket.socket, most: int, seconds: float, ready: Ready) -> None:
        self._listener, self._most, self._seconds, self._ready = listener, most, seconds, ready
        listener.setblocking(False)
        self._guests: dict[_Guest, None] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def step(self, timeout: float) -> None:
        """Attend to whoever comes or says something within `timeout` seconds."""
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, _Guest):
                if key.data in self._guests:
                    self._hear(key.data)
            else:
                self._accept()
        now = time.monotonic()
        while self._guests and (oldest := next(iter(self._guests))).until <= now:
            self._drop(oldest)

    def close(self) -> None:
        """Close all that wait."""
        for guest in list(self._guests):
            self._drop(guest)
        self._selector.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("not accepted", reason=error.strerror)
                if not self._evict():
                    time.sleep(_PAUSE)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if len(self._guests) >= self._most:
                self._evict()
            guest = _Guest(sock, address, time.monotonic() + self._seconds)
            self._guests[guest] = None
            self._selector.register(sock, selectors.EVENT_READ, guest)

    def _hear(self, guest: _Guest) -> None:
        """Take what came, and no byte of what follows the request."""
        while guest.lacks and guest.is_sane:
            try:
                data = guest.sock.recv(guest.lacks)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._drop(guest)
                return
            guest.said += data
        self._leave(guest)
        if guest.is_sane:
            self._ready(guest.sock, guest.address, bytes(guest.said))
            return
        log.warning("association refused", reason="the first PDU is no A-ASSOCIATE-RQ")
        with contextlib.suppress(OSError):
            guest.sock.send(_ABORT)
            guest.sock.shutdown(socket.SHUT_WR)
        guest.sock.close()

    def _evict(self) -> bool:
        longest = next(iter(self._guests), None)
        if longest is not None:
            self._drop(longest)
        return longest is not None

    def _drop(self, guest: _Guest) -> None:
        self._leave(guest)
        guest.sock.close()

    def _leave(self, guest: _Guest) -> None:
        del self._guests[guest]
        self._selector.unregister(guest.sock)
