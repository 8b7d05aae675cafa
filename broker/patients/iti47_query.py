"""ITI-47 Patient Demographics Query HL7 V3 (ITI TF-2 3.47): the query, its continuation, and its end."""

from dataclasses import dataclass, replace

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Address, PersonName
from broker.model.transaction import AuditEvent, Message, Transaction, Wire
from broker.patients.asked import AskedAddress, AskedName, Compare, Interval, Phone, Query, Text
from broker.patients.demographics import Asker, DemographicsSupplier, Found, Hit, Page, note_persons, visible_hits
from broker.patients.iti44_feed import given_id
from broker.wire import hl7v3, hl7v3_pdq
from broker.wire.hl7v3 import Ii, Wrapper
from broker.wire.hl7v3_pdq import Candidate, Candidates, Continuation, PdqQuery
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import HL7, Element, local_name

_END = f"{HL7}:{hl7v3_pdq.CONTINUE}_Cancel"
_END_REPLY = f"{HL7}:{hl7v3.ACK}"
_MORE = "more persons answer than were looked at: ask for more of the person to see them"


@dataclass(frozen=True, slots=True)
class Request:
    """The query or what becomes of it, and the message it came in."""

    asked: PdqQuery | Continuation
    body: Element
    query: Query | None = None

    @property
    def is_end(self) -> bool:
        """Whether it ends a query."""
        return isinstance(self.asked, Continuation) and self.asked.is_end


def read(request: SoapRequest, facts: AuditFacts) -> Request:
    """Read a 201305 or a QUQI_IN000003UV01. Raise `Rejected` (101 to 103) for what it needs, and for a parameter that is none."""
    facts.message_id = str(hl7v3.read_wrapper(request.body).message_id)
    query_id, facts.query = hl7v3_pdq.as_sent(request.body)
    facts.query_id = query_id.extension or query_id.root
    if local_name(request.body) != hl7v3_pdq.QUERY:
        return Request(hl7v3_pdq.read_continuation(request.body), request.body)
    asked = hl7v3_pdq.read_pdq(request.body)
    return Request(asked, request.body, _query(asked))


def _query(asked: PdqQuery) -> Query:
    said = asked.parameters
    return Query(
        ids=tuple(tuple(map(given_id, one)) for one in said.ids),
        names=tuple(tuple(map(_name, one)) for one in said.names),
        births=tuple(tuple(Interval(*born) for born in one) for one in said.births),
        sexes=said.sexes,
        addresses=tuple(tuple(map(_address, one)) for one in said.addresses),
        phones=tuple(tuple(map(Phone, one)) for one in said.phones),
        mothers=tuple(tuple(map(_name, one)) for one in said.mothers),
        wanted=tuple(map(given_id, said.domains)),
        least=asked.least, place=asked.place)


def _name(name: PersonName) -> AskedName:
    compare = Compare.STARTS if name.use == hl7v3_pdq.FUZZY else Compare.EQUAL
    return AskedName(family=Text(name.family, compare), given=Text(name.given, compare), middle=Text(name.middle, compare))


def _address(address: Address) -> AskedAddress:
    return AskedAddress(
        street=Text(address.street), city=Text(address.city), state=Text(address.state), postcode=Text(address.postcode),
        country=Text(address.country))


def _asker(wrapper: Wrapper, query_id: Ii, call: Call) -> Asker:
    """Return whose list it is: of the device that asked; a query without an id has none that anybody could ask for."""
    device = wrapper.senders[0].root if wrapper.senders else ""
    return Asker.of(Wire.SOAP, call.caller, f"{query_id.root}^{query_id.extension}", node=device, by_tag=True)


def handle(supplier: DemographicsSupplier, request: Request, call: Call) -> Found:
    """Return a page of the persons found; nobody when the query was ended.

    Raise `Rejected` (204) for the continuation of a query that is not known, and for what cannot be searched.
    """
    asked = request.asked
    asker = _asker(asked.wrapper, asked.query_id, call)
    if request.query is not None and isinstance(asked, PdqQuery):
        return supplier.search(request.query, asker, asked.quantity, hl7v3_pdq.as_sent(request.body)[1].decode())
    if not isinstance(asked, Continuation) or asked.is_end:
        supplier.cancel(asker)
        return Found()
    page = Page(skip=None if asked.start is None else asked.start - 1, quantity=asked.quantity)
    found = supplier.go_on(asker, "", page)
    if found is None:
        raise Rejected(Hl7Code.UNKNOWN_KEY, "no query of this id and sender is kept here, or it has expired", asked.place)
    return found


def _candidate(hit: Hit, wanted: tuple[str, ...]) -> Candidate:
    has = {patient.domain for patient, _ in hit.ids}
    return Candidate(ids=hit.ids, without=tuple(oid for oid in wanted if oid not in has), person=hit.person,
                     confidence=hit.confidence)


def _page(found: Found) -> Candidates:
    return Candidates(
        patients=tuple(_candidate(hit, found.wanted) for hit in found.shown), total=len(found.hits), remaining=found.remaining,
        warning="" if found.complete else _MORE, query=found.echo.encode())


def subject(supplier: DemographicsSupplier, request: Request) -> tuple[PatientId, ...]:
    """Return the ids that are asked for."""
    return supplier.subjects(request.query) if request.query else ()


def row(device_oid: str) -> Transaction[DemographicsSupplier, SoapRequest, Request, Found, SoapReply]:
    """Return the row of a supplier that answers as this device."""
    def write(request: Request, found: Found) -> SoapReply:
        if request.is_end:
            return SoapReply(fragments=(hl7v3_pdq.write_end(request.body, MessageId.now(), manager=device_oid),),
                             reply_action=_END_REPLY)
        return SoapReply(fragments=(
            hl7v3_pdq.write_candidates(request.body, MessageId.now(), _page(found), manager=device_oid),))

    def refuse(request: SoapRequest, error: BrokerError) -> SoapReply:
        if hl7v3_pdq.is_end(request.body):
            return SoapReply(fragments=(hl7v3_pdq.write_end(request.body, MessageId.now(), manager=device_oid, error=error),),
                             reply_action=_END_REPLY)
        return SoapReply(fragments=(
            hl7v3_pdq.write_candidates(request.body, MessageId.now(), manager=device_oid, error=error),))

    more, end = (Message(name=f"{{{HL7}}}{name}", action=action, reply_action=reply) for name, action, reply in (
        (hl7v3_pdq.CONTINUE, f"{HL7}:{hl7v3_pdq.CONTINUE}_Continue", f"{HL7}:{hl7v3_pdq.ANSWER}"),
        (hl7v3_pdq.CANCEL, _END, _END_REPLY)))
    return Transaction(
        code="ITI-47",
        name="Patient Demographics Query HL7 V3",
        wire=Wire.SOAP,
        endpoint="/pdq",
        messages=(
            Message(name=f"{{{HL7}}}{hl7v3_pdq.QUERY}", action=f"{HL7}:{hl7v3_pdq.QUERY}",
                    reply_action=f"{HL7}:{hl7v3_pdq.ANSWER}"),
            more, replace(end, name=more.name), end),     # an end comes under either name; its statusCode says so
        audit=AuditEvent(
            event_code="110112", event_text="Query", action="E", type_code="ITI-47", type_text="Patient Demographics Query"),
        read=read,
        subject=subject,
        handle=handle,
        filtered=visible_hits,
        disclosed=note_persons,
        write=write,
        refuse=refuse,
        schema="hl7v3.xsd",
    )
