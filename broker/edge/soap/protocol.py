"""Our SOAP 1.2 protocol for spyne: elements go through untouched, headers are WS-Addressing, faults are complete.

Dispatch looks at the Clark name of the Body child, then at wsa:Action where one is given (two transactions may share a
Body child); the HTTP SOAPAction is never looked at (ITI TF-2 Appendix V.3.2).
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from broker.edge.soap import faults, incoming
from broker.edge.soap.compat import Soap12
from broker.edge.soap.faults import SoapFault
from broker.model.ids import new_uuid_urn
from broker.model.transaction import Message, Packaging
from broker.wire.soap import SoapReply, SoapTransaction
from broker.wire.xml import SOAP, WSA, Element, NotXml, has_instructions, parse

_ACTION, _MESSAGE_ID, _REPLY_TO = f"{{{WSA}}}Action", f"{{{WSA}}}MessageID", f"{{{WSA}}}ReplyTo"
_IN_WSA = f"{{{WSA}}}"
_ADDRESS, _ANONYMOUS = f"{{{WSA}}}Address", f"{WSA}/anonymous"
# WS-Addressing 3.3: each at most once.
_SINGLE = frozenset(f"{{{WSA}}}{name}" for name in ("To", "From", "ReplyTo", "FaultTo", "Action", "MessageID"))

_ENVELOPE = f'<?xml version="1.0" encoding="UTF-8"?>\n<s:Envelope xmlns:s="{SOAP}"'
_HEAD = (
    f'{_ENVELOPE} xmlns:wsa="{WSA}"><s:Header><wsa:Action s:mustUnderstand="true">{{action}}</wsa:Action><wsa:MessageID>')
_HEAD_END = "</s:Header><s:Body>"
_SPECIAL = re.compile("[&<>\r]")
_TAIL = b"</s:Body></s:Envelope>"


@dataclass(frozen=True, slots=True)
class Operation:
    """One message of a served transaction, as spyne's method descriptor carries it."""

    served: SoapTransaction
    message: Message


def operation_of(descriptor: Any) -> Operation:
    """Return the operation of a method descriptor made with `_udd={"operation": …}`."""
    operation: Operation = descriptor.udd["operation"]
    return operation


def reply_address(headers: Mapping[str, Element]) -> str:
    """Return the address in wsa:ReplyTo, or nothing."""
    element = headers.get(_REPLY_TO)
    address = None if element is None else next(element.iterchildren(_ADDRESS), None)
    return "" if address is None else (address.text or "").strip()


# How to do so in the stacks that most callers are built on.
_MTOM_HINT = (
    " in both directions. Switch MTOM on in the client: new MTOMFeature() (JAX-WS, Metro), mtom-enabled=true (CXF),"
    " enableMTOM=true (Axis2), messageEncoding=Mtom (.NET WCF), SOAP_ENC_MTOM (gSOAP)")
_PLAIN_HINT = "; or the broker's operator sets server.plain_retrieve"


def _nowhere(_address: str) -> bool:
    return False


class BrokerSoap12(Soap12):
    """Takes `context.transport.root` apart and puts a `SoapReply` or a fault together.

    `plain_retrieve`: requests that carry nothing may come as plain SOAP where their row says so; answers stay MTOM. `allows` says
    of an address whether answers may be sent there (`later.Later`).
    """

    def __init__(self, *, plain_retrieve: bool = False, allows: Callable[[str], bool] = _nowhere) -> None:
        self._operations: dict[str, list[Any]] = {}
        self._plain_retrieve, self._allows = plain_retrieve, allows
        super().__init__()

    def set_app(self, value: Any) -> None:
        """Learn the operations of the application; spyne's constructor calls with None."""
        super().set_app(value)
        for service in () if value is None else value.services:
            for descriptor in service.public_methods.values():
                self._operations.setdefault(operation_of(descriptor).message.name, []).append(descriptor)

    def create_in_document(self, ctx: Any, charset: str | None = None) -> None:  # noqa: ARG002 - spyne's signature
        """Parse the envelope."""
        try:
            root = parse(ctx.transport.root)
        except NotXml as error:
            raise SoapFault("Sender", error.problems[0].context) from error
        if root.tag != incoming.ENVELOPE:
            raise faults.version_mismatch("a SOAP 1.2 envelope is expected")
        ctx.in_document = root

    def decompose_incoming_envelope(self, ctx: Any, message: Any = Soap12.REQUEST) -> None:  # noqa: ARG002 - spyne's signature
        """Find the headers and the one Body child. Headers are set first: a fault answers the MessageID it found."""
        envelope = ctx.in_document
        blocks = incoming.headers(envelope)
        found = ctx.in_header_doc = {}
        for block in blocks:
            found.setdefault(block.tag, block)
        if has_instructions(ctx.transport.root):
            raise SoapFault("Sender", "a SOAP message must not have processing instructions")
        child = incoming.body_child(envelope, blocks)
        if len(found) < len(blocks):
            _check_repeated(blocks)
        if incoming.SECURITY in found:
            incoming.check_security(envelope, blocks)
        ctx.transport.node = reply_address(found)
        if ctx.transport.node not in {"", _ANONYMOUS}:
            if not self._allows(ctx.transport.node):
                raise _only_anonymous("replies go back on the connection: ReplyTo must be anonymous, or in outbound.reply_to")
            ctx.transport.reply_to = ctx.transport.node
        incoming.check_understood(blocks)
        ctx.in_body_doc = child
        ctx.method_request_string = child.tag

    def get_context(self, parent: Any, transport: Any) -> None:
        """Return nothing: a protocol's own context is for protocols with state."""

    def generate_method_contexts(self, ctx: Any) -> list[Any]:
        """Make this context the call's: a message has one method here, spyne would copy the context for each."""
        (ctx.descriptor,) = self.get_call_handles(ctx)
        return [ctx]

    def get_call_handles(self, ctx: Any) -> list[Any]:
        """Find the operation, and check that it came in its own packaging (ITI TF-2 Appendix V.3.6)."""
        action = ctx.in_header_doc.get(_ACTION)
        wanted = None if action is None else (action.text or "").strip()
        for descriptor in self._operations.get(ctx.method_request_string, ()):
            operation = operation_of(descriptor)
            if wanted is None or wanted == operation.message.action:
                self._check_packaging(operation, ctx.transport.is_mtom)
                if ctx.transport.reply_to and operation.served.row.packaging is Packaging.MTOM:
                    ctx.transport.reply_to = ""
                    raise _only_anonymous("answers of MTOM go back on the connection: ReplyTo must be anonymous")
                return [descriptor]
        raise SoapFault(
            "Sender", f"{wanted or 'no action'} with {ctx.method_request_string} is not served here",
            subcodes=[(WSA, "ActionNotSupported")])

    def _check_packaging(self, operation: Operation, is_mtom: bool) -> None:
        row = operation.served.row
        wants_mtom = row.packaging is Packaging.MTOM
        if wants_mtom == is_mtom or (row.may_be_plain and self._plain_retrieve and not is_mtom):
            return
        if not wants_mtom:
            raise SoapFault("Sender", f"{row.code} travels as plain SOAP (application/soap+xml)")
        hint = _MTOM_HINT + (_PLAIN_HINT if row.may_be_plain else "")
        raise SoapFault("Sender", f"{row.code} travels as MTOM (multipart/related){hint}")

    def deserialize(self, ctx: Any, message: Any) -> None:  # noqa: ARG002 - spyne's signature
        """Hand the Body child on as it is."""
        ctx.in_object = ctx.in_body_doc

    def serialize(self, ctx: Any, message: Any) -> None:  # noqa: ARG002 - spyne's signature
        """Write the envelope around the reply's pieces, or around a fault."""
        fault = ctx.out_error
        if fault is None:
            reply: SoapReply = ctx.out_object[0]
            head = _head(ctx, reply.reply_action or operation_of(ctx.descriptor).message.reply_action)
            ctx.out_string = [b"".join((head, *reply.fragments, _TAIL))]
            return
        if not isinstance(fault, SoapFault):
            fault = ctx.out_error = SoapFault("Receiver", "internal error")
        ctx.out_string = [b"".join((_head(ctx, fault.action, fault.header), fault.body(), _TAIL))]

    def create_out_string(self, ctx: Any, charset: str | None = None) -> None:
        """Nothing is left to do: `serialize` wrote the bytes."""


def _head(ctx: Any, action: str, more: str = "") -> bytes:
    """Return our envelope up to its Body; who sent no WS-Addressing header gets none, for he may not know it."""
    found = ctx.in_header_doc or {}
    if not any(tag.startswith(_IN_WSA) for tag in found):
        return f"{_ENVELOPE}>{f'<s:Header>{more}</s:Header>' if more else ''}<s:Body>".encode()
    asked = found.get(_MESSAGE_ID)
    if asked is not None:
        # Byte for byte, also where it is no URI: callers match it as text.
        text = asked.text or ""
        told = escape(text, {"\r": "&#13;"}) if _SPECIAL.search(text) else text
        more = f"<wsa:RelatesTo>{told}</wsa:RelatesTo>{more}"
    if ctx.transport.reply_to:
        more = f"<wsa:To>{escape(ctx.transport.reply_to)}</wsa:To>{more}"
    return f"{_opening(action)}{new_uuid_urn()}</wsa:MessageID>{more}{_HEAD_END}".encode()


@functools.cache
def _opening(action: str) -> str:
    """Return an envelope of ours up to its MessageID; actions are those of rows and faults."""
    return _HEAD.format(action=escape(action))


def _check_repeated(blocks: Iterable[Element]) -> None:
    for tag, count in Counter(str(block.tag) for block in blocks).items():
        if count > 1 and tag in _SINGLE:
            raise _bad_addressing("InvalidCardinality", f"header {tag} is repeated")


def _only_anonymous(reason: str) -> SoapFault:
    return _bad_addressing("OnlyAnonymousAddressSupported", reason)


def _bad_addressing(local: str, reason: str) -> SoapFault:
    return SoapFault("Sender", reason, subcodes=[(WSA, "InvalidAddressingHeader"), (WSA, local)])
