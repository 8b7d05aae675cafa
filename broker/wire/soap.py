"""What a SOAP transaction's row reads and writes: the Body child with its attachments, and the reply's pieces."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.files.sources import ByteSource, Spooled
from broker.model.transaction import Message, ServedTransaction
from broker.wire.xml import Element


@dataclass(frozen=True, slots=True, kw_only=True)
class SoapRequest:
    """A request that passed the envelope and the schema. `attachments` is keyed by Content-ID without brackets."""

    body: Element
    message: Message
    attachments: Mapping[str, Spooled] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One MTOM attachment of a reply. The body refers to it as `cid:` + content_id."""

    content_id: str
    media_type: str
    source: ByteSource


@dataclass(frozen=True, slots=True, kw_only=True)
class SoapReply:
    """A reply: `fragments` joined are the Body child; `parts` travel behind it. `reply_action` overrides the row's."""

    fragments: tuple[bytes, ...]
    parts: tuple[Part, ...] = ()
    reply_action: str = ""


SoapTransaction = ServedTransaction[Any, SoapRequest, Any, Any, SoapReply]     # of whatever actor
