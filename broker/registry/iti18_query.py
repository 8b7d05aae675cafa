"""ITI-18 Registry Stored Query (ITI TF-2 3.18): answers are joined from the bytes that were registered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from broker.db import Database
from broker.model.caller import AuditFacts
from broker.model.errors import BrokerError, Rejected, XdsCode
from broker.model.ids import PatientId
from broker.model.transaction import AuditEvent, Message, Transaction, Wire
from broker.registry.parameters import read_values
from broker.registry.queries import QUERIES, Item, Search
from broker.registry.store import ASSOCIATION
from broker.wire import ebxml
from broker.wire.ebxml_query import QueryRequest, read_query_request
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import QUERY

ACTION = "urn:ihe:iti:2007:RegistryStoredQuery"
LEAF_CLASS, OBJECT_REF = "LeafClass", "ObjectRef"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one query may ask and get: `objects` in full, `references`, and `values` of its parameters."""

    objects: int = 2000
    references: int = 50_000
    values: int = 10_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query found. `return_type` is LeafClass or ObjectRef."""

    return_type: str
    items: tuple[Item, ...]

    def only(self, keep: Callable[[Item], bool]) -> Self:
        """Return the answer with the items for which `keep` holds; an association goes with either of its ends."""
        everything = {item.uuid for item in self.items}
        kept = tuple(item for item in self.items if keep(item))
        while True:
            gone = everything - {item.uuid for item in kept}
            left = tuple(item for item in kept if item.source not in gone and item.target not in gone)
            if len(left) == len(kept):
                return type(self)(self.return_type, left)
            kept = left


class StoredQueries:
    """Answers stored queries from one database."""

    def __init__(self, database: Database, aliases: Mapping[str, str], limits: Limits) -> None:
        self._database, self._aliases, self._limits = database, aliases, limits

    def answer(self, request: QueryRequest, facts: AuditFacts) -> Answer:
        """Run the query. Raise `Rejected` as ITI TF-2 3.18.4.1.3 says; nothing found is an empty answer."""
        facts.query, facts.query_id = request.body, request.query_id
        row = QUERIES.get(request.query_id)
        if row is None:
            raise Rejected(XdsCode.UNKNOWN_STORED_QUERY, f"there is no stored query {request.query_id}")
        if request.return_type not in {LEAF_CLASS, OBJECT_REF}:
            raise Rejected(XdsCode.REGISTRY_ERROR, f"returnType must be {LEAF_CLASS} or {OBJECT_REF}")
        values = read_values(row.parameters, row.one_of, request.slots, self._aliases, self._limits.values)
        asked = {values[name][0][0] for name in row.patients}
        facts.patients += map(PatientId.parse, asked)
        full = request.return_type == LEAF_CLASS
        most = self._limits.objects if full else self._limits.references
        with self._database.read() as unit:
            search = Search(unit, bodies=full, most=most, sqlite=self._database.is_sqlite)
            items = search.bounded(row.run(search, values))
        patients = {item.patient for item in items if item.kind != ASSOCIATION}
        if full and len(patients) > 1:
            raise Rejected(XdsCode.RESULT_NOT_SINGLE_PATIENT, "the result belongs to several patients; ask for ObjectRef")
        facts.patients += map(PatientId.parse, sorted(patients - asked))
        return Answer(request.return_type, tuple(items))


def _read(raw: SoapRequest) -> QueryRequest:
    return read_query_request(raw.body)


def _subject(request: QueryRequest) -> PatientId | None:
    """Return the patient a query names, when it can be read at all."""
    row = QUERIES.get(request.query_id)
    for name, texts in request.slots if row else ():
        if row and name in row.patients and texts:
            try:
                return PatientId.parse(texts[0].strip().strip("'").replace("''", "'"))
            except Rejected:
                return None
    return None


def _write(_request: QueryRequest, answer: Answer) -> SoapReply:
    if answer.return_type == OBJECT_REF:
        return SoapReply(fragments=ebxml.query_response([b'<rim:ObjectRef id="%s"/>' % i.uuid.encode() for i in answer.items]))
    return SoapReply(fragments=ebxml.query_response([item.body for item in answer.items]))


def _refuse(_raw: SoapRequest, error: BrokerError) -> SoapReply:
    return SoapReply(fragments=ebxml.query_response((), ebxml.problems_of(error, "registry")))


ROW = Transaction(
    code="ITI-18",
    name="Registry Stored Query",
    wire=Wire.SOAP,
    endpoint="/xds/registry",
    messages=(Message(name=f"{{{QUERY}}}AdhocQueryRequest", action=ACTION, reply_action=f"{ACTION}Response"),),
    schema="query.xsd",
    audit=AuditEvent(
        event_code="110112", event_text="Query", action="E", type_code="ITI-18", type_text="Registry Stored Query"),
    read=_read,
    handle=lambda registry, request, call: registry.query(request, call),
    write=_write,
    refuse=_refuse,
    subject=_subject,
)
