"""ITI-78 Patient Demographics Query for Mobile (IHE PDQm 2:3.78): search of Patients, their pages, and read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final
from urllib.parse import urlencode

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, FhirCode, Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.transaction import AuditEvent, Message, Wire
from broker.patients.asked import Query
from broker.patients.demographics import Asker, DemographicsSupplier, Found, Hit, Page, note_persons
from broker.patients.fhir import AUDIT_SYSTEM, MORE, PDQ_SUPPLIER, logical_id, visible_persons
from broker.patients.fhir_search import DECLARED, WANTED, Search, read_search
from broker.wire import fhir
from broker.wire.fhir_bundle import Match, searchset
from broker.wire.fhir_capability import FhirTransaction
from broker.wire.fhir_outcome import refused, reply, translated
from broker.wire.fhir_patient import write_patient, write_retired
from broker.wire.rest import RestReply, RestRequest

_USUAL, _LARGEST = 50, 500      # Patients of a page
_MEANINGS: Final = {(Hl7Code.UNKNOWN_KEY.value, WANTED): (FhirCode.WANTED_UNKNOWN, "targetSystem not found")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked: a search, a page of one (token and where it begins), or one Patient by its logical id.

    `count` is how many Patients of a page are wanted; 0: only how many there are.
    """

    search: Search
    base: str
    answer_format: str
    count: int = _USUAL
    page: tuple[str, int] | None = None
    logical_id: str = ""


def read(affinity_domain: str, raw: RestRequest, facts: AuditFacts) -> Request:
    """Read a search or a read. Raise `Rejected` (invalid, value, code-invalid, too-long)."""
    facts.query, facts.query_id = raw.line.encode(), raw.headers.get("x-request-id", "")
    if raw.body:
        facts.query += b"\n" + raw.body
    if raw.body_format not in {"", fhir.FORM}:
        raise Rejected(FhirCode.MEDIA_TYPE, "the body of a search must be application/x-www-form-urlencoded")
    wanted = raw.arguments.get("id", "")
    if wanted:
        query = Query(ids=((logical_id(affinity_domain, wanted, "_id"),),))
        return Request(search=Search(query=query), base=raw.base, answer_format=raw.answer_format, logical_id=wanted)
    strict = "handling=strict" in raw.headers.get("prefer", "").replace(" ", "")
    return Request(
        search=read_search(raw.query, affinity_domain, strict=strict), base=raw.base, answer_format=raw.answer_format,
        count=_count(raw.values("_count")), page=_page(raw.values("_page")))


def _count(given: Sequence[str]) -> int:
    text = given[-1] if given else str(_USUAL)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Rejected(FhirCode.VALUE, "_count is no number", "_count")
    return min(int(text), _LARGEST)


def _page(given: Sequence[str]) -> tuple[str, int] | None:
    if not given:
        return None
    start, _, name = given[-1].partition(".")
    if not (start.isascii() and start.isdecimal() and len(start) < 10):
        raise Rejected(FhirCode.VALUE, "_page is none of ours", "_page")
    return name, int(start)


def handle(supplier: DemographicsSupplier, request: Request, call: Call) -> Found:
    """Return a page of the persons found. Raise `Rejected` for a page that is gone, or as `DemographicsSupplier.search`."""
    asker = Asker.of(Wire.HTTP, call.caller, "", call.caller.address)
    if request.page is not None:
        token, start = request.page
        found = supplier.go_on(asker, token, Page(start=start, quantity=request.count))
        if found is None:
            raise Rejected(FhirCode.NOT_FOUND, "this page is not of a search of yours, or is kept no longer", "_page")
        return found
    query = _with_known_ids(supplier, request.search.query)
    if query is None or request.search.nobody:
        return Found()
    found = supplier.search(query, asker, request.count or None)
    return found if request.count else replace(found, page=Page(quantity=0))


def _with_known_ids(supplier: DemographicsSupplier, query: Query) -> Query | None:
    """Return the query without ids of systems that nobody here knows; None where a condition has no others."""
    known = supplier.authorities.domain
    ids = tuple(tuple(one for one in some if not one.other or known(one) is not None) for some in query.ids)
    return replace(query, ids=ids) if all(ids) else None


def write(request: Request, found: Found) -> RestReply:
    """Return the Bundle, or the Patient. Raise `Rejected` (not-found) when there is no such Patient."""
    if request.logical_id:
        return reply(_patient(request.logical_id, found), request.answer_format)
    bundle = searchset(
        [_match(request.base, hit) for hit in found.shown], total=len(found.hits), links=[*_links(request, found)],
        warning="" if found.complete else MORE)
    return reply(bundle, request.answer_format)


def _patient(wanted: str, found: Found) -> dict[str, object]:
    hit = next((one for one in found.hits if any(one.affinity in by for by in one.found_by)), None)
    if hit is None:         # or somebody is found who was once said to have it
        raise Rejected(FhirCode.NOT_FOUND, "there is no Patient with this id")
    return resource(hit) if hit.affinity.value == wanted else write_retired(wanted, hit.affinity.value)


def resource(hit: Hit) -> dict[str, object]:
    """Return a person as a Patient."""
    return write_patient(hit.affinity.value, [patient for patient, _ in hit.ids], hit.person)


def _match(base: str, hit: Hit) -> Match:
    return Match(url=f"{base}/Patient/{hit.affinity.value}", resource=resource(hit), score=hit.confidence / 100)


def _links(request: Request, found: Found) -> Sequence[tuple[str, str]]:
    """Return where this page and the next one are; the first names the parameters that counted."""
    address, count = f"{request.base}/Patient", ("_count", str(request.count))
    if request.page is not None:
        token, start = request.page
        own = [("_page", f"{start}.{token}"), count]
    else:
        own = [*request.search.respected, count]
    links = [("self", f"{address}?{urlencode(own)}")]
    if found.remaining and request.count:
        links.append(("next", f"{address}?{urlencode([('_page', f'{found.next_start}.{found.token}'), count])}"))
    return links


def refuse(raw: RestRequest, error: BrokerError) -> RestReply:
    """Return the OperationOutcome."""
    return refused(translated(error, _MEANINGS), raw.answer_format)


def _subject(supplier: DemographicsSupplier, request: Request) -> tuple[PatientId, ...]:
    return supplier.subjects(request.search.query)


def row(affinity_domain: str) -> FhirTransaction[DemographicsSupplier, Request, Found]:
    """Return the row of a supplier whose persons are Patients named by their ids in this domain."""
    return FhirTransaction(
        code="ITI-78",
        name="Mobile Patient Demographics Query",
        wire=Wire.HTTP,
        messages=(Message(name="GET /Patient"), Message(name="POST /Patient/_search"), Message(name="GET /Patient/<id>")),
        audit=AuditEvent(
            event_code="110112", event_text="Query", action="E", type_code="ITI-78", type_system=AUDIT_SYSTEM,
            type_text="Mobile Patient Demographics Query"),
        read=partial(read, affinity_domain),
        subject=_subject,
        handle=handle,
        filtered=visible_persons,
        disclosed=note_persons,
        write=write,
        refuse=refuse,
        declares={
            "interaction": [{"code": "read"}, {"code": "search-type"}], "searchParam": DECLARED,
            "supportedProfile": ["https://profiles.ihe.net/ITI/PDQm/StructureDefinition/IHE.PDQm.Patient"]},
        actor=PDQ_SUPPLIER,
    )
