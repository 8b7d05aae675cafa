"""ITI-9 PIX Query (ITI TF-2 3.9): QBP^Q23 of HL7 v2.5."""

from dataclasses import dataclass

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.message_id import MessageId
from broker.model.transaction import AuditEvent, Transaction, Wire
from broker.model.transaction import Message as Row
from broker.patients.actor import Named, PixManager, visible_ids
from broker.patients.identifiers import GivenId
from broker.patients.iti8_feed import read_given_id
from broker.wire.hl7v2 import Message, write_ack
from broker.wire.hl7v2_pix import few, write_pix_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The id to translate, the wanted domains, and the message itself."""

    given_id: GivenId
    wanted: tuple[GivenId, ...]
    message: Message


def read(message: Message, facts: AuditFacts) -> Request:
    """Read a QBP^Q23. Raise `Rejected` (100, 101) without QPD, its tag or its id; RCP is not asked for."""
    facts.message_id, facts.query = message.control_id, message.raw
    qpd = message.need("QPD")
    facts.query_id = qpd.get(2)
    if not qpd.value(2).short():
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no query tag", "QPD^1^2")
    ids = [given_id for given_id in map(read_given_id, few(qpd, 3)) if given_id.value]
    if not ids:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no patient id", "QPD^1^3")
    if len(ids) > 1:
        raise Rejected(Hl7Code.DATA_TYPE, "one query translates one id", ids[1].at_whole)
    wanted = tuple(read_given_id(value, authority=value.place) for value in few(qpd, 4))
    return Request(given_id=ids[0], wanted=wanted, message=message)


def handle(manager: PixManager, request: Request, call: Call) -> tuple[Named, ...]:
    """Return the other ids of the person."""
    message = request.message
    manager.check_receiver(message.msh.get(5), message.msh.get(6))
    return manager.query(request.given_id, request.wanted, call)


def write(request: Request, ids: tuple[Named, ...]) -> bytes:
    """Return the RSP^K23."""
    return write_pix_reply(request.message, MessageId.now(), ids)


def refuse(message: Message, error: BrokerError) -> bytes:
    """Return the RSP^K23 with its error, or a plain acknowledgement where there is no QPD to answer."""
    if not message.all("QPD"):
        return write_ack(message, MessageId.now(), error)
    return write_pix_reply(message, MessageId.now(), error=error)


ROW = Transaction(
    code="ITI-9",
    name="PIX Query",
    wire=Wire.HL7V2,
    endpoint="mllp",
    messages=(Row(name="QBP^Q23"),),
    audit=AuditEvent(event_code="110112", event_text="Query", action="E", type_code="ITI-9", type_text="PIX Query"),
    read=read,
    subject=lambda manager, request: manager.subject(request.given_id),
    handle=handle,
    filtered=visible_ids,
    write=write,
    refuse=refuse,
)
