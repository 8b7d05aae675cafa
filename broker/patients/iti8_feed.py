"""ITI-8 Patient Identity Feed (ITI TF-2 3.8): ADT messages of HL7 v2."""

import hashlib
from dataclasses import dataclass, replace

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.message_id import MessageId
from broker.model.transaction import NOTHING_TO_FILTER, AuditEvent, Transaction, Wire
from broker.model.transaction import Message as Row
from broker.patients.actor import PixManager
from broker.patients.feed import Feed, Kind, Places, Receipt
from broker.patients.identifiers import GivenId, Sender
from broker.wire.hl7v2 import Message, Value, write_ack
from broker.wire.hl7v2_pix import few, read_person

KINDS = {
    "A01": Kind.ADD, "A04": Kind.ADD, "A05": Kind.ADD, "A28": Kind.ADD,
    "A08": Kind.UPDATE, "A31": Kind.UPDATE, "A40": Kind.MERGE, "A47": Kind.CHANGE,
}
_PLACES = Places(ids="PID^1^3", retired="MRG^1^1", retired_authority="MRG^1^1^1^4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The feed and whom it is meant for."""

    feed: Feed
    application: str
    facility: str
    message: Message


def read_given_id(value: Value, *, authority: str = "") -> GivenId:
    """Return the patient id in a CX; one of quotes alone is none. Only an authority id of type ISO is an OID, any other is
    read by its namespace. Raise `Rejected` (102) for parts that are too long.
    """
    authority_id, is_iso, place = value.short(4, 2), value.short(4, 3) == "ISO", value.place
    given = value.short(1)
    return GivenId(
        value=given if given.strip('" ') else "", namespace=value.short(4, 1), oid=authority_id if is_iso else "",
        other="" if is_iso else authority_id, at=f"{place}^1", at_authority=authority or f"{place}^4", at_whole=place)


def read(message: Message, facts: AuditFacts) -> Request:
    """Read an ADT message. Raise `Rejected` (100, 101, 102, 103) for what every feed needs."""
    facts.message_id = message.control_id
    kind = KINDS[message.msh.get(9, 2)]
    pid = message.need("PID")
    if len(message.all("PID")) > 1 or len(message.all("MRG")) > 1:
        raise Rejected(Hl7Code.SEGMENT_SEQUENCE, "one message is about one patient", "PID^2")
    national = pid.value(19).short()
    return Request(
        feed=Feed(
            kind=kind,
            sender=Sender(application=message.msh.get(3), facility=message.msh.get(4)),
            message_id=message.control_id,
            given_ids=tuple(map(read_given_id, few(pid, 3))),
            places=_PLACES,
            said=next((event.get(2) for event in message.all("EVN")), ""),
            retired=_retired(message) if kind.retires else (),
            changes=read_person(pid),
            national=national if national or pid.deleted(19) else None,
        ),
        application=message.msh.get(5), facility=message.msh.get(6), message=message)


def _retired(message: Message) -> tuple[GivenId, ...]:
    return tuple(map(read_given_id, few(message.need("MRG"), 1)))


def handle(manager: PixManager, request: Request, call: Call) -> bytes:
    """Carry out the feed; return the acknowledgement."""
    manager.check_receiver(request.application, request.facility)
    return manager.feed(replace(request.feed, receipt=receipt_of(request.message)), call)


def receipt_of(message: Message) -> Receipt:
    """Return the identity of a message, and the AA that it gets when it is carried out."""
    return Receipt(
        control_id=message.control_id, digest=hashlib.sha256(message.raw).hexdigest(), reply=write_ack(message, MessageId.now()))


def write(_request: Request, reply: bytes) -> bytes:
    """Return the acknowledgement as it was stored with the feed."""
    return reply


def refuse(message: Message, error: BrokerError) -> bytes:
    """Return the AE or AR."""
    return write_ack(message, MessageId.now(), error)


ROW = Transaction(
    code="ITI-8",
    name="Patient Identity Feed",
    wire=Wire.HL7V2,
    endpoint="mllp",
    messages=tuple(Row(name=f"ADT^{event}") for event in KINDS),
    audit=AuditEvent(
        event_code="110110", event_text="Patient Record", action="C", type_code="ITI-8", type_text="Patient Identity Feed"),
    read=read,
    subject=lambda manager, request: manager.subjects(request.feed),
    handle=handle,
    filtered=NOTHING_TO_FILTER,
    write=write,
    refuse=refuse,
)
