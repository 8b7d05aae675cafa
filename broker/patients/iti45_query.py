"""ITI-45 PIXV3 Query (ITI TF-2 3.45)."""

from dataclasses import dataclass

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError
from broker.model.message_id import MessageId
from broker.model.transaction import AuditEvent, Message, Transaction, Wire
from broker.patients.actor import Named, PixManager, visible_ids
from broker.patients.iti44_feed import given_id
from broker.wire import hl7v3
from broker.wire.hl7v3 import PixQuery
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import HL7, Element


@dataclass(frozen=True, slots=True)
class Request:
    """The query and the message it came in."""

    query: PixQuery
    body: Element


def read(request: SoapRequest, facts: AuditFacts) -> Request:
    """Read a 201309. Raise `Rejected` (101, 102) when it does not have exactly one patient id."""
    query = hl7v3.read_pix_query(request.body)
    facts.message_id, facts.query = str(query.wrapper.message_id), query.parameters
    facts.query_id = query.query_id.extension or query.query_id.root
    return Request(query, request.body)


def handle(manager: PixManager, request: Request, call: Call) -> tuple[Named, ...]:
    """Return the other ids of the person."""
    query = request.query
    return manager.query(given_id(query.patient), [given_id(domain) for domain in query.domains], call)


def row(device_oid: str) -> Transaction[PixManager, SoapRequest, Request, tuple[Named, ...], SoapReply]:
    """Return the row of a manager that answers as this device."""
    def write(request: Request, ids: tuple[Named, ...]) -> SoapReply:
        return SoapReply(fragments=(hl7v3.write_pix_answer(request.body, MessageId.now(), ids, manager=device_oid),))

    def refuse(request: SoapRequest, error: BrokerError) -> SoapReply:
        return SoapReply(fragments=(hl7v3.write_pix_answer(request.body, MessageId.now(), manager=device_oid, error=error),))

    return Transaction(
        code="ITI-45",
        name="PIXV3 Query",
        wire=Wire.SOAP,
        endpoint="/pix",
        messages=(Message(
            name=f"{{{HL7}}}{hl7v3.QUERY}", action=f"{HL7}:{hl7v3.QUERY}", reply_action=f"{HL7}:{hl7v3.ANSWER}"),),
        audit=AuditEvent(event_code="110112", event_text="Query", action="E", type_code="ITI-45", type_text="PIX Query"),
        read=read,
        subject=lambda manager, request: manager.subject(given_id(request.query.patient)),
        handle=handle,
        filtered=visible_ids,
        write=write,
        refuse=refuse,
        schema="hl7v3.xsd",
    )
