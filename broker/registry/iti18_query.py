"""ITI-18 Registry Stored Query (ITI TF-2 3.18): answers are joined from the bytes that were registered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from broker.db import Database
from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Rejected, TooLarge, XdsCode
from broker.model.ids import PatientId
from broker.model.transaction import AuditEvent, Keep, Message, Transaction, Wire
from broker.registry.parameters import Values, read_values, with_schemes
from broker.registry.queries import QUERIES, Item, Search, StoredQuery
from broker.registry.store import ASSOCIATION
from broker.wire import ebxml
from broker.wire.ebxml_query import read_query_request
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
class Request:
    """A stored query as it is run: its row, LeafClass or ObjectRef, the values of its parameters, the patients they name."""

    query: StoredQuery
    return_type: str
    values: Values
    patients: tuple[PatientId, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query found. `return_type` is LeafClass or ObjectRef, `patients` (CX) are those the objects belong to.

    `without_hidden` runs the query as if what may not be seen were not registered.
    """

    return_type: str
    items: Sequence[Item]
    patients: frozenset[str]
    without_hidden: Callable[[Keep], "Answer"] = field(compare=False)

    @property
    def is_mixed(self) -> bool:
        """Whether objects of several patients are asked for in full, which is refused."""
        return self.return_type == LEAF_CLASS and len(self.patients) > 1


class QueryActor(Protocol):
    """The registry as this transaction sees it."""

    def query(self, request: Request) -> Answer:
        """Answer a stored query."""
        ...


class StoredQueries:
    """Answers stored queries from one database."""

    def __init__(self, database: Database, aliases: Mapping[str, str], limits: Limits) -> None:
        self._database, self._aliases, self._limits = database, aliases, limits

    def answer(self, request: Request, keep: Keep | None = None) -> Answer:
        """Run the query, with `keep` as if what may not be seen were not registered; nothing found is an empty answer.

        Raise `Rejected` (XDSTooManyResults) and `TooLarge` for more than the limits allow.
        """
        if sum(len(group) for groups in request.values.values() for group in groups) > self._limits.values:
            raise TooLarge(f"{self._limits.values} values in one stored query")
        values = with_schemes(request.values, request.query.codes, self._aliases)
        full = request.return_type == LEAF_CLASS
        most = self._limits.objects if full else self._limits.references
        with self._database.read() as unit:
            search = Search(unit, bodies=full, most=most, sqlite=self._database.is_sqlite, keep=keep)
            items = search.bounded(request.query.run(search, values))
        patients = frozenset([item.patient for item in items if item.kind != ASSOCIATION])
        return Answer(request.return_type, items, patients, partial(self.answer, request))


def _read(raw: SoapRequest, facts: AuditFacts) -> Request:
    """Read the query and its values. Raise `Rejected` as ITI TF-2 3.18.4.1.3 says."""
    asked = read_query_request(raw.body)
    facts.query, facts.query_id = asked.body, asked.query_id
    query = QUERIES.get(asked.query_id)
    if query is None:
        raise Rejected(XdsCode.UNKNOWN_STORED_QUERY, f"there is no stored query {asked.query_id}")
    if asked.return_type not in {LEAF_CLASS, OBJECT_REF}:
        raise Rejected(XdsCode.REGISTRY_ERROR, f"returnType must be {LEAF_CLASS} or {OBJECT_REF}")
    values = read_values(query.parameters, query.one_of, asked.slots)
    patients = tuple(PatientId.parse(values[name][0][0]) for name in query.patients)
    facts.patients += patients
    return Request(query, asked.return_type, values, patients)


def _handle(registry: QueryActor, request: Request, _call: Call) -> Answer:
    return registry.query(request)


def _disclosed(answer: Answer, facts: AuditFacts) -> None:
    if not answer.is_mixed:
        facts.patients += sorted(set(map(PatientId.parse, answer.patients)).difference(facts.patients))


def _write(_request: Request, answer: Answer) -> SoapReply:
    """Return the AdhocQueryResponse. Raise `Rejected` where objects of several patients are asked for in full."""
    if answer.return_type == OBJECT_REF:
        return SoapReply(fragments=ebxml.query_response([b'<rim:ObjectRef id="%s"/>' % i.uuid.encode() for i in answer.items]))
    if answer.is_mixed:
        raise Rejected(XdsCode.RESULT_NOT_SINGLE_PATIENT, "the result belongs to several patients; ask for ObjectRef")
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
    subject=lambda _registry, request: request.patients,
    handle=_handle,
    filtered=lambda answer, keep: answer.without_hidden(keep),
    disclosed=_disclosed,
    write=_write,
    refuse=_refuse,
)
