"""Where connections wait until they have asked for an association: a descriptor each, no thread, and a deadline.

An association costs a thread, so it begins when its A-ASSOCIATE-RQ is here, whole and of a sane size, and who calls whom was
found good by the fixed part of it: of a stranger's request no more is read. The deadline is the ARTIM timer of PS3.8 9.1.5.
"""

import selectors
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from broker.edge.dimse import association
from broker.edge.door import tls
from broker.edge.door.shares import Held
from broker.edge.door.waiting import QuietLog, Tls, Waiting, WaitingRoom

_LENGTH = struct.Struct(">L")
_SHORTEST = 68              # the fixed part of an A-ASSOCIATE-RQ, PDU type 1 (PS3.8 9.3.2)
_PIECE = 65536
_HELD = 16 << 20            # bytes of all requests that are not whole


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection gets no association: the PDU that says so, and the reason for the log."""

    answer: bytes
    reason: str


_NO_REQUEST = Refusal(association.UNEXPECTED, "the first PDU is no A-ASSOCIATE-RQ, or too long")


class Pending(Waiting):
    """A connection that has not asked for an association yet; `request` is what came of its A-ASSOCIATE-RQ."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        super().__init__(sock, address)
        self.request = bytearray()
        self.judged = False

    @property
    def lacks(self) -> int:
        """Bytes still to come before there is something to decide."""
        if len(self.request) < 6:
            return 6 - len(self.request)
        end = 6 + _LENGTH.unpack_from(self.request, 2)[0] if self.judged else association.HEAD
        return int(end) - len(self.request)

    @property
    def is_sane(self) -> bool:
        """Whether this may become an A-ASSOCIATE-RQ."""
        length = _LENGTH.unpack_from(self.request, 2)[0] if len(self.request) >= 6 else _SHORTEST
        starts_well = not self.request or self.request[0] == association.REQUEST
        return starts_well and _SHORTEST <= length <= association.LONGEST


Judge = Callable[[bytes], Refusal | None]
Enter = Callable[[Pending], Refusal | None]


class PendingConnections:
    """Accepts connections of `listener` and gives those that asked for an association whole to `enter`.

    `judge` is asked as soon as the fixed part of a request is here. At most `most` connections wait, each at most `seconds`;
    one more closes the one that waits longest of the peer that most come from. Where their requests hold too much
    memory, one of the peer that holds most is closed. For one thread.
    """

    def __init__(
        self, listener: socket.socket, most: int, seconds: float, judge: Judge, enter: Enter, port: Tls | None = None,
    ) -> None:
        self._listener, self._most, self._seconds, self._judge, self._enter = listener, most, seconds, judge, enter
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._room: WaitingRoom[Pending] = WaitingRoom(self._selector, self, port)
        self._held: Held[Pending] = Held(_HELD)
        self._log = QuietLog("broker.dimse")

    def step(self, timeout: float) -> None:
        """Attend to whoever comes or says something within `timeout` seconds."""
        for key, _ in self._selector.select(timeout):
            key.data(key.fileobj)
        self._room.look()

    def close(self) -> None:
        """Close all that wait."""
        for one in list(self._room):
            self.drop(one)
        self._selector.close()

    def drop(self, one: Pending) -> None:
        """Close a connection."""
        self._leave(one)
        tls.close(one.sock)

    turn_away = late = drop

    def _accept(self, listener: socket.socket) -> None:
        for sock, address in self._room.accept(listener):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if len(self._room) >= self._most:
                self._room.evict()
            self._room.admit(Pending(sock, address[0]), self._hear, self._seconds)

    def _hear(self, one: Pending) -> None:
        """Take what came, and no byte of what follows the request."""
        while one.lacks > 0 and one.is_sane:
            if not self._take(one):
                return
            if not one.judged and len(one.request) == association.HEAD:
                one.judged = True
                if (refusal := self._judge(bytes(one.request))) is not None:
                    self._refuse(one, refusal)
                    return
        if not one.is_sane:
            self._refuse(one, _NO_REQUEST)
            return
        self._leave(one)
        if (refusal := self._enter(one)) is not None:
            self._refuse(one, refusal)

    def _take(self, one: Pending) -> bool:
        """Add what came to a request; return whether it goes on."""
        data = tls.receive(one.sock, one.lacks)
        if data is None:
            return False
        if not data:
            self.drop(one)
            return False
        one.request += data
        self._held.note(one, len(one.request))
        if (loser := self._held.excess) is not None:
            self.drop(loser)
        return one.polled

    def _refuse(self, one: Pending, refusal: Refusal) -> None:
        """Say no. The peer gets a while to close: what it still sends would make the kernel drop our answer."""
        self._log.warning("association refused", one.address, refusal.reason)
        self._leave(one)
        one.request.clear()
        try:
            one.sock.send(refusal.answer)
            tls.finish(one.sock)
        except OSError:
            self.drop(one)
        else:
            self._room.wait(one, self._pass_over, self._seconds)

    def _pass_over(self, one: Pending) -> None:
        """Read what a refused one still sends, a piece at a time, until it closes."""
        if tls.receive(one.sock, _PIECE) == b"":
            self.drop(one)

    def _leave(self, one: Pending) -> None:
        self._room.leave(one)
        self._held.discard(one)
