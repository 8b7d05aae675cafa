"""C-ECHO as SCP: a hospital asks whether we are there (PS3.7 9.1.5)."""

from typing import Any

from broker.edge.dimse.statuses import SUCCESS, status_of
from broker.model.caller import Call
from broker.model.transaction import AuditEvent, Message, Transaction, Wire


def _handle(_actor: object, _request: Any, _call: Call) -> int:
    return SUCCESS


ROW = Transaction(
    code="C-ECHO",
    name="DICOM Verification",
    wire=Wire.DIMSE,
    endpoint="dicom",
    messages=(Message(name="C-ECHO"),),
    audit=AuditEvent(event_code="110100", event_text="Application Activity", action="E", type_code="C-ECHO",
                     type_text="Verification", type_system="DIMSE"),
    read=lambda raw: raw,
    handle=_handle,
    write=lambda _request, result: result,
    refuse=lambda _raw, error: status_of(error),
)
