"""The SOAP 1.2 envelope as a client writes and reads it (ITI TF-2 Appendix V, WS-Addressing 1.0)."""

from dataclasses import dataclass
from xml.sax.saxutils import escape

from broker.model.errors import Rejected
from broker.wire import xml
from broker.wire.xml import Element

ANONYMOUS = f"{xml.WSA}/anonymous"

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<s:Envelope xmlns:s="{soap}" xmlns:wsa="{wsa}"><s:Header>'
    '<wsa:Action s:mustUnderstand="true">{action}</wsa:Action><wsa:MessageID>{message_id}</wsa:MessageID>'
    "<wsa:ReplyTo><wsa:Address>{anonymous}</wsa:Address></wsa:ReplyTo><wsa:To>{to}</wsa:To></s:Header><s:Body>")
_TAIL = b"</s:Body></s:Envelope>"


class Fault(Rejected):
    """The peer answered with a SOAP fault: `code` is its innermost subcode's or code's local name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply's envelope: the Body child, and the WS-Addressing headers that tell what it answers."""

    body: Element
    action: str
    relates_to: str


def write_request(body: bytes, *, action: str, to: str, message_id: str) -> bytes:
    """Return the envelope around `body` (serialised XML without a declaration); ReplyTo is not marked mustUnderstand."""
    head = _HEAD.format(
        soap=xml.SOAP, wsa=xml.WSA, anonymous=ANONYMOUS, action=escape(action), message_id=escape(message_id), to=escape(to))
    return b"".join((head.encode(), body, _TAIL))


def read_answer(data: bytes) -> Answer:
    """Return the reply. Raise `Fault` for a SOAP fault, `NotXml` or `Rejected` for what is no SOAP 1.2 reply."""
    root = xml.parse(data)
    body = root.find(f"{{{xml.SOAP}}}Body")
    if root.tag != f"{{{xml.SOAP}}}Envelope" or body is None or len(body) != 1:
        raise Rejected("NotSoap", "the answer is no SOAP 1.2 envelope with one Body child")
    child = body[0]
    if child.tag == f"{{{xml.SOAP}}}Fault":
        raise _fault(child)
    return Answer(body=child, action=_header(root, "Action"), relates_to=_header(root, "RelatesTo"))


def _header(root: Element, name: str) -> str:
    return (root.findtext(f"{{{xml.SOAP}}}Header/{{{xml.WSA}}}{name}") or "").strip()


def _fault(fault: Element) -> Fault:
    values = [value.text or "" for value in fault.iterfind(f"{{{xml.SOAP}}}Code//{{{xml.SOAP}}}Value")]
    code = values[-1].strip().rpartition(":")[2] if values else ""
    reason = (fault.findtext(f"{{{xml.SOAP}}}Reason/{{{xml.SOAP}}}Text") or "").strip()
    return Fault(code or "Receiver", reason or "no reason given")
