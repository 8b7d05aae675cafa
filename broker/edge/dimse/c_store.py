"""C-STORE as SCP: one incoming object, from its request to its status (PS3.4 annex B)."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from broker.edge.dimse.pdata import CLASS, INSTANCE, CommandSet
from broker.edge.dimse.statuses import Refusal, refusal, status_of
from broker.model.caller import Call, Caller
from broker.model.errors import BrokerError, DimseCode, Rejected, TooLarge
from broker.model.ids import is_uid
from broker.model.imaging import StoredObject
from broker.model.ports import ObjectWriter, Received
from broker.model.transaction import NOBODY, NOTHING_TO_FILTER, AuditEvent, InternalTransaction, Message, Wire

log = structlog.get_logger("broker.dimse")


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ and the transfer syntax its context was accepted with."""

    sop_class: str
    sop_uid: str
    transfer_syntax: str

    @classmethod
    def of(cls, command: CommandSet, transfer_syntax: str) -> "StoreRequest":
        """Read the request from its command set."""
        return cls(command.text(CLASS), command.text(INSTANCE), transfer_syntax)


class IncomingObject:
    """One incoming object: takes its bytes whatever happens, and knows the status to answer.

    After an error the rest of the data set is read and dropped, as DIMSE has no way to interrupt a sender. `sop_uid` is
    the announced SOP Instance UID, as it came.
    """

    def __init__(self, begin: Callable[[], ObjectWriter], longest: int, sop_uid: str = "") -> None:
        self._left, self._longest, self.sop_uid = longest, longest, sop_uid
        self._sink: ObjectWriter | None = None
        self.error: BrokerError | None = None
        try:
            self._sink = begin()
        except BrokerError as error:
            self.error = error

    @property
    def refusal(self) -> Refusal | None:
        """Why it is not stored; None before `close` and when it is."""
        return refusal(self.error) if self.error is not None else None

    @property
    def stored(self) -> StoredObject | None:
        """What is durable now; None before `close` and after an error."""
        return self._sink.stored if self._sink else None

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the data set."""
        if self._sink is None:
            return
        self._left -= len(data)
        try:
            if self._left < 0:
                raise TooLarge(f"server.max_body ({self._longest} bytes)")
            self._sink.write(data)
        except BrokerError as error:
            self._fail(error)

    def close(self) -> int:
        """Make the object durable; return the C-STORE status."""
        if self._sink is not None:
            try:
                return self._sink.commit()
            except BrokerError as error:
                self._fail(error)
        assert self.error is not None
        return status_of(self.error)

    def index(self) -> None:
        """Do what the sender need not wait for; call it when the status was sent, or could not be."""
        if self._sink is not None:
            self._sink.index()

    def abort(self) -> None:
        """Drop what came; nothing is left behind."""
        if self._sink is not None:
            self._sink.abort()
            self._sink = None

    def _fail(self, error: BrokerError) -> None:
        self.error = error
        self.abort()


def check_class(request: StoreRequest, classes: frozenset[str]) -> None:
    """Return when the object is of a class that is taken, raise `Rejected` when not.

    The presentation context does not decide: a sender may announce another class in it, or propose one to us as its SCP.
    """
    if request.sop_class not in classes:
        raise Rejected(DimseCode.CLASS_NOT_SUPPORTED, f"{_uid(request.sop_class)} is no storage SOP class that is taken here")


def log_refusal(reception: IncomingObject, refusal: Refusal, peer: str) -> None:
    """Say which object of which peer is not stored, and why."""
    log.warning("object refused", peer=peer, sop_uid=_uid(reception.sop_uid), status=f"0x{refusal.status:04X}",
                reason=refusal.text)


def _uid(text: str) -> str:
    """Return what may be a UID as a log and an LO can take it."""
    return text if is_uid(text) else f"{text[:64]!a} (no UID)"


def begin(received: Received, request: StoreRequest, caller: Caller) -> ObjectWriter:
    """Begin an object, on whatever association it comes."""
    return received.open(caller, request.sop_class, request.sop_uid, request.transfer_syntax)


def _handle(received: Received, request: StoreRequest, call: Call) -> ObjectWriter:
    return begin(received, request, call.caller)


ROW = InternalTransaction(      # answered object by object while it comes: `messages` reads and writes the wire
    code="C-STORE",
    name="DICOM Storage",
    wire=Wire.DIMSE,
    endpoint="dicom",
    messages=(Message(name="C-STORE"),),
    audit=AuditEvent(event_code="110104", event_text="DICOM Instances Transferred", action="C", type_code="C-STORE",
                     type_text="Storage", type_system="DIMSE"),
    subject=NOBODY,             # the request names the object; whose it is stands in its data set
    handle=_handle,
    filtered=NOTHING_TO_FILTER,
)
