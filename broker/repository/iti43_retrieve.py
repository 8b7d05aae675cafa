"""ITI-43 Retrieve Document Set: documents by repository and uniqueId, each with its own result (ITI TF-2 3.43)."""

from dataclasses import dataclass

from broker.files.sources import FileSlice
from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Problem, Rejected, XdsCode
from broker.model.transaction import NOBODY, AuditEvent, Disclosure, Keep, Message, Packaging, Transaction, Wire
from broker.repository.actor import Repository
from broker.repository.store import Document
from broker.wire.ebxml import problems_of
from broker.wire.retrieve import Retrieved, retrieve_response
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import XDS


@dataclass(frozen=True, slots=True)
class Wanted:
    """One DocumentRequest; `home` is empty when the request has none."""

    home: str
    repository: str
    unique_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be given and what cannot, in the order of the request."""

    found: tuple[Retrieved | Problem, ...]

    @property
    def documents(self) -> tuple[Retrieved, ...]:
        """The documents to be given."""
        return tuple(one for one in self.found if isinstance(one, Retrieved))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why the others are not."""
        return tuple(one for one in self.found if isinstance(one, Problem))


def read(raw: SoapRequest, _facts: AuditFacts) -> tuple[Wanted, ...]:
    """Return the documents that are asked for, in order, repeats included."""
    wanted = tuple(
        Wanted(*((request.findtext(f"{{{XDS}}}{name}") or "").strip()
                 for name in ("HomeCommunityId", "RepositoryUniqueId", "DocumentUniqueId")))
        for request in raw.body.iterfind(f"{{{XDS}}}DocumentRequest"))
    if not wanted:
        raise Rejected(XdsCode.REPOSITORY_ERROR, "no document is asked for")
    return wanted


def handle(repository: Repository, wanted: tuple[Wanted, ...], call: Call) -> Answer:
    """Look every document up; what is not there is one error with the uniqueId as its location."""
    call.facts.documents.extend((one.repository, one.unique_id) for one in wanted)
    known = repository.documents.find_all(one.unique_id for one in wanted if one.repository == repository.unique_id)
    return Answer(tuple(_answer(repository.unique_id, one, known.get(one.unique_id)) for one in wanted))


def filtered(answer: Answer, keep: Keep) -> Answer:
    """Return the answer as if what may not be seen were not there; whose a document is, only the registry knows."""
    return Answer(tuple(
        _unknown(one.unique_id) if isinstance(one, Retrieved) and not keep(Disclosure(patient=None, unique_id=one.unique_id))
        else one for one in answer.found))


def _answer(ours: str, wanted: Wanted, found: tuple[Document, FileSlice] | None) -> Retrieved | Problem:
    if wanted.repository != ours:
        return Problem(
            XdsCode.UNKNOWN_REPOSITORY_ID, f"repository {wanted.repository} is not this one ({ours})", wanted.unique_id)
    if found is None:
        return _unknown(wanted.unique_id)
    row, source = found
    return Retrieved(
        home=wanted.home, repository=wanted.repository, unique_id=wanted.unique_id, mime_type=row.mime_type, source=source)


def _unknown(unique_id: str) -> Problem:
    return Problem(XdsCode.DOCUMENT_UNIQUE_ID_ERROR, f"document {unique_id} is not available", unique_id)


def write(_wanted: tuple[Wanted, ...], answer: Answer) -> SoapReply:
    """Return the RetrieveDocumentSetResponse. Raise `Rejected` with all errors when no document can be given."""
    if not answer.documents:
        raise Rejected.of(answer.problems)
    return retrieve_response(answer.documents, answer.problems)


def refuse(_raw: SoapRequest, error: BrokerError) -> SoapReply:
    """Return a RetrieveDocumentSetResponse that failed as a whole."""
    return retrieve_response((), problems_of(error, "repository"))


ROW = Transaction(
    code="ITI-43",
    name="Retrieve Document Set",
    wire=Wire.SOAP,
    endpoint="/xds/repository",
    messages=(Message(
        name=f"{{{XDS}}}RetrieveDocumentSetRequest",
        action="urn:ihe:iti:2007:RetrieveDocumentSet",
        reply_action="urn:ihe:iti:2007:RetrieveDocumentSetResponse",
    ),),
    audit=AuditEvent(
        event_code="110106", event_text="Export", action="R", type_code="ITI-43", type_text="Retrieve Document Set",
        source_is_local=True),
    read=read,
    subject=NOBODY,
    handle=handle,
    filtered=filtered,
    write=write,
    refuse=refuse,
    packaging=Packaging.MTOM,
    may_be_plain=True,
    schema="xds.xsd",
    listed=(f"{{{XDS}}}DocumentRequest",),
)
