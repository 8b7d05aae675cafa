"""Where connections wait until they have asked for an association: a descriptor each, no thread, and a deadline.

An association costs a thread, so it begins when its A-ASSOCIATE-RQ is here, whole and of a sane size, and who calls whom was
found good by the fixed part of it: of a stranger's request no more is read. The deadline is the ARTIM timer of PS3.8 9.1.5.
"""

import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from broker.edge.dimse import association

_SHORTEST = 68              # the fixed part of an A-ASSOCIATE-RQ, PDU type 1 (PS3.8 9.3.2)
_AT_ONCE = 64
_PAUSE = 0.05
_PIECE = 65536
_HELD = 16 << 20            # bytes of all requests that are not whole
_QUIET = 1.0                # seconds between two log lines about one address

log = structlog.get_logger("broker.dimse")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection gets no association: the PDU that says so, and the reason for the log."""

    answer: bytes
    reason: str


Judge = Callable[[bytes], Refusal | None]
Enter = Callable[[socket.socket, str, bytes], Refusal | None]

_NO_REQUEST = Refusal(association.UNEXPECTED, "the first PDU is no A-ASSOCIATE-RQ, or too long")


@dataclass(slots=True, eq=False)
class _Pending:
    sock: socket.socket
    address: str
    until: float
    said: bytearray = field(default_factory=bytearray)
    judged: bool = False
    refused: bool = False

    @property
    def lacks(self) -> int:
        """Bytes still to come before there is something to decide."""
        if len(self.said) < 6:
            return 6 - len(self.said)
        end = 6 + int.from_bytes(self.said[2:6], "big") if self.judged else association.HEAD
        return end - len(self.said)

    @property
    def is_sane(self) -> bool:
        """Whether this may become an A-ASSOCIATE-RQ."""
        length = int.from_bytes(self.said[2:6], "big") if len(self.said) >= 6 else _SHORTEST
        return (not self.said or self.said[0] == association.REQUEST) and _SHORTEST <= length <= association.LONGEST


class PendingConnections:
    """Accepts connections of `listener` and gives those that asked for an association to `enter`, with the request's bytes.

    `judge` is asked as soon as the fixed part of a request is here. At most `most` connections wait, each at most `seconds`;
    one more closes the one that waits longest of the address that most come from. Where their requests hold too much
    memory, one of the address that holds most is closed. For one thread.
    """

    def __init__(self, listener: socket.socket, most: int, seconds: float, judge: Judge, enter: Enter) -> None:
        self._listener, self._most, self._seconds, self._judge, self._enter = listener, most, seconds, judge, enter
        listener.setblocking(False)
        self._waiting: dict[_Pending, None] = {}
        self._held = 0
        self._by_address: dict[str, dict[_Pending, None]] = {}
        self._told: dict[str, tuple[float, int]] = {}       # when a refusal was logged, and how many since were not
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def step(self, timeout: float) -> None:
        """Attend to whoever comes or says something within `timeout` seconds."""
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, _Pending):
                if key.data in self._waiting:
                    (self._pass_over if key.data.refused else self._hear)(key.data)
            else:
                self._accept()
        now = time.monotonic()
        while self._waiting and (oldest := next(iter(self._waiting))).until <= now:
            self._drop(oldest)

    def close(self) -> None:
        """Close all that wait."""
        for one in list(self._waiting):
            self._drop(one)
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
            if len(self._waiting) >= self._most:
                self._evict()
            one = _Pending(sock, address[0], time.monotonic() + self._seconds)
            self._waiting[one] = None
            self._by_address.setdefault(one.address, {})[one] = None
            self._selector.register(sock, selectors.EVENT_READ, one)

    def _hear(self, one: _Pending) -> None:
        """Take what came, and no byte of what follows the request."""
        while one.lacks > 0 and one.is_sane:
            if not self._take(one):
                return
            if not one.judged and len(one.said) == association.HEAD:
                one.judged = True
                if (refusal := self._judge(bytes(one.said))) is not None:
                    self._refuse(one, refusal)
                    return
        if not one.is_sane:
            self._refuse(one, _NO_REQUEST)
            return
        self._selector.unregister(one.sock)
        if (refusal := self._enter(one.sock, one.address, bytes(one.said))) is None:
            self._forget(one)
        else:
            self._selector.register(one.sock, selectors.EVENT_READ, one)
            self._refuse(one, refusal)

    def _take(self, one: _Pending) -> bool:
        """Add what came to a request; return whether it goes on."""
        try:
            data = one.sock.recv(one.lacks)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._drop(one)
            return False
        one.said += data
        self._held += len(data)
        if self._held > _HELD:
            self._relieve()
        return one in self._waiting

    def _relieve(self) -> None:
        """Close the one that began first, of the address whose requests hold most memory."""
        held: Counter[str] = Counter()
        for one in self._waiting:
            held[one.address] += len(one.said)
        crowd = self._by_address[max(held, key=held.__getitem__)]
        self._drop(next(one for one in crowd if one.said))

    def _refuse(self, one: _Pending, refusal: Refusal) -> None:
        """Say no. The peer gets until its deadline to close: what it still sends would make the kernel drop our answer."""
        self._tell(one.address, refusal.reason)
        one.refused = True
        self._held -= len(one.said)
        one.said.clear()
        try:
            one.sock.send(refusal.answer)
            one.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(one)

    def _tell(self, address: str, reason: str) -> None:
        """Log a refusal; of one address a line a second, which counts those that have none."""
        now = time.monotonic()
        told, silent = self._told.get(address, (0.0, 0))
        if now - told < _QUIET:
            self._told[address] = told, silent + 1
            return
        if len(self._told) >= self._most:
            self._told.clear()
        self._told[address] = now, 0
        log.warning("association refused", address=address, reason=reason, **({"others": silent} if silent else {}))

    def _pass_over(self, one: _Pending) -> None:
        """Read what a refused one still sends, a piece at a time, until it closes."""
        try:
            data = one.sock.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(one)

    def _evict(self) -> bool:
        """Close one; say whether there was one."""
        if not self._waiting:
            return False
        crowd = max(self._by_address.values(), key=len)
        self._drop(next(iter(crowd)))
        return True

    def _drop(self, one: _Pending) -> None:
        self._selector.unregister(one.sock)
        self._forget(one)
        one.sock.close()

    def _forget(self, one: _Pending) -> None:
        del self._waiting[one]
        self._held -= len(one.said)
        crowd = self._by_address[one.address]
        del crowd[one]
        if not crowd:
            del self._by_address[one.address]
