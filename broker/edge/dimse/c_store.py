"""C-STORE as SCP: one incoming object, from its request to its status (PS3.4 annex B)."""

from collections.abc import Callable
from dataclasses import dataclass

from broker.edge.dimse.pdata import CLASS, INSTANCE, Command
from broker.edge.dimse.statuses import status_of
from broker.model.caller import Call
from broker.model.errors import BrokerError, TooLarge
from broker.model.imaging import StoredObject
from broker.model.ports import Received, Sink
from broker.model.transaction import AuditEvent, Message, Transaction, Wire


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ and the transfer syntax its context was accepted with."""

    sop_class: str
    sop_uid: str
    transfer_syntax: str

    @classmethod
    def of(cls, command: Command, transfer_syntax: str) -> "StoreRequest":
        """Read the request from its command set."""
        return cls(command.text(CLASS), command.text(INSTANCE), transfer_syntax)


class Reception:
    """One incoming object: takes its bytes whatever happens, and knows the status to answer.

    After an error the rest of the data set is read and dropped, as DIMSE has no way to interrupt a sender.
    """

    def __init__(self, begin: Callable[[], Sink], longest: int) -> None:
        self._left, self._longest = longest, longest
        self._sink: Sink | None = None
        self.error: BrokerError | None = None
        try:
            self._sink = begin()
        except BrokerError as error:
            self.error = error

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
        """Make the object durable; give the C-STORE status."""
        if self._sink is not None:
            try:
                return self._sink.commit()
            except BrokerError as error:
                self._fail(error)
        assert self.error is not None
        return status_of(self.error)

    def settle(self) -> None:
        """Do what the sender need not wait for; call it when the status was sent, or could not be."""
        if self._sink is not None:
            self._sink.settle()

    def abort(self) -> None:
        """Drop what came; nothing is left behind."""
        if self._sink is not None:
            self._sink.abort()
            self._sink = None

    def _fail(self, error: BrokerError) -> None:
        self.error = error
        self.abort()


def _handle(received: Received, request: StoreRequest, call: Call) -> Sink:
    return received.open(call.caller, request.sop_class, request.sop_uid, request.transfer_syntax)


ROW = Transaction(
    code="C-STORE",
    name="DICOM Storage",
    wire=Wire.DIMSE,
    endpoint="dicom",
    messages=(Message(name="C-STORE"),),
    audit=AuditEvent(event_code="110104", event_text="DICOM Instances Transferred", action="C", type_code="C-STORE",
                     type_text="Storage", type_system="DIMSE"),
    read=lambda raw: raw,
    handle=_handle,
    write=lambda _request, status: status,
    refuse=lambda _raw, error: status_of(error),
)
