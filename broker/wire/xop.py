"""Binary content of an XML element: an MTOM attachment it includes, or base64 text (ITI TF-2 Appendix V.3.6)."""

import base64
import binascii
from pathlib import Path
from urllib.parse import unquote

from broker.files.sources import Spooled
from broker.files.spool import spool
from broker.model.errors import Rejected, XdsCode
from broker.wire.soap import SoapRequest
from broker.wire.xml import XOP, Element

INCLUDE = f"{{{XOP}}}Include"


def resolve(request: SoapRequest, element: Element, folder: Path) -> Spooled:
    """Return the binary content of `element` as a file.

    An attachment's file belongs to the request and is dropped with it unless it was renamed; inline base64 is written
    into `folder`, and that file is the caller's to rename or unlink. Only `cid:` references are followed, never a URL.
    Raise `Rejected` (XDSMissingDocument) for a reference without its part, (XDSRepositoryError) for what is neither
    attachment nor base64, and what `spool` raises.
    """
    include = element.find(INCLUDE)
    if include is not None:
        return _attachment(request, include.get("href", ""))
    text = "".join((element.text or "").split())
    if len(element):
        raise Rejected(XdsCode.REPOSITORY_ERROR, "a document holds elements that are not xop:Include")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Rejected(XdsCode.REPOSITORY_ERROR, "an inline document is not base64") from error
    return spool("application/octet-stream", (data,), folder)


def _attachment(request: SoapRequest, href: str) -> Spooled:
    if not href.startswith("cid:"):
        raise Rejected(XdsCode.REPOSITORY_ERROR, "xop:Include refers to something that is not an attachment")
    raw = href.removeprefix("cid:")
    found = request.attachments.get(unquote(raw)) or request.attachments.get(raw)  # RFC 2392: percent-encoded in the href
    if found is None:
        raise Rejected(XdsCode.MISSING_DOCUMENT, f"there is no attachment with Content-ID {unquote(raw)[:120]!r}")
    return found
