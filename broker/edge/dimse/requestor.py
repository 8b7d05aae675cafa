"""An association we open with a PACS: requests go out and responses come in."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from broker.config.profile import Hospital
from broker.config.settings import Server as ServerSettings
from broker.edge.dimse import association, pdata, statuses
from broker.edge.dimse.association import Accept, Context, Head, Implementation
from broker.edge.dimse.c_store import IncomingObject, StoreRequest
from broker.edge.dimse.contexts import Proposal
from broker.edge.dimse.messages import Message, Messages
from broker.edge.dimse.pdata import Limits, PeerBroke, PeerGone, ProtocolError, UpperLayer
from broker.model.errors import TooLarge, Unavailable
from broker.wire.tags import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION

LONGEST_PDU = 131072
_MESSAGE_ID = 1     # one request at a time
_HEADER = struct.Struct(">BBL")
_CANCELLING = 5.0   # seconds a peer gets to end what was cancelled


class Answer(NamedTuple):
    """A response of the peer: its status, its data set (empty when it has none), and what its command set says beside.

    `offending` is the element it complains of, as a tag; `failed` are the SOP Instance UIDs it could not send.
    """

    status: int
    data: bytes
    offending: str
    failed: tuple[str, ...]

    @property
    def words(self) -> str:
        """The status in plain words."""
        return statuses.meaning(self.status) + (f", element {self.offending}" if self.offending else "")


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


class Requestor:
    """An open association with a hospital's PACS; made by `connect`."""

    def __init__(
        self, upper: UpperLayer, proposed: Sequence[Context], accept: Accept, patience: Patience,
        receive: Callable[[StoreRequest], IncomingObject], done: Callable[[IncomingObject], int],
    ) -> None:
        self._upper, self._patience, self._longest = upper, patience, accept.length
        classes = {context.number: context for context in proposed}
        syntaxes = {
            answer.number: answer.syntax for answer in accept.contexts if answer.result == association.TAKEN
            and answer.number in classes and answer.syntax in classes[answer.number].syntaxes}
        self._contexts = {classes[number].abstract: number for number in reversed(syntaxes)}
        self._messages = Messages(upper, syntaxes, receive, done, accept.length).incoming()

    def ask(
        self, sop_class: str, field: int, identifier: bytes | None = None, destination: str = "",
    ) -> Iterator[Answer]:
        """Send a request; return each response, the final one last. Exhaust it before the next."""
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
        request = pdata.write_command(context, elements, self._longest)
        if identifier is not None:
            request += pdata.write_data_set(context, identifier, self._longest)
        self._patience.begin(lambda: self._cancel(context))
        self._upper.send(request)
        for message in self._messages:
            answer = _answer(message, field)
            yield answer
            if answer.status not in statuses.PENDING:
                return
        raise PeerBroke("released before the final response")

    def _cancel(self, context: int) -> None:
        self._upper.send(pdata.write_command(context, [
            (pdata.FIELD, pdata.C_CANCEL_RQ), (pdata.RESPONDED_TO, _MESSAGE_ID), (pdata.DATA_SET, pdata.NO_DATA_SET)]))


def _answer(message: Message, field: int) -> Answer:
    command = message.command
    if command.number(pdata.FIELD) != field | pdata.RESPONSE or command.number(pdata.RESPONDED_TO) != _MESSAGE_ID:
        raise ProtocolError("an answer to something else")
    status = command.number(pdata.STATUS)
    if status < 0:
        raise ProtocolError("an answer without a status")
    failed = () if status in statuses.PENDING else command.failed(message.data)
    return Answer(status, message.data, command.tag(pdata.OFFENDING), failed)


def _nothing(_request: StoreRequest) -> IncomingObject:
    raise ProtocolError("an object nobody asked for on this association")


@contextlib.contextmanager
def connect(  # noqa: PLR0913 - the last three are of a C-GET alone
    hospital: Hospital, settings: ServerSettings, proposals: Sequence[Proposal], patience: Patience, *,
    provided: Sequence[str] = (), receive: Callable[[StoreRequest], IncomingObject] = _nothing,
    done: Callable[[IncomingObject], int] = IncomingObject.close,
) -> Iterator[Requestor]:
    """Open an association with a hospital's PACS; it is released when the block ends. Of the classes `provided` we are SCP.

    Raise `Unavailable` with a plain reason when the PACS refuses, is silent, breaks off or answers nonsense, then too
    when that happens inside the block.
    """
    proposed = [Context(2 * number + 1, sop_class, syntaxes) for number, (sop_class, syntaxes) in enumerate(proposals)]
    sock, accept = _associate(hospital, settings, proposed, provided)
    upper = UpperLayer(sock, Limits(settings.io_timeout, settings.max_message), patience)
    try:
        upper.begin()
        yield Requestor(upper, proposed, accept, patience, receive, done)
        upper.release()
    except (PeerGone, OSError) as error:
        raise away(hospital, str(error)) from error
    except (ProtocolError, TooLarge) as error:
        upper.abort()
        raise away(hospital, str(error)) from error
    except Unavailable:
        upper.release()
        raise
    except BaseException:
        upper.abort()
        raise
    finally:
        upper.close()


def away(hospital: Hospital, why: str) -> Unavailable:
    """Return the error that says which PACS failed and why, without anything about a patient."""
    return Unavailable(pacs(hospital, why))


def pacs(hospital: Hospital, why: str) -> str:
    """Return the name of a hospital's PACS with what is wrong with it."""
    return f"PACS {hospital.ae_title} of hospital {hospital.key} ({why})"


def _associate(
    hospital: Hospital, settings: ServerSettings, proposed: Sequence[Context], provided: Sequence[str],
) -> tuple[socket.socket, Accept]:
    """Return the socket of an accepted association, and what the PACS accepts. Raise `Unavailable`."""
    until = time.monotonic() + hospital.limits.connect_seconds
    try:
        sock = socket.create_connection((hospital.host, hospital.port), hospital.limits.connect_seconds)
    except (socket.gaierror, UnicodeError) as error:
        raise away(hospital, "its host name is not known") from error
    except OSError as error:
        raise away(hospital, f"no connection: {error.strerror or 'timed out'}") from error
    head = Head(1, hospital.ae_title, settings.ae_title)
    implementation = Implementation(IMPLEMENTATION_UID, IMPLEMENTATION_VERSION, LONGEST_PDU)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(association.write_request(head, proposed, implementation, provided))
        return sock, _read_answer(sock, until)
    except (OSError, ProtocolError) as error:
        sock.close()
        raise away(hospital, _why(error)) from error
    except BaseException:
        sock.close()
        raise


class _Refused(ProtocolError):
    """The PACS said no."""


def _why(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer to the request for an association"
    return f"no answer that can be read: {error}"


def _read_answer(sock: socket.socket, until: float) -> Accept:
    """Return what the PACS accepts. Raise `_Refused`, `ProtocolError` for nonsense, `OSError` when there is no answer."""
    kind, _, size = _HEADER.unpack(_exactly(sock, _HEADER.size, until))
    if kind not in {association.ACCEPT, association.REJECT, association.ABORT} or size > association.LONGEST:
        raise ProtocolError(f"PDU of type {kind}, {size} bytes long")
    body = _exactly(sock, size, until)
    if kind == association.REJECT:
        raise _Refused(f"refused: {association.read_reject(body)}")
    if kind == association.ABORT:
        raise _Refused("aborted the association at once")
    return association.read_accept(body)


def _exactly(sock: socket.socket, count: int, until: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        sock.settimeout(max(until - time.monotonic(), 0.001))
        piece = sock.recv(count - len(data))
        if not piece:
            raise ProtocolError("connection closed")
        data += piece
    return bytes(data)
