"""ITI-41 Provide and Register Document Set-b, RAD-68 for manifests: documents in, then registered (ITI TF-2 3.41)."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from broker.files.sources import Spooled
from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Problem, Rejected, Unavailable, XdsCode
from broker.model.metadata import DocumentEntry
from broker.model.transaction import NOTHING_TO_FILTER, AuditEvent, Message, Packaging, Transaction, Wire
from broker.repository.actor import Repository
from broker.repository.documents import IncomingDocument
from broker.wire.ebxml import OBJECTS, Submission, problems_of, read_submission, registry_response, with_slots
from broker.wire.ebxml_rim import first, read_slots, tag
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import LCM, XDS, Element
from broker.wire.xop import INCLUDE, resolve

_LONGEST = 256  # characters of a uniqueId or mimeType the store keeps


@dataclass(frozen=True, slots=True)
class Provided:
    """A request: its submission and the xds:Document elements by id."""

    raw: SoapRequest
    submission: Submission
    documents: dict[str, Element]


def read(raw: SoapRequest, facts: AuditFacts) -> Provided:
    """Return the submission with its documents paired. Raise `Rejected` naming every one that lacks its other half."""
    request = raw.body.find(f"{{{LCM}}}SubmitObjectsRequest")
    if request is None:
        raise Rejected(XdsCode.REPOSITORY_METADATA_ERROR, "there is no SubmitObjectsRequest")
    submission = read_submission(request)
    submission.objects.note(facts)
    elements = raw.body.findall(f"{{{XDS}}}Document")
    problems = [*_unpaired(submission, elements), *_surplus(raw), *_unfit(submission)]
    if problems:
        raise Rejected.of(problems)
    return Provided(raw, submission, {element.get("id", ""): element for element in elements})


def _unpaired(submission: Submission, elements: list[Element]) -> list[Problem]:
    given = Counter(element.get("id", "") for element in elements)
    entries = {entry.id for entry in submission.objects.documents}
    return [
        *(Problem(XdsCode.MISSING_DOCUMENT, f"there is no Document for the entry {entry.id}")
          for entry in submission.objects.documents if entry.id not in given),
        *(Problem(XdsCode.MISSING_DOCUMENT_METADATA, f"there is no ExtrinsicObject for the Document {name!r}")
          for name in given if name not in entries),
        *(Problem(XdsCode.REPOSITORY_METADATA_ERROR, f"the Document {name!r} is there {count} times")
          for name, count in given.items() if count > 1),
    ]


def _surplus(raw: SoapRequest) -> list[Problem]:
    """Return a problem for each attachment nothing in the whole envelope refers to."""
    root = raw.body.getroottree().getroot()
    used = {unquote(include.get("href", "").removeprefix("cid:")) for include in root.iter(INCLUDE)}
    return [
        Problem(XdsCode.MISSING_DOCUMENT_METADATA, f"nothing refers to the attachment {name!r}")
        for name in raw.attachments if unquote(name) not in used
    ]


def _unfit(submission: Submission) -> list[Problem]:
    """Return what stops us from storing; any other metadata is the registry's to judge (ITI TF-2 3.41.4.1.3)."""
    entries = submission.objects.documents
    repeats = Counter(entry.unique_id for entry in entries if entry.unique_id)
    return [
        *(Problem(XdsCode.REPOSITORY_METADATA_ERROR, f"the entry {entry.id}: uniqueId is missing")
          for entry in entries if not entry.unique_id),
        *(Problem(XdsCode.REPOSITORY_METADATA_ERROR,
                  f"the entry {entry.id}: {name} has {len(value)} characters, {_LONGEST} are allowed")
          for entry in entries for name, value in (("uniqueId", entry.unique_id), ("mimeType", entry.mime_type))
          if len(value) > _LONGEST),
        *(Problem(XdsCode.REPOSITORY_DUPLICATE_UNIQUE_ID_IN_MESSAGE, unique_id)
          for unique_id, count in repeats.items() if count > 1),
    ]


def handle(repository: Repository, request: Provided, call: Call) -> tuple[Problem, ...]:
    """Store the documents, have them registered, and return the registry's warnings as they are.

    A refusal takes the documents back and is passed on unchanged. When the registry does not answer they are kept,
    for it may have registered them; the sender hears XDSRegistryNotAvailable and may send the same again.
    """
    with contextlib.ExitStack() as clean:
        incoming, submission = _check(repository, request, clean)
        staged = repository.documents.stage(incoming)
    try:
        warnings = repository.registrar.register(submission, call)
    except Unavailable as error:
        repository.documents.keep_undecided(staged)
        raise Unavailable("registry", error.retry_after) from error
    except BrokerError:
        repository.documents.discard(staged)
        raise
    repository.documents.commit(staged)
    return warnings


def _check(repository: Repository, request: Provided, clean: contextlib.ExitStack) -> tuple[list[IncomingDocument], Submission]:
    """Return the documents and the submission with what the repository has to add, or raise `Rejected`.

    `clean` removes the files made for inline documents.
    """
    incoming: list[IncomingDocument] = []
    problems: list[Problem] = []
    slots: dict[str, dict[str, str]] = {}
    attached = {attachment.path for attachment in request.raw.attachments.values()}
    said = {entry.get("id", ""): read_slots(entry) for entry in request.submission.element.iter(tag("ExtrinsicObject"))}
    for entry in request.submission.objects.documents:
        spooled = resolve(request.raw, request.documents[entry.id], repository.documents.incoming())
        if spooled.path not in attached:
            clean.callback(Path(spooled.path).unlink, missing_ok=True)
        sizes, hashes = first(said[entry.id], "size"), first(said[entry.id], "hash")
        problems += _differences(entry, spooled, sizes, hashes)
        incoming.append(IncomingDocument(unique_id=entry.unique_id, mime_type=entry.mime_type, spooled=spooled))
        missing = {"hash": "" if hashes else spooled.sha1, "size": "" if sizes else str(spooled.size)}
        added = {name: value for name, value in missing.items() if value}
        slots[entry.id] = {**added, "repositoryUniqueId": repository.unique_id}
    if problems:
        raise Rejected.of(problems)
    return incoming, with_slots(request.submission, slots)


def _differences(entry: DocumentEntry, spooled: Spooled, size: str, digest: str) -> list[Problem]:
    """Return where the bytes are not what the sender says they are; a hash is hexadecimal in either case."""
    found = []
    if digest and digest.lower() != spooled.sha1:
        found.append(f"hash of the entry {entry.id} is {digest[:80]}, the document's is {spooled.sha1}")
    if size and (not (size.isascii() and size.isdigit()) or int(size[:20]) != spooled.size):
        found.append(f"size of the entry {entry.id} is {size[:20]}, the document's is {spooled.size}")
    return [Problem(XdsCode.REPOSITORY_METADATA_ERROR, context) for context in found]


def write(_request: Provided, warnings: tuple[Problem, ...]) -> SoapReply:
    """Return the RegistryResponse of a success."""
    return SoapReply(fragments=(registry_response(warnings=warnings),))


def refuse(_raw: SoapRequest, error: BrokerError) -> SoapReply:
    """Return the RegistryResponse of a failure; there is no partial success (ITI TF-3 4.2.4.2)."""
    return SoapReply(fragments=(registry_response(problems_of(error, "repository", metadata=True)),))


ROW = Transaction(
    code="ITI-41",
    name="Provide and Register Document Set-b",
    wire=Wire.SOAP,
    endpoint="/xds/repository",
    messages=(Message(
        name=f"{{{XDS}}}ProvideAndRegisterDocumentSetRequest",
        action="urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b",
        reply_action="urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-bResponse",
    ),),
    audit=AuditEvent(
        event_code="110107", event_text="Import", action="C", type_code="ITI-41",
        type_text="Provide and Register Document Set-b"),
    read=read,
    subject=lambda _repository, request: request.submission.objects.patients,
    handle=handle,
    filtered=NOTHING_TO_FILTER,
    write=write,
    refuse=refuse,
    packaging=Packaging.MTOM,
    schema="xds.xsd",
    listed=OBJECTS,
)
