"""ITI-21 Patient Demographics Query (ITI TF-2 3.21): QBP^Q22 of HL7 v2.5, its continuation, and QCN^J01, which ends it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.transaction import AuditEvent, Transaction, Wire
from broker.model.transaction import Message as Row
from broker.patients.asked import Account, AskedAddress, AskedName, Interval, Phone, Query, Text
from broker.patients.demographics import Asker, DemographicsSupplier, Found, Page, note_persons, visible_hits
from broker.patients.identifiers import GivenId, check_receiver
from broker.patients.iti8_feed import read_given_id
from broker.wire.birth_date import read_birth_date
from broker.wire.hl7v2 import Message, write_ack
from broker.wire.hl7v2_pdq import Parameter, PdqAnswer, PdqPatient, PdqRequest, read_cancel, read_pdq, write_pdq_reply
from broker.wire.hl7v2_pix import SEXES

QUERY, CANCEL = "QBP^Q22", "QCN^J01"
_PLACE = "QPD^1^3"
_PARTS = ("id", "name", "birth", "sex", "address", "phone", "mother", "account")
_MORE = "more persons answer than were looked at: ask for more of the person to see them"

_Columns = Mapping[str, Parameter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked, and the message itself; without a query it ends the one with this tag."""

    tag: str
    message: Message
    asked: PdqRequest | None = None
    query: Query | None = None


def read(message: Message, facts: AuditFacts) -> Request:
    """Read a QBP^Q22 or a QCN^J01. Raise `Rejected` (100 to 103) for what it needs, and for a parameter that is none."""
    facts.message_id, facts.query = message.control_id, message.raw
    if message.name == CANCEL:
        facts.query_id = read_cancel(message)
        return Request(tag=facts.query_id, message=message)
    facts.query_id = message.need("QPD").get(2)
    asked = read_pdq(message)
    return Request(tag=asked.tag, message=message, asked=asked, query=_query(asked))


def _query(asked: PdqRequest) -> Query:
    rows = {part: [*_rows(asked.parameters, part)] for part in _PARTS}
    return Query(
        ids=tuple((_id(row),) for row in rows["id"]),
        names=tuple((_name(row),) for row in rows["name"]),
        births=tuple((_born(row["date"]),) for row in rows["birth"]),
        sexes=tuple((_sex(row["code"]),) for row in rows["sex"]),
        addresses=tuple((AskedAddress(**{name: Text(one.value) for name, one in row.items()}),) for row in rows["address"]),
        phones=tuple((_phone(row),) for row in rows["phone"]),
        mothers=tuple((_name(row),) for row in rows["mother"]),
        accounts=tuple((_account(row),) for row in rows["account"]),
        wanted=tuple(read_given_id(value, authority=value.place) for value in asked.domains),
        place=_PLACE)


def _rows(parameters: Sequence[Parameter], part: str) -> Iterator[_Columns]:
    """Yield what belongs together: the first values of all fields of one part, then the second ones."""
    columns: dict[str, list[Parameter]] = {}
    for one in parameters:
        kind, _, name = one.name.partition(".")
        if kind == part:
            columns.setdefault(name, []).append(one)
    for values in zip_longest(*columns.values()):
        yield {name: one for name, one in zip(columns, values, strict=True) if one is not None}


def _id(row: _Columns) -> GivenId:
    value, place = _value(row)
    is_iso = "type" not in row or row["type"].value == "ISO"
    given = {name: row[name].value for name in ("namespace", "oid") if name in row}
    oid = given.get("oid", "")
    if not any(given.values()):
        raise Rejected(Hl7Code.DATA_TYPE, "an id is asked for together with its assigning authority (PID.3.4)", place)
    return GivenId(value=value, namespace=given.get("namespace", ""), oid=oid if is_iso else "", other="" if is_iso else oid,
                   at=place, at_authority=place, at_whole=place)


def _account(row: _Columns) -> Account:
    value, _ = _value(row)
    return Account(value, frozenset(row[name].value for name in ("namespace", "oid") if name in row))


def _value(row: _Columns) -> tuple[str, str]:
    """Return the id of a CX and its place. Raise `Rejected` (102) for an authority alone: it would mean everybody."""
    if "value" not in row:
        raise Rejected(Hl7Code.DATA_TYPE, "an assigning authority is asked for without an id", next(iter(row.values())).place)
    return row["value"].value, row["value"].place


def _name(row: _Columns) -> AskedName:
    return AskedName(**{name: Text(one.value) for name, one in row.items()})


def _born(one: Parameter) -> Interval:
    found = read_birth_date(one.value)
    if not found:
        raise Rejected(Hl7Code.DATA_TYPE, "the birth date is not a date (YYYY, YYYYMM or YYYYMMDD, a time may follow)", one.place)
    return Interval(found, found)


def _sex(one: Parameter) -> str:
    if one.value.upper() not in SEXES:
        raise Rejected(Hl7Code.TABLE_VALUE, "the sex is not in table 0001", one.place)
    return one.value.upper()


def _phone(row: _Columns) -> Phone:
    return Phone("".join(row[name].value for name in ("number", "country", "area", "local") if name in row))


def handle(supplier: DemographicsSupplier, request: Request, call: Call) -> Found:
    """Return a page of the persons found; nobody when the query was ended.

    Raise `Rejected` (204) for a pointer that leads nowhere, and for what cannot be searched.
    """
    message = request.message
    check_receiver(supplier.region, message.msh.get(5), message.msh.get(6))
    asker = Asker.of(Wire.HL7V2, call.caller, request.tag)
    if request.query is None or request.asked is None:
        supplier.cancel(asker)
        return Found()
    if not request.asked.pointer:
        return supplier.search(request.query, asker, request.asked.quantity)
    start, _, token = request.asked.pointer.partition(".")
    page = Page(start=int(start), quantity=request.asked.quantity) if start.isdecimal() and len(start) < 10 else None
    found = supplier.go_on(asker, token, page) if page and token else None
    if found is None:
        raise Rejected(Hl7Code.UNKNOWN_KEY, "the pointer is not of this query of this sender, or has expired", "DSC^1^1")
    return found


def write(request: Request, found: Found) -> bytes:
    """Return the RSP^K22, or the acknowledgement of an end."""
    if request.query is None:
        return write_ack(request.message, MessageId.now())
    shown = found.shown
    pointer = f"{found.next_start}.{found.token}" if found.remaining else ""
    return write_pdq_reply(request.message, MessageId.now(), PdqAnswer(
        patients=tuple(PdqPatient(ids=hit.ids, person=hit.person, confidence=hit.confidence) for hit in shown),
        total=len(found.hits), remaining=found.remaining, pointer=pointer, warning="" if found.complete else _MORE))


def refuse(message: Message, error: BrokerError) -> bytes:
    """Return the RSP^K22 with its errors, or a plain acknowledgement where there is no QPD to answer."""
    if not message.all("QPD"):
        return write_ack(message, MessageId.now(), error)
    return write_pdq_reply(message, MessageId.now(), error=error)


def subject(supplier: DemographicsSupplier, request: Request) -> tuple[PatientId, ...]:
    """Return the ids that are asked for."""
    return supplier.subjects(request.query) if request.query else ()


ROW = Transaction(
    code="ITI-21",
    name="Patient Demographics Query",
    wire=Wire.HL7V2,
    endpoint="mllp",
    messages=(Row(name=QUERY), Row(name=CANCEL)),
    audit=AuditEvent(
        event_code="110112", event_text="Query", action="E", type_code="ITI-21", type_text="Patient Demographics Query"),
    read=read,
    subject=subject,
    handle=handle,
    filtered=visible_hits,
    disclosed=note_persons,
    write=write,
    refuse=refuse,
)
