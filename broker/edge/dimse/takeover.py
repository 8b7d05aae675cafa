"""Lets pynetdicom negotiate an association and then takes its socket.

pynetdicom's own loops poll, copy each data set several times and can lose a response under load. Whatever of its
inside this relies on is named here and in the contract test; pynetdicom is pinned to 3.0.x for it.
"""

import socket
import time
from typing import NamedTuple

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_RELEASE, P_DATA

from broker.edge.dimse.pdata import Piece

_AWAITING_ACCEPT = "Sta3"   # PS3.8 9.2.1: our A-ASSOCIATE-AC is not sent yet


class Taken(NamedTuple):
    """The socket of an association: ours to close. `early` came before; `released` = and then the peer asked for release.

    `sock` is None when the association ended meanwhile.
    """

    sock: socket.socket | None
    early: list[Piece]
    released: bool


class Collector:
    """Stands in for pynetdicom's message assembly: keeps fragments that come before the take-over.

    An association is taken when every context it accepted is for one of `classes` (None = never).
    """

    def __init__(self, association: Association, classes: frozenset[str] | None) -> None:
        self._association, self._classes, self.pieces = association, classes, list[Piece]()
        self._assemble = association.dimse.receive_primitive
        association.dimse.receive_primitive = self._receive  # type: ignore[method-assign]

    @property
    def takes(self) -> bool:
        """Whether the association will be taken; known once it is accepted."""
        accepted = self._association.accepted_contexts
        return self._classes is not None and all(str(context.abstract_syntax) in self._classes for context in accepted)

    def _receive(self, primitive: P_DATA) -> None:
        if not self.takes:
            self._assemble(primitive)
            return
        for context, data in primitive.presentation_data_value_list:
            self.pieces.append(Piece(context, bool(data[0] & 1), bool(data[0] & 2), bytes(data[1:])))


def take(association: Association, early: list[Piece]) -> Taken:
    """Stop pynetdicom's threads and give the socket. Call it from the association's own thread, or instead of it."""
    dul = association.dul
    while dul.is_alive() and dul.state_machine.current_state == _AWAITING_ACCEPT:
        time.sleep(0.0005)
    dul._kill_thread = True
    dul.join()
    transport = dul.socket
    sock = transport.socket if transport is not None else None
    if sock is None or transport is None:
        return Taken(None, early, released=False)
    transport.socket, transport._is_connected = None, False
    ended = dul.peek_next_pdu()
    released = isinstance(ended, A_RELEASE)
    if (ended is not None and not released) or not dul.event_queue.empty():
        sock.close()
        return Taken(None, early, released=False)
    return Taken(sock, early, released)


def over(association: Association, *, released: bool) -> None:
    """Tell pynetdicom that a taken association is over."""
    association.is_released, association.is_aborted, association.is_established = released, not released, False
    association._kill = True
