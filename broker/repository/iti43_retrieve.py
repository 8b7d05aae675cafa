"""ITI-43 Retrieve Document Set: documents by repository and uniqueId, each with its own result (ITI TF-2 3.43)."""

from collections.abc import Callable
from dataclasses import dataclass

from broker.model.blob import FileSlice
from broker.model.caller import Call
from broker.model.errors import BrokerError, Problem, Rejected, XdsCode
from broker.model.transaction import AuditEvent, Message, Packaging, Transaction, Wire
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
    """What can be given and what cannot."""

    documents: tuple[Retrieved, ...]
    problems: tuple[Problem, ...]

    def only(self, keep: Callable[[Retrieved], bool]) -> "Answer":
        """Return the answer as if what may not be seen were not there."""
        shown = tuple(document for document in self.documents if keep(document))
        hidden = tuple(_unknown(document.unique_id) for document in self.documents if document not in shown)
        return Answer(shown, (*self.problems, *hidden))


def read(raw: SoapRequest) -> tuple[Wanted, ...]:
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
    found = [_answer(repository.unique_id, one, known.get(one.unique_id)) for one in wanted]
    documents = tuple(one for one in found if isinstance(one, Retrieved))
    problems = tuple(one for one in found if isinstance(one, Problem))
    if not documents:
        raise Rejected.of(problems)
    return Answer(documents, problems)


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
    """Return the RetrieveDocumentSetResponse."""
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
    handle=handle,
    write=write,
    refuse=refuse,
    packaging=Packaging.MTOM,
    may_be_plain=True,
    schema="xds.xsd",
    listed=(f"{{{XDS}}}DocumentRequest",),
)
