"""xds:RetrieveDocumentSetResponse, the answer of ITI-43 and RAD-69 (ITI TF-2 3.43.5, RAD TF-2 4.69)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from broker.files.sources import ByteSource
from broker.model.errors import Problem
from broker.wire.ebxml import FAILURE, PARTIAL_SUCCESS, SUCCESS, registry_response
from broker.wire.soap import Part, SoapReply
from broker.wire.xml import XDS, XOP

_MEDIA_TYPE = re.compile(r"[!#$&^_.+\-0-9A-Za-z]+/[!#$&^_.+\-0-9A-Za-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """One document to be returned. `home` is empty unless the request had it; `mime_type` is given as it was provided.

    `lies` orders the attachments of an answer: the file their bytes lie in and where in it.
    """

    home: str = ""
    repository: str
    unique_id: str
    mime_type: str
    source: ByteSource
    lies: tuple[str, int] = ("", 0)


def retrieve_response(documents: Sequence[Retrieved], problems: Sequence[Problem] = ()) -> SoapReply:
    """Return the answer with these documents as attachments and one error per problem.

    Success, PartialSuccess or Failure follows from the two (ITI TF-3 4.2.4.2): errors beside documents are partial.
    """
    status = SUCCESS if not problems else PARTIAL_SUCCESS if documents else FAILURE
    parts = tuple(
        Part(content_id=f"document-{n}@broker", media_type=_media_type(document.mime_type), source=document.source)
        for n, document in enumerate(documents, 1))
    as_they_lie = sorted(zip(documents, parts, strict=True), key=lambda pair: pair[0].lies)
    return SoapReply(parts=tuple(part for _, part in as_they_lie), fragments=(
        f'<xds:RetrieveDocumentSetResponse xmlns:xds="{XDS}" xmlns:xop="{XOP}">'.encode(),
        registry_response(problems, status=status),
        *(_response(document, part) for document, part in zip(documents, parts, strict=True)),
        b"</xds:RetrieveDocumentSetResponse>"))


def _response(document: Retrieved, part: Part) -> bytes:
    home = f"<xds:HomeCommunityId>{escape(document.home)}</xds:HomeCommunityId>" if document.home else ""
    return (
        f"<xds:DocumentResponse>{home}<xds:RepositoryUniqueId>{escape(document.repository)}</xds:RepositoryUniqueId>"
        f"<xds:DocumentUniqueId>{escape(document.unique_id)}</xds:DocumentUniqueId>"
        f"<xds:mimeType>{escape(document.mime_type)}</xds:mimeType>"
        f'<xds:Document><xop:Include href="cid:{part.content_id}"/></xds:Document></xds:DocumentResponse>'
    ).encode()


def _media_type(mime_type: str) -> str:
    """Return a media type fit for a MIME header: what a sender calls a document may be anything."""
    return mime_type if _MEDIA_TYPE.fullmatch(mime_type) else "application/octet-stream"
