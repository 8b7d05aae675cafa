"""ITI-83 Patient Identifier Cross-reference Query for Mobile (IHE PIXm 2:3.83): the operation $ihe-pix of FHIR."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, FhirCode, Hl7Code, Rejected
from broker.model.transaction import AuditEvent, Keep, Message, Wire
from broker.patients.actor import Named, PixManager, visible_ids
from broker.patients.fhir import AUDIT_SYSTEM, PIX_MANAGER, given_id, logical_id, only, token
from broker.patients.identifiers import GivenId
from broker.wire import fhir
from broker.wire.fhir_capability import FhirTransaction
from broker.wire.fhir_outcome import refused, reply, translated
from broker.wire.fhir_patient import Identifier, read_identifier, write_identifier
from broker.wire.rest import RestReply, RestRequest

_SOURCE, _TARGET = "sourceIdentifier", "targetSystem"
_VALUES: Final = {_SOURCE: ("valueString", "valueIdentifier"), _TARGET: ("valueString", "valueUri")}

# What the transaction's table of errors (PIXm 2:3.83.4.2.2) says of a problem, by its code and place.
_MEANINGS: Final = {
    (Hl7Code.UNKNOWN_KEY.value, f"{_SOURCE}.value"): (
        FhirCode.NOT_FOUND, "sourceIdentifier Patient Identifier not found"),
    (Hl7Code.UNKNOWN_KEY.value, f"{_SOURCE}.system"): (
        FhirCode.CODE_INVALID, "sourceIdentifier Assigning Authority not found"),
    (Hl7Code.UNKNOWN_KEY.value, _TARGET): (FhirCode.TARGET_UNKNOWN, "targetSystem not found"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The id to translate, the systems that are wanted (none = all), where a logical id would be of ours, the answer's format."""

    source: Identifier
    targets: tuple[str, ...]
    base: str
    answer_format: str


@dataclass(frozen=True, slots=True)
class Found:
    """The ids of an answer, and the systems by which domains were asked for, by OID."""

    ids: tuple[Named, ...]
    systems: Mapping[str, str]


def read(raw: RestRequest, facts: AuditFacts) -> Request:
    """Read the parameters of the address, of a form or of a `Parameters` body. Raise `Rejected` without exactly one source."""
    facts.query, facts.query_id = raw.line.encode(), raw.headers.get("x-request-id", "")
    only(raw, (_SOURCE, _TARGET))
    found: list[tuple[str, Any]] = list(raw.query)
    if raw.body_format in fhir.MEDIA_TYPES:
        facts.query += b"\n" + raw.body
        found += _parameters(fhir.read(raw.body, raw.body_format, ["Parameters"]))
    sources = [value for name, value in found if name == _SOURCE]
    if len(sources) != 1:
        raise Rejected(FhirCode.REQUIRED, f"there must be exactly one {_SOURCE}, and there are {len(sources)}", _SOURCE)
    source = sources[0]
    return Request(
        source=token(source, _SOURCE) if isinstance(source, str) else read_identifier(source, _SOURCE),
        targets=tuple(str(value) for name, value in found if name == _TARGET and value), base=raw.base,
        answer_format=raw.answer_format)


def _parameters(resource: fhir.Resource) -> list[tuple[str, Any]]:
    found = []
    for parameter in resource.get("parameter", ()):
        name = parameter.get("name", "")
        values = [parameter[kind] for kind in _VALUES.get(name, ()) if kind in parameter]
        if name in _VALUES and not values:
            raise Rejected(FhirCode.VALUE, f"{name} must have {' or '.join(_VALUES[name])}", name)
        found += [(name, value) for value in values]
    return found


def _source(manager: PixManager, request: Request) -> GivenId:
    """Return the id that is asked about; the logical id of a Patient of ours is its affinity-domain id."""
    source = request.source
    if source.system.rstrip("/") == request.base and source.value.startswith("Patient/"):
        return logical_id(manager.profile.region.affinity_domain, source.value.removeprefix("Patient/"), source.place)
    return given_id(source)


def handle(manager: PixManager, request: Request, call: Call) -> Found:
    """Return the other ids of the person."""
    wanted = [_target(system) for system in request.targets]
    ids = manager.query(_source(manager, request), wanted, call)
    asked = zip(map(manager.domain_of, wanted), request.targets, strict=True)
    return Found(ids, {domain.oid: system for domain, system in asked if domain is not None})


def _target(system: str) -> GivenId:
    oid = Identifier(system, "").oid
    return GivenId(value="", oid=oid, other="" if oid else system, at=_TARGET, at_authority=_TARGET)


def filtered(found: Found, keep: Keep) -> Found:
    """Return what the caller may see."""
    return Found(visible_ids(found.ids, keep), found.systems)


def refuse(raw: RestRequest, error: BrokerError) -> RestReply:
    """Return the OperationOutcome."""
    return refused(translated(error, _MEANINGS), raw.answer_format)


def row(affinity_domain: str) -> FhirTransaction[PixManager, Request, Found]:
    """Return the row of a manager whose persons are Patients named by their ids in this domain."""
    def write(request: Request, found: Found) -> RestReply:
        parameters: list[dict[str, Any]] = []
        for patient, _ in found.ids:
            if patient.domain == affinity_domain:
                parameters.append({"name": "targetId", "valueReference": {"reference": f"Patient/{patient.value}"}})
            system = found.systems.get(patient.domain, "")
            parameters.append({"name": "targetIdentifier", "valueIdentifier": write_identifier(patient, system)})
        return reply(
            {"resourceType": "Parameters", **({"parameter": parameters} if parameters else {})}, request.answer_format)

    return FhirTransaction(
        code="ITI-83",
        name="Mobile Patient Identifier Cross-reference Query",
        wire=Wire.HTTP,
        messages=(Message(name="GET /Patient/$ihe-pix"), Message(name="POST /Patient/$ihe-pix")),
        audit=AuditEvent(
            event_code="110112", event_text="Query", action="E", type_code="ITI-83", type_system=AUDIT_SYSTEM,
            type_text="Mobile Patient Identifier Cross-reference Query"),
        read=read,
        subject=lambda manager, request: manager.subject(_source(manager, request)),
        handle=handle,
        filtered=filtered,
        write=write,
        refuse=refuse,
        declares={"operation": [{
            "name": "ihe-pix", "definition": "https://profiles.ihe.net/ITI/PIXm/OperationDefinition/IHE.PIXm.pix"}]},
        actor=PIX_MANAGER,
    )
