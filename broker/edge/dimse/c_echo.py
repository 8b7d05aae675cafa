"""C-ECHO as SCP: a hospital asks whether we are there (PS3.7 9.1.5)."""

from broker.edge.dimse.statuses import SUCCESS, status_of
from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError
from broker.model.transaction import NOBODY, NOTHING_TO_FILTER, AuditEvent, Message, Transaction, Wire


def _read(_command: None, _facts: AuditFacts) -> None:
    """A C-ECHO says nothing but that it is one."""


def _handle(_actor: None, _request: None, _call: Call) -> int:
    return SUCCESS


def _write(_request: None, status: int) -> int:
    return status


def _refuse(_command: None, error: BrokerError) -> int:
    return status_of(error)


ROW = Transaction(
    code="C-ECHO",
    name="DICOM Verification",
    wire=Wire.DIMSE,
    endpoint="dicom",
    messages=(Message(name="C-ECHO"),),
    audit=AuditEvent(event_code="110100", event_text="Application Activity", action="E", type_code="C-ECHO",
                     type_text="Verification", type_system="DIMSE"),
    read=_read,
    subject=NOBODY,
    handle=_handle,
    filtered=NOTHING_TO_FILTER,
    write=_write,
    refuse=_refuse,
)
