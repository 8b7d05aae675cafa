"""An association we open: pynetdicom negotiates it, then requests go out and responses come in on our own link."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket

from broker.config.profile import Hospital
from broker.config.settings import Server as ServerSettings
from broker.edge.dimse import pdata, statuses
from broker.edge.dimse.c_store import Reception, StoreRequest
from broker.edge.dimse.messages import Message, Messages
from broker.edge.dimse.pdata import Limits, Link, PeerGone, ProtocolError
from broker.edge.dimse.takeover import bound, over, take
from broker.model.errors import TooLarge, Unavailable
from broker.wire.tags import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION

_config.LOG_HANDLER_LEVEL = "none"  # its default handlers format every PDU for a log nobody reads

LONGEST_PDU = 131072
_MESSAGE_ID = 1     # one request at a time
_CANCELLING = 5.0   # seconds a peer gets to end what was cancelled


class Patience:
    """How long one request may take: `idle` seconds of silence, `total` in all. `progress` gives False to cancel it."""

    def __init__(self, idle: float, total: float, progress: Callable[[], bool] = lambda: True) -> None:
        self._idle, self._total, self._progress = idle, total, progress
        self._end = self._asked = 0.0
        self._cancel: Callable[[], None] = lambda: None
        self.cancelled = False

    def begin(self, cancel: Callable[[], None]) -> None:
        """Start the clock of a request that `cancel` asks the peer to end."""
        self._asked = time.monotonic()
        self._end, self._cancel = self._asked + self._total, cancel

    def __call__(self, silent: float) -> None:
        """Look at the clock: after each second of silence with its length, with 0 when bytes came. Raise `PeerGone`."""
        now = time.monotonic()
        if silent >= self._idle:
            raise PeerGone(f"silent for {silent:.0f} seconds")
        if now >= self._end:
            raise PeerGone(f"not done after {self._total:.0f} seconds")
        if now - self._asked >= pdata.TICK / 2 and not self.cancelled:
            self._asked = now
            if not self._progress():
                self.cancelled = True
                self._end = min(self._end, now + _CANCELLING)
                self._cancel()


class _Held(Association):
    """A requestor whose own thread has nothing to do: it can take no message away."""

    def _run_reactor(self) -> None:
        return


def _hold(event: Event) -> None:
    event.assoc.__class__ = _Held


class _Entity(AE):
    """An AE that remembers its socket: pynetdicom loses the one whose connection was refused, unclosed.

    What it reads before the socket is ours is bounded.
    """

    raw: socket.socket | None = None

    def _create_socket(self, *arguments: Any) -> AssociationSocket:
        transport = super()._create_socket(*arguments)
        bound(transport, float(self.acse_timeout or 0.0))
        self.raw = transport.socket
        return transport

    def give_up(self) -> None:
        """Close what a failed request left open."""
        if self.raw is not None:
            self.raw.close()


class Requestor:
    """An open association with a hospital's PACS; made by `connect`."""

    def __init__(
        self, link: Link, association: Association, patience: Patience, receive: Callable[[StoreRequest], Reception],
        done: Callable[[Reception], int],
    ) -> None:
        self._link, self._patience = link, patience
        self._longest = association.acceptor.maximum_length or 0
        accepted = [(context.context_id or 0, context) for context in association.accepted_contexts]
        self._contexts = {str(context.abstract_syntax): number for number, context in reversed(accepted)}
        syntaxes = {number: str(context.transfer_syntax[0]) for number, context in accepted}
        self._messages = Messages(link, syntaxes, receive, done).incoming()

    def ask(
        self, sop_class: str, field: int, identifier: bytes | None = None, destination: str = "",
    ) -> Iterator[tuple[int, bytes]]:
        """Send a request; give (status, data set) of each response, the final one last. Exhaust it before the next."""
        if sop_class not in self._contexts:
            raise ProtocolError("did not accept this service")
        context = self._contexts[sop_class]
        elements: list[tuple[int, int | str]] = [
            (pdata.CLASS, sop_class), (pdata.FIELD, field), (pdata.MESSAGE_ID, _MESSAGE_ID)]
        if destination:
            elements.append((pdata.DESTINATION, destination))
        if identifier is not None:
            elements.append((pdata.PRIORITY, 0))
        elements.append((pdata.DATA_SET, pdata.NO_DATA_SET if identifier is None else 1))
        request = pdata.write_command(context, elements)
        if identifier is not None:
            request += pdata.write_data_set(context, identifier, self._longest)
        self._patience.begin(lambda: self._cancel(context))
        self._link.send(request)
        for message in self._messages:
            status = _status(message, field)
            yield status, message.data
            if status not in statuses.PENDING:
                return
        raise PeerGone("released before the final response")

    def _cancel(self, context: int) -> None:
        self._link.send(pdata.write_command(context, [
            (pdata.FIELD, pdata.C_CANCEL_RQ), (pdata.RESPONDED_TO, _MESSAGE_ID), (pdata.DATA_SET, pdata.NO_DATA_SET)]))


def _status(message: Message, field: int) -> int:
    command = message.command
    if command.number(pdata.FIELD) != field | pdata.RESPONSE or command.number(pdata.RESPONDED_TO) != _MESSAGE_ID:
        raise ProtocolError("an answer to something else")
    status = command.number(pdata.STATUS)
    if status < 0:
        raise ProtocolError("an answer without a status")
    return status


def _nothing(_request: StoreRequest) -> Reception:
    raise ProtocolError("an object nobody asked for on this association")


@contextlib.contextmanager
def connect(
    hospital: Hospital, settings: ServerSettings, contexts: list[PresentationContext], patience: Patience, *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (), receive: Callable[[StoreRequest], Reception] = _nothing,
    done: Callable[[Reception], int] = Reception.close,
) -> Iterator[Requestor]:
    """Open an association with a hospital's PACS; it is released when the block ends.

    Raise `Unavailable` with a plain reason when the PACS refuses, is silent, breaks off or answers nonsense, then too
    when that happens inside the block.
    """
    association = _associate(hospital, settings, contexts, roles)
    sock = take(association)
    if sock is None:
        over(association, released=False)
        raise away(hospital, "closed the association at once")
    link = Link(sock, Limits(settings.io_timeout, settings.max_message), patience)
    try:
        link.begin()
        yield Requestor(link, association, patience, receive, done)
        link.release()
    except (PeerGone, OSError) as error:
        raise away(hospital, str(error)) from error
    except (ProtocolError, TooLarge) as error:
        link.abort()
        raise away(hospital, str(error)) from error
    except Unavailable:
        link.release()
        raise
    except BaseException:
        link.abort()
        raise
    finally:
        link.close()
        over(association, released=True)


def away(hospital: Hospital, why: str) -> Unavailable:
    """Give the error that says which PACS failed and why, without anything about a patient."""
    return Unavailable(f"PACS {hospital.ae_title} of hospital {hospital.key} ({why})")


def _associate(
    hospital: Hospital, settings: ServerSettings, contexts: list[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
) -> Association:
    ae = _Entity(ae_title=settings.ae_title)
    ae.implementation_class_uid, ae.implementation_version_name = IMPLEMENTATION_UID, IMPLEMENTATION_VERSION
    ae.acse_timeout = ae.connection_timeout = hospital.limits.connect_seconds
    ae.network_timeout = None
    try:
        association = ae.associate(
            hospital.host, hospital.port, contexts=contexts, ae_title=hospital.ae_title, max_pdu=LONGEST_PDU,
            ext_neg=list(roles), evt_handlers=[(evt.EVT_ESTABLISHED, _hold)])
    except OSError as error:
        raise away(hospital, "its host name is not known") from error
    if association.is_established:
        return association
    ae.give_up()
    answer = association.acceptor.primitive
    if association.is_rejected and isinstance(answer, A_ASSOCIATE):
        raise away(hospital, f"refused: {answer.reason_str}")
    raise away(hospital, "no connection, no answer, or no service it would accept")
