"""ITI-44 Patient Identity Feed HL7 V3 (ITI TF-2 3.44): add, revise, merge."""

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.message_id import MessageId
from broker.model.transaction import NOTHING_TO_FILTER, AuditEvent, Message, Transaction, Wire
from broker.patients.actor import PixManager
from broker.patients.feed import Feed, Kind, Places
from broker.patients.identifiers import GivenId, Sender
from broker.wire import hl7v3
from broker.wire.hl7v3 import Ii
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import HL7, Element

KINDS = {hl7v3.ADD: Kind.ADD, hl7v3.REVISE: Kind.UPDATE, hl7v3.MERGE: Kind.MERGE}
_EVENT = "controlActProcess/subject/registrationEvent"
_RETIRED = f"{_EVENT}/replacementOf/priorRegistration/subject1/priorRegisteredRole/id"


def given_id(ii: Ii) -> GivenId:
    """Return the patient id in an II; its authority is the root alone."""
    return GivenId(value=ii.extension, oid=ii.root, at=ii.location, at_authority=ii.location, at_whole=ii.location)


def read(request: SoapRequest, facts: AuditFacts) -> tuple[Element, Feed]:
    """Read the message. Raise `Rejected` (101, 102, 103) for what the schema leaves to us; whom it is about is not judged here.

    Add and revise carry everything known of the person; a merge carries a name that is not an update.
    """
    found = hl7v3.read_registration(request.body)
    facts.message_id = str(found.wrapper.message_id)
    kind = KINDS[found.wrapper.interaction]
    place = hl7v3.location(request.body, _RETIRED)
    if not found.wrapper.message_id.root:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no message id", hl7v3.location(request.body, "id"))
    return request.body, Feed(
        kind=kind,
        sender=Sender(device_oids=tuple(ii.root for ii in found.wrapper.senders)),
        message_id=str(found.wrapper.message_id),
        given_ids=tuple(map(given_id, found.ids)),
        places=Places(
            ids=hl7v3.location(request.body, f"{_EVENT}/subject1/patient/id"), retired=place, retired_authority=place),
        retired=tuple(map(given_id, found.retired)) if kind is Kind.MERGE else (),
        changes=found.person,
        hints=tuple(map(given_id, found.other_ids)),
        national="",
    )


def handle(manager: PixManager, request: tuple[Element, Feed], call: Call) -> None:
    """Carry out the feed."""
    manager.feed(request[1], call)


def row(device_oid: str) -> Transaction[PixManager, SoapRequest, tuple[Element, Feed], None, SoapReply]:
    """Return the row of a manager that answers as this device."""
    def write(request: tuple[Element, Feed], _result: None) -> SoapReply:
        return SoapReply(fragments=(hl7v3.write_ack(request[0], MessageId.now(), manager=device_oid),))

    def refuse(request: SoapRequest, error: BrokerError) -> SoapReply:
        return SoapReply(fragments=(hl7v3.write_ack(request.body, MessageId.now(), error, manager=device_oid),))

    return Transaction(
        code="ITI-44",
        name="Patient Identity Feed HL7 V3",
        wire=Wire.SOAP,
        endpoint="/pix",
        messages=tuple(
            Message(name=f"{{{HL7}}}{name}", action=f"{HL7}:{name}", reply_action=f"{HL7}:{hl7v3.ACK}") for name in KINDS),
        audit=AuditEvent(
            event_code="110110", event_text="Patient Record", action="C", type_code="ITI-44", type_text="Patient Identity Feed"),
        read=read,
        subject=lambda manager, request: manager.subjects(request[1]),
        handle=handle,
        filtered=NOTHING_TO_FILTER,
        write=write,
        refuse=refuse,
        schema="hl7v3.xsd",
    )
