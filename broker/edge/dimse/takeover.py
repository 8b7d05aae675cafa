"""Lets pynetdicom negotiate an association and then takes its socket.

pynetdicom's own loops poll, copy each data set several times and can lose a response under load. Whatever of its
inside this relies on is named here and in the contract test; pynetdicom is pinned to 3.0.x for it.
"""

import select
import socket
import time
from collections.abc import Callable
from typing import cast

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

_LONGEST_PDU = 1 << 20      # bytes pynetdicom may gather; we offer 128 KB
# PS3.8 9.2.1: our A-ASSOCIATE-AC is not sent yet. pynetdicom tells of the request just before it enters Sta3.
_AWAITING_ACCEPT = frozenset({"Sta2", "Sta3"})


class Bounded(AssociationSocket):
    """A socket of pynetdicom that gathers no PDU of any length, and none for longer than `patience` seconds.

    Made by switching the class of pynetdicom's own. It waits by poll(), because select() knows no descriptor over 1023.
    """

    patience: float

    @property
    def ready(self) -> bool:
        """Whether something can be read now."""
        if self.socket is None or not self._is_connected:
            return False
        poll = select.poll()
        try:
            poll.register(self.socket, select.POLLIN)
        except (OSError, ValueError):       # closed in this very moment
            self.event_queue.put("Evt17")
            return False
        return bool(poll.poll(0))

    def recv(self, nr_bytes: int) -> bytearray:
        """Give so many bytes, fewer only at the end. Raise OSError instead of gathering too many, or for too long."""
        if nr_bytes > _LONGEST_PDU:
            raise OSError("a PDU is too long")
        sock = cast("socket.socket", self.socket)
        data, until = bytearray(), time.monotonic() + self.patience
        try:
            while len(data) < nr_bytes:
                sock.settimeout(max(until - time.monotonic(), 0.001))
                piece = sock.recv(nr_bytes - len(data))
                if not piece:
                    break
                data += piece
        finally:
            sock.settimeout(self.patience)
        return data


class Greeted(Bounded):
    """A socket whose first PDU was read already: it is `said` first.

    While `held()` says so, what comes is left to whoever takes the socket.
    """

    said: bytes
    held: Callable[[], bool]

    @property
    def ready(self) -> bool:
        """Whether something can be read now."""
        if self.socket is None or not self._is_connected:
            return False
        return bool(self.said) or (not self.held() and super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Give so many bytes; see `Bounded`."""
        if not self.said:
            return super().recv(nr_bytes)
        data, self.said = self.said[:nr_bytes], self.said[nr_bytes:]
        return bytearray(data)


def bound(transport: AssociationSocket, patience: float) -> None:
    """Bound what pynetdicom reads from this socket."""
    transport.__class__ = Bounded
    cast("Bounded", transport).patience = patience


def greet(association: Association, said: bytes, held: Callable[[], bool], patience: float) -> None:
    """Have an accepted association begin with these bytes, and bound what pynetdicom reads behind them."""
    association.dul.socket.__class__ = Greeted
    found = cast("Greeted", association.dul.socket)
    found.said, found.held, found.patience = said, held, patience


def is_taken(association: Association, classes: frozenset[str] | None) -> bool:
    """Say whether an acceptor is to be taken over: every context it accepted is for one of `classes` (None = never)."""
    return classes is not None and all(str(context.abstract_syntax) in classes for context in association.accepted_contexts)


def take(association: Association) -> socket.socket | None:
    """Stop pynetdicom's threads and give the socket, ours to close; None when the association ended meanwhile.

    Call it from the association's own thread, or instead of it.
    """
    dul = association.dul
    while dul.is_alive() and dul.state_machine.current_state in _AWAITING_ACCEPT:
        time.sleep(0.0005)
    dul._kill_thread = True
    dul.join()
    transport = dul.socket
    sock = transport.socket if transport is not None else None
    if sock is None or transport is None:
        return None
    transport.socket, transport._is_connected = None, False
    if dul.peek_next_pdu() is not None or not dul.event_queue.empty():
        sock.close()
        return None
    return sock


def over(association: Association, *, released: bool) -> None:
    """Tell pynetdicom that a taken association is over."""
    association.is_released, association.is_aborted, association.is_established = released, not released, False
    association._kill = True
