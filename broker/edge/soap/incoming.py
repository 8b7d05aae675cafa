"""Takes a SOAP 1.2 envelope apart. What is not exactly an optional Header and one Body is refused (part 1, section 5).

A loose envelope is where signature wrapping starts: two readers of one message that see two messages.
"""

from collections import Counter
from collections.abc import Iterable

from lxml import etree

from broker.edge.soap import faults
from broker.edge.soap.faults import SoapFault
from broker.wire.xml import SOAP, WSA, Element

WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
ENVELOPE = f"{{{SOAP}}}Envelope"
SECURITY = f"{{{WSSE}}}Security"
_WSU = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
_HEADER, _BODY = f"{{{SOAP}}}Header", f"{{{SOAP}}}Body"
_MUST, _ROLE, _STYLE = f"{{{SOAP}}}mustUnderstand", f"{{{SOAP}}}role", f"{{{SOAP}}}encodingStyle"

# Security headers count as understood: with security off every caller may do everything, signed in or not.
_UNDERSTOOD = (WSA, WSSE)
_ULTIMATE = f"{SOAP}/role/ultimateReceiver"            # what no role means, too (SOAP 1.2 part 1, 5.2.2)
_OUR_ROLES = (_ULTIMATE, f"{SOAP}/role/next")
_NO_ENCODING = f"{SOAP}/encoding/none"
_YES, _NO = frozenset(("1", "true")), frozenset(("0", "false"))
# Attributes of type ID, wherever they stand and inside headers (XML Signature, SAML): WSS 1.1, 4.1 wants each value once.
_IDS = etree.XPath(
    "//@u:Id | //@xml:id | /*/s:Header//@Id | /*/s:Header//@ID | /*/s:Header//@AssertionID", namespaces={"u": _WSU, "s": SOAP})


def headers(envelope: Element) -> list[Element]:
    """Return the header blocks, also of an envelope that is wrong otherwise: a fault answers what was asked."""
    first = next(iter(envelope), None)
    return list(first) if first is not None and first.tag == _HEADER else []


def body_child(envelope: Element, blocks: Iterable[Element]) -> Element:
    """Return the one child of the Body. Raise `SoapFault` where the envelope holds anything it must not."""
    parts = list(envelope)
    if [part.tag for part in parts] not in ([_HEADER, _BODY], [_BODY]):
        raise SoapFault("Sender", "an envelope must have at most one Header, then one Body, and no other element")
    body = parts[-1]
    if len(body) != 1:
        raise SoapFault("Sender", "a Body must have one child element")
    child = body[0]
    texts = [envelope.text, body.text, child.tail, *(part.tail for part in parts), *(block.tail for block in blocks)]
    if len(parts) > 1:
        texts.append(parts[0].text)
    if any(text is not None and text.strip(" \t\r\n") for text in texts):
        raise SoapFault("Sender", "there is text between the elements of the envelope")
    for part in (envelope, *parts):
        if part.attrib:
            _check_attributes(part)
    _check_encoding((*blocks, child))
    return child


def check_understood(blocks: Iterable[Element]) -> None:
    """Return when every header block that must be understood here is; raise `SoapFault`."""
    for block in blocks:
        must = block.get(_MUST)
        if must is None or not _is_for_us(block):
            continue
        said = must.strip()
        if said not in _YES:
            if said not in _NO:
                raise SoapFault("Sender", "mustUnderstand must be true or false")
            continue
        namespace, _, local = str(block.tag).rpartition("}")
        if namespace[1:] not in _UNDERSTOOD:
            raise faults.not_understood(namespace[1:], local)


def check_security(envelope: Element, blocks: Iterable[Element]) -> None:
    """Return when a signature of this envelope could mean one thing only; raise `SoapFault` (wsse:InvalidSecurity)."""
    roles = Counter(_role(block) for block in blocks if block.tag == SECURITY)
    if max(roles.values()) > 1:
        raise _insecure("there are two Security headers for one role")
    ids = [str(value).strip() for value in _IDS(envelope)]
    if len(set(ids)) < len(ids):
        raise _insecure("two elements have the same Id")


def _insecure(reason: str) -> SoapFault:
    return SoapFault("Sender", reason, subcodes=[(WSSE, "InvalidSecurity")])


def _role(block: Element) -> str:
    return block.get(_ROLE, "").strip() or _ULTIMATE


def _is_for_us(block: Element) -> bool:
    return _role(block) in _OUR_ROLES


def _check_attributes(part: Element) -> None:
    """Envelope, Header and Body may only have attributes of other namespaces; encodingStyle, too, is for what is in them."""
    for name in part.attrib:
        if not name.startswith("{") or name.startswith(f"{{{SOAP}}}"):
            raise SoapFault("Sender", "Envelope, Header and Body must not have attributes without a namespace or of SOAP's own")


def _check_encoding(elements: Iterable[Element]) -> None:
    for element in elements:
        if element.get(_STYLE, "").strip() not in {"", _NO_ENCODING} and _is_for_us(element):
            raise SoapFault("DataEncodingUnknown", "no SOAP encoding is known here: messages are literal")
