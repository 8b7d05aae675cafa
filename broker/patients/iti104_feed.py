"""ITI-104 Patient Identity Feed FHIR (IHE PIXm 2:3.104): conditional update of a Patient by the identifier of its source."""

from dataclasses import dataclass, replace
from typing import Final

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, FhirCode, Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.transaction import AuditEvent, Disclosure, Keep, Message, Wire
from broker.patients.actor import PixManager
from broker.patients.feed import Feed, Kind, Places
from broker.patients.fhir import AUDIT_SYSTEM, PIX_MANAGER, check_retired, given_id, only, sender, token, values
from broker.patients.identifiers import Sender
from broker.wire import fhir
from broker.wire.fhir_capability import FhirTransaction
from broker.wire.fhir_outcome import outcome, refused, reply, translated
from broker.wire.fhir_patient import Identifier, Patient, read_patient
from broker.wire.rest import RestReply, RestRequest

_KEY: Final = "identifier"
_SURVIVOR: Final = "Patient.link[0].other.identifier"
_NOT_THEIRS: Final = (FhirCode.FORBIDDEN, "")
_IN_USE: Final = (FhirCode.CONFLICT, "")

# What a problem of the feed, by its code and place, is in the words of HTTP.
_MEANINGS: Final = {
    (Hl7Code.UNKNOWN_KEY.value, f"{_KEY}.system"): _NOT_THEIRS,
    (Hl7Code.UNKNOWN_KEY.value, f"{_SURVIVOR}.system"): _NOT_THEIRS,
    (Hl7Code.UNKNOWN_KEY.value, f"{_KEY}.value"): _IN_USE,
    (Hl7Code.UNKNOWN_KEY.value, f"{_SURVIVOR}.value"): _IN_USE,
    (Hl7Code.UNKNOWN_KEY.value, _KEY): _IN_USE,
    (Hl7Code.DUPLICATE_KEY.value, _KEY): _IN_USE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The identifier that the Patient is put under, what the Patient says, the message's id, the answer's base and format.

    `patient` is None where it is to be removed.
    """

    key: Identifier
    patient: Patient | None
    message_id: str
    base: str
    answer_format: str


@dataclass(frozen=True, slots=True)
class Fed:
    """What became of a feed: the kind, and the affinity-domain id of the person."""

    kind: Kind
    person: PatientId | None


def read(raw: RestRequest, facts: AuditFacts) -> Request:
    """Read the condition and the Patient. Raise `Rejected` for what no Patient can be put under, and for one that contradicts."""
    key = _condition(raw)
    if raw.line.startswith("DELETE"):
        facts.action, patient = "D", None
    else:
        patient = read_patient(fhir.read(raw.body, raw.body_format, ["Patient"]))
        _check(key, patient)
    message_id = raw.headers.get("x-request-id", "")[:64] or MessageId.now().control_id
    return Request(key=key, patient=patient, message_id=message_id, base=raw.base, answer_format=raw.answer_format)


def _check(key: Identifier, patient: Patient) -> None:
    if (key.system, key.value) not in {(one.system, one.value) for one in patient.identifiers}:
        raise Rejected(FhirCode.BUSINESS_RULE, "the Patient does not have the identifier it is put under", "Patient.identifier")
    check_retired(patient)


def _condition(raw: RestRequest) -> Identifier:
    only(raw, (_KEY,))
    given = [value for text in raw.values(_KEY) for value in values(text)]
    if not given:
        raise Rejected(FhirCode.REQUIRED, "a Patient is put under an identifier: PUT Patient?identifier=system|value", _KEY)
    if len(given) > 1:
        raise Rejected(FhirCode.MULTIPLE_MATCHES, "a Patient is put under one identifier", _KEY)
    key = token(given[0], _KEY)
    if not (key.system and key.value):
        raise Rejected(FhirCode.VALUE, "identifier needs a system and a value", _KEY)
    return key


def _feed(manager: PixManager, request: Request, patient: Patient, source: Sender) -> Feed:
    is_merge, key = bool(patient.replaced_by), given_id(request.key)
    others = [one for one in patient.identifiers if (one.system, one.value) != (request.key.system, request.key.value)]
    hints = [given_id(one) for one in others if not one.is_national and not is_merge]
    return Feed(
        kind=Kind.MERGE if is_merge else Kind.UPDATE,
        sender=source,
        message_id=request.message_id,
        given_ids=(given_id(replace(patient.replaced_by[0], place=_SURVIVOR)),) if is_merge else (key,),
        places=Places(ids=_KEY, retired=_KEY, retired_authority=_KEY),
        retired=(key,) if is_merge else (),
        changes=patient.person,
        hints=tuple(hint for hint in hints if hint.oid or manager.domain_of(hint) is not None),
        national=next((one.value for one in others if one.is_national), ""),
    )


def handle(manager: PixManager, request: Request, call: Call) -> Fed:
    """Carry out the feed. Raise `Rejected` for a removal, when the system is no domain of the region, or as `PixManager.feed`."""
    if request.patient is None:
        raise Rejected(FhirCode.NOT_SUPPORTED, "Remove Patient is not supported")
    if manager.domain_of(given_id(request.key)) is None:
        raise Rejected(FhirCode.CODE_INVALID, "the system of identifier is no domain of this region", _KEY)
    feed = _feed(manager, request, request.patient, sender(call))
    subjects = manager.subjects(feed)
    feed = manager.as_addition(feed)
    manager.feed(feed, call)
    return Fed(feed.kind, manager.person_id(subjects[0]))


def write(request: Request, fed: Fed) -> RestReply:
    """Return 201 for a patient that was not known, else 200."""
    status, text = _ANSWERS[fed.kind]
    location = [("Location", f"{request.base}/Patient/{fed.person.value}")] if fed.person and status == 201 else []
    return reply(outcome("informational", text, severity="information"), request.answer_format, status, location)


_ANSWERS: Final = {Kind.ADD: (201, "created"), Kind.UPDATE: (200, "updated"), Kind.MERGE: (200, "merged")}


def _filtered(fed: Fed, keep: Keep) -> Fed:
    return fed if fed.person is None or keep(Disclosure(patient=fed.person)) else replace(fed, person=None)


def refuse(raw: RestRequest, error: BrokerError) -> RestReply:
    """Return the OperationOutcome."""
    return refused(translated(error, _MEANINGS), raw.answer_format)


def _subject(manager: PixManager, request: Request) -> tuple[PatientId, ...]:
    """Return every id of the region that the request names; which of them its sender may feed is judged by `handle`."""
    patient = request.patient
    named = [given_id(one) for one in (request.key, *((*patient.replaced_by, *patient.identifiers) if patient else ()))]
    found = ((manager.domain_of(one), one.value) for one in named)
    return tuple(dict.fromkeys(PatientId(domain.oid, value) for domain, value in found if domain is not None and value))


ROW: Final = FhirTransaction(
    code="ITI-104",
    name="Patient Identity Feed FHIR",
    wire=Wire.HTTP,
    messages=(Message(name="PUT /Patient"), Message(name="DELETE /Patient")),
    guarded=True,
    audit=AuditEvent(
        event_code="110110", event_text="Patient Record", action="U", type_code="ITI-104", type_system=AUDIT_SYSTEM,
        type_text="Patient Identity Feed FHIR"),
    read=read,
    subject=_subject,
    handle=handle,
    filtered=_filtered,
    write=write,
    refuse=refuse,
    declares={
        "interaction": [{"code": "update"}], "conditionalUpdate": True,
        "supportedProfile": ["https://profiles.ihe.net/ITI/PIXm/StructureDefinition/IHE.PIXm.Patient"]},
    actor=PIX_MANAGER,
)
