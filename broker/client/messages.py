"""Bodies a consultation sends and reads: ITI-18 FindDocuments, ITI-43, RAD-69, ITI-41. Pure."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote
from xml.sax.saxutils import escape, quoteattr

from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.imaging import InstanceRef
from broker.model.metadata import APPROVED, Code, DocumentEntry, RegistryObjects
from broker.model.syntaxes import RECEIVED_SYNTAXES
from broker.wire import ebxml
from broker.wire.ebxml_query import write_query_request
from broker.wire.xml import RAD, RS, XDS, XOP, Element

FIND_DOCUMENTS = "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d"
GET_SUBMISSION_SETS = "urn:uuid:51224314-5390-4169-9b91-b1980040715a"
KOS_FORMAT = Code("1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1")

@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One DocumentResponse: its ids, and its bytes as the name of an attachment or, unoptimised, in the message itself."""

    repository_uid: str
    unique_id: str
    attachment: str
    inline: bytes


def find_documents(patient: PatientId, format_code: Code = KOS_FORMAT) -> bytes:
    """Return ITI-18 FindDocuments for the Approved entries of an affinity-domain id, as LeafClass (ITI TF-2 3.18.4.1.2.3.7.1)."""
    return write_query_request(FIND_DOCUMENTS, {
        "$XDSDocumentEntryPatientId": str(patient),
        "$XDSDocumentEntryStatus": [APPROVED],
        "$XDSDocumentEntryFormatCode": [f"{format_code.code}^^{format_code.scheme}"],
    })


def get_submission_sets(entries: Iterable[DocumentEntry]) -> bytes:
    """Return ITI-18 GetSubmissionSets for these entries, as LeafClass (ITI TF-2 3.18.4.1.2.3.7.9)."""
    return write_query_request(GET_SUBMISSION_SETS, {"$uuid": [entry.id for entry in entries]})


def retrieve_documents(entries: Iterable[DocumentEntry]) -> bytes:
    """Return ITI-43 for the documents of these entries (ITI TF-2 3.43.4.1)."""
    rows = "".join(_document(entry.repository_unique_id, entry.unique_id, entry.home) for entry in entries)
    return f'<RetrieveDocumentSetRequest xmlns="{XDS}">{rows}</RetrieveDocumentSetRequest>'.encode()


def retrieve_images(refs: Iterable[InstanceRef], syntaxes: Sequence[str] = RECEIVED_SYNTAXES) -> bytes:
    """Return RAD-69 for these instances: each study and series once, whatever the order of `refs`.

    A source answers an object in the transfer syntax it keeps when that is listed: all are that the broker takes in.
    """
    studies: dict[str, dict[str, list[InstanceRef]]] = {}
    for ref in refs:
        studies.setdefault(ref.study_uid, {}).setdefault(ref.series_uid, []).append(ref)
    rows = "".join(
        f"<rad:StudyRequest studyInstanceUID={quoteattr(study)}>" + "".join(
            f"<rad:SeriesRequest seriesInstanceUID={quoteattr(series)}>"
            + "".join(_document(ref.source_uid, ref.sop_uid) for ref in members) + "</rad:SeriesRequest>"
            for series, members in by_series.items()) + "</rad:StudyRequest>"
        for study, by_series in studies.items())
    listed = "".join(f"<rad:TransferSyntaxUID>{escape(uid)}</rad:TransferSyntaxUID>" for uid in syntaxes)
    return (
        f'<rad:RetrieveImagingDocumentSetRequest xmlns:rad="{RAD}" xmlns="{XDS}">{rows}'
        f"<rad:TransferSyntaxUIDList>{listed}</rad:TransferSyntaxUIDList></rad:RetrieveImagingDocumentSetRequest>").encode()


def provide(objects: RegistryObjects, attachments: Mapping[str, str]) -> bytes:
    """Return ITI-41 for a submission; `attachments` maps a DocumentEntry's id to the Content-ID of its bytes."""
    rows = "".join(
        f'<xds:Document id={quoteattr(document)}><xop:Include xmlns:xop="{XOP}" href={quoteattr(f"cid:{name}")}/></xds:Document>'
        for document, name in attachments.items())
    return b"".join((
        f'<xds:ProvideAndRegisterDocumentSetRequest xmlns:xds="{XDS}">'.encode(), ebxml.submit_request(objects),
        rows.encode(), b"</xds:ProvideAndRegisterDocumentSetRequest>"))


def read_documents(element: Element) -> tuple[ebxml.RegistryResponse, tuple[Document, ...]]:
    """Return status and documents of a xds:RetrieveDocumentSetResponse (ITI-43 and RAD-69)."""
    response = element.find(f"{{{RS}}}RegistryResponse")
    if element.tag != f"{{{XDS}}}RetrieveDocumentSetResponse" or response is None:
        raise Rejected("UnexpectedAnswer", "the answer is no RetrieveDocumentSetResponse")
    documents = tuple(_read_document(row) for row in element.iterfind(f"{{{XDS}}}DocumentResponse"))
    return ebxml.read_registry_response(response), documents


def _read_document(row: Element) -> Document:
    content = row.find(f"{{{XDS}}}Document")
    include = content.find(f"{{{XOP}}}Include") if content is not None else None
    try:
        text = "".join((content.text or "").split()) if content is not None and include is None else ""
        inline = base64.b64decode(text, validate=True)
    except ValueError as error:         # binascii.Error, or characters beyond ASCII
        raise Rejected("UnexpectedAnswer", "a document is no base64") from error
    return Document(
        repository_uid=(row.findtext(f"{{{XDS}}}RepositoryUniqueId") or "").strip(),
        unique_id=(row.findtext(f"{{{XDS}}}DocumentUniqueId") or "").strip(),
        attachment=unquote(include.get("href", "").removeprefix("cid:")) if include is not None else "", inline=inline)


def _document(repository: str, unique_id: str, home: str = "") -> str:
    return (
        "<DocumentRequest>" + (f"<HomeCommunityId>{escape(home)}</HomeCommunityId>" if home else "")
        + f"<RepositoryUniqueId>{escape(repository)}</RepositoryUniqueId>"
        f"<DocumentUniqueId>{escape(unique_id)}</DocumentUniqueId></DocumentRequest>")
