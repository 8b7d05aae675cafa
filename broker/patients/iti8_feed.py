"""ITI-8 Patient Identity Feed (ITI TF-2 3.8): ADT messages of HL7 v2."""

import hashlib
from dataclasses import dataclass, replace

from broker.model.caller import Call
from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.stamp import Stamp
from broker.model.transaction import AuditEvent, Transaction, Wire
from broker.model.transaction import Message as Row
from broker.patients.actor import PixManager
from broker.patients.claims import Claim, Sender
from broker.patients.feed import Feed, Kind, Places, Receipt
from broker.wire.hl7v2 import Message, Value, write_ack
from broker.wire.hl7v2_pix import DELETED, read_person

KINDS = {
    "A01": Kind.ADD, "A04": Kind.ADD, "A05": Kind.ADD, "A28": Kind.ADD,
    "A08": Kind.UPDATE, "A31": Kind.UPDATE, "A40": Kind.MERGE,
}
_PLACES = Places(ids="PID^1^3", retired="MRG^1^1", retired_authority="MRG^1^1^1^4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The feed and whom it is meant for."""

    feed: Feed
    application: str
    facility: str
    message: Message


def read_claim(value: Value, place: str, *, authority: str = "") -> Claim:
    """Give the patient id in a CX. Only an authority id of type ISO is an OID; any other is read by its namespace."""
    authority_id, is_iso = value.get(4, 2), value.get(4, 3) == "ISO"
    return Claim(
        value=value.get(1), namespace=value.get(4, 1), oid=authority_id if is_iso else "", other="" if is_iso else authority_id,
        at=f"{place}^1", at_authority=authority or f"{place}^4", at_whole=place)


def read(message: Message) -> Request:
    """Read an ADT message. Raise `Rejected` (100, 101, 102, 103) for what every feed needs."""
    kind = KINDS[message.msh.get(9, 2)]
    pid = message.need("PID")
    if len(message.all("PID")) > 1 or len(message.all("MRG")) > 1:
        raise Rejected(Hl7Code.SEGMENT_SEQUENCE, "one message is about one patient", "PID^2")
    national = pid.get(19)
    return Request(
        feed=Feed(
            kind=kind,
            sender=Sender(application=message.msh.get(3), facility=message.msh.get(4)),
            message_id=message.control_id,
            claims=tuple(read_claim(value, f"PID^1^3^{n}") for n, value in enumerate(pid.values(3), 1)),
            places=_PLACES,
            retired=_retired(message) if kind is Kind.MERGE else (),
            changes=read_person(pid),
            national=None if not national else "" if national == DELETED else national,
        ),
        application=message.msh.get(5), facility=message.msh.get(6), message=message)


def _retired(message: Message) -> tuple[Claim, ...]:
    return tuple(read_claim(value, f"MRG^1^1^{n}") for n, value in enumerate(message.need("MRG").values(1), 1))


def handle(manager: PixManager, request: Request, call: Call) -> bytes:
    """Carry out the feed; give the acknowledgement."""
    manager.check_receiver(request.application, request.facility)
    message = request.message
    receipt = Receipt(
        control_id=message.control_id, digest=hashlib.sha256(message.raw).hexdigest(), reply=write_ack(message, Stamp.now()))
    return manager.feed(replace(request.feed, receipt=receipt), call)


def write(_request: Request, reply: bytes) -> bytes:
    """Give the acknowledgement as it was stored with the feed."""
    return reply


def refuse(message: Message, error: BrokerError) -> bytes:
    """Give the AE or AR."""
    return write_ack(message, Stamp.now(), error)


ROW = Transaction(
    code="ITI-8",
    name="Patient Identity Feed",
    wire=Wire.HL7V2,
    endpoint="mllp",
    messages=tuple(Row(name=f"ADT^{event}") for event in KINDS),
    audit=AuditEvent(
        event_code="110110", event_text="Patient Record", action="C", type_code="ITI-8", type_text="Patient Identity Feed"),
    read=read,
    handle=handle,
    write=write,
    refuse=refuse,
)
