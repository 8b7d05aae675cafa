"""ITI-119 Patient Demographics Match (IHE PDQm 2:3.119): the operation $match of FHIR.

Who may be meant is found by the searches of the other doors, by ids and by name and birth date; how surely is said by the rules
that link records (`matching.decide`), so that a match is certain when this index would call both one person.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from broker.matching.decide import Verdict, disagree, same_person
from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, FhirCode, Rejected
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.model.transaction import AuditEvent, Keep, Message, Wire
from broker.patients.asked import AskedName, Interval, Query, Text
from broker.patients.demographics import Asker, DemographicsSupplier, Found, Hit, note_persons
from broker.patients.fhir import AUDIT_SYSTEM, MORE, PDQ_SUPPLIER, given_id, only, visible_persons
from broker.patients.iti78_search import resource
from broker.wire import fhir
from broker.wire.fhir_bundle import Match, searchset
from broker.wire.fhir_capability import FhirTransaction
from broker.wire.fhir_outcome import refused, reply
from broker.wire.fhir_patient import Patient, read_patient
from broker.wire.rest import RestReply, RestRequest

_RESOURCE, _CERTAIN, _COUNT = "resource", "onlyCertainMatches", "count"
_VALUES: Final = {_RESOURCE: "resource", _CERTAIN: "valueBoolean", _COUNT: "valueInteger"}


class Grade(StrEnum):
    """Codes of the value set match-grade that are given."""

    CERTAIN = "certain"
    PROBABLE = "probable"
    POSSIBLE = "possible"


# Of each grade, until matching says more: the rules know no probability.
_SCORES: Final = {Grade.CERTAIN: 1.0, Grade.PROBABLE: 0.8, Grade.POSSIBLE: 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Who is looked for, what of the matches is wanted (`count` None = all), the answer's base and format."""

    patient: Patient
    person: Demographics
    only_certain: bool
    count: int | None
    base: str
    answer_format: str


def read(raw: RestRequest, facts: AuditFacts) -> Request:
    """Read a Parameters with a Patient, or a Patient alone. Raise `Rejected` for anything else."""
    facts.query, facts.query_id = raw.line.encode() + b"\n" + raw.body, raw.headers.get("x-request-id", "")
    only(raw, ())
    found = fhir.read(raw.body, raw.body_format, ["Parameters", "Patient"])
    given: dict[str, Any] = {_RESOURCE: found} if found["resourceType"] == "Patient" else dict(_parameters(found))
    resource_given, count = given.get(_RESOURCE, {}), given.get(_COUNT)
    if resource_given.get("resourceType") != "Patient":
        raise Rejected(FhirCode.REQUIRED, "the parameter resource must hold a Patient", "Parameters.parameter")
    if count is not None and count < 1:
        raise Rejected(FhirCode.VALUE, "count must be 1 or more", "Parameters.parameter")
    patient = read_patient(resource_given)
    return Request(
        patient=patient, person=Demographics(**patient.person, other_ids=tuple(_numbers(patient))),
        only_certain=given.get(_CERTAIN, False), count=count, base=raw.base, answer_format=raw.answer_format)


def _parameters(found: fhir.Resource) -> Iterator[tuple[str, Any]]:
    for parameter in found.get("parameter", ()):
        name = parameter.get("name", "")
        if name in _VALUES:
            if _VALUES[name] not in parameter:
                raise Rejected(FhirCode.VALUE, f"{name} must have {_VALUES[name]}", "Parameters.parameter")
            yield name, parameter[_VALUES[name]]


def _numbers(patient: Patient) -> Iterator[tuple[str, str]]:
    return (("", one.value) for one in patient.identifiers if one.is_national)


@dataclass(frozen=True, slots=True)
class Result:
    """Who may be meant, as found by the searches."""

    request: Request
    found: Found

    @property
    def told(self) -> Sequence[tuple[Grade, Hit]]:
        """The matches of the answer with their grades, the surest first.

        Of certain matches only: none at all where several persons are certain (PDQm 2:3.119, case 5).
        """
        request = self.request
        graded = [(grade, hit) for hit in self.found.hits if (grade := _grade(request.person, hit)) is not None]
        if request.only_certain:
            certain = [pair for pair in graded if pair[0] is Grade.CERTAIN]
            return certain if len(certain) == 1 else []
        return sorted(graded, key=lambda pair: [*Grade].index(pair[0]))[:request.count]


def handle(supplier: DemographicsSupplier, request: Request, call: Call) -> Result:
    """Return who may be meant. Raise `Rejected` (required) for a Patient that says too little to search by."""
    asker = Asker.of(Wire.HTTP, call.caller, "", call.caller.address)
    queries = [*_queries(supplier, request)]
    if not queries:
        raise Rejected(FhirCode.REQUIRED, "too little to match by: give an identifier, a name or a birth date", "Patient")
    found = [supplier.search(query, asker) for query in queries]
    hits: dict[PatientId, Hit] = {}
    for hit in (hit for some in found for hit in some.hits):        # those by ids before others
        hits.setdefault(hit.affinity, hit)
    return Result(request, Found(hits=tuple(hits.values()), complete=all(some.complete for some in found)))


def _queries(supplier: DemographicsSupplier, request: Request) -> Iterator[Query]:
    person = request.person
    ids = [one for one in map(given_id, request.patient.identifiers)
           if one.value and (not one.other or supplier.authorities.domain(one) is not None)]
    if ids:
        yield Query(ids=(tuple(ids),))
    names = tuple(AskedName(family=Text(one.family), given=Text(one.given)) for one in person.names if one.family or one.given)
    births = ((Interval(person.birth_date, person.birth_date),),) if person.birth_date else ()
    if names or births:
        yield Query(names=(names,) if names else (), births=births)


def _grade(person: Demographics, hit: Hit) -> Grade | None:
    """Return how surely a person is meant; None for one who contradicts what is said, and was not found by an id."""
    verdicts = {same_person(person, known.person) for known in hit.records}
    by_id = any(hit.found_by)
    if Verdict.DIFFERENT in verdicts:
        return Grade.POSSIBLE if by_id else None
    if Verdict.SAME in verdicts:
        return Grade.CERTAIN
    agree = not any(disagree(person, known.person) for known in hit.records)
    if by_id and agree:
        return Grade.CERTAIN
    return Grade.PROBABLE if agree and person.names and person.birth_date else Grade.POSSIBLE


def _filtered(result: Result, keep: Keep) -> Result:
    return replace(result, found=visible_persons(result.found, keep))


def _disclosed(result: Result, facts: AuditFacts) -> None:
    note_persons(Found(hits=tuple(hit for _, hit in result.told)), facts)


def write(request: Request, result: Result) -> RestReply:
    """Return the Bundle."""
    told = [
        Match(url=f"{request.base}/Patient/{hit.affinity.value}", resource=resource(hit), score=_SCORES[grade], grade=grade.value)
        for grade, hit in result.told]
    bundle = searchset(told, total=len(told), warning="" if result.found.complete else MORE)
    return reply(bundle, request.answer_format)


def refuse(raw: RestRequest, error: BrokerError) -> RestReply:
    """Return the OperationOutcome."""
    return refused(error, raw.answer_format)


def _subject(supplier: DemographicsSupplier, request: Request) -> tuple[PatientId, ...]:
    return tuple(patient for query in _queries(supplier, request) for patient in supplier.subjects(query))


ROW: Final = FhirTransaction(
    code="ITI-119",
    name="Patient Demographics Match",
    wire=Wire.HTTP,
    messages=(Message(name="POST /Patient/$match"),),
    audit=AuditEvent(
        event_code="110112", event_text="Query", action="E", type_code="ITI-119", type_system=AUDIT_SYSTEM,
        type_text="Patient Demographics Match"),
    read=read,
    subject=_subject,
    handle=handle,
    filtered=_filtered,
    disclosed=_disclosed,
    write=write,
    refuse=refuse,
    declares={"operation": [{
        "name": "match", "definition": "https://profiles.ihe.net/ITI/PDQm/OperationDefinition/PDQmMatch"}]},
    actor=f"{PDQ_SUPPLIER}Match",
)
