"""The PDUs that open an association, as plain bytes: A-ASSOCIATE-RQ, -AC and -RJ, A-ABORT (PS3.8 9.3, PS3.7 annex D).

Reading is cheap and bounded, because strangers send these bytes: a request has at most `MAX_CONTEXTS` contexts, and an item
whose length does not fit ends it. What the standard has a receiver ignore is passed over: reserved bytes, unknown items.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.edge.dimse.pdata import ProtocolError

REQUEST, ACCEPT, REJECT, ABORT = 1, 2, 3, 7
HEAD = 74                   # bytes of the fixed part of an A-ASSOCIATE-RQ, with its PDU header: up to the first item
MAX_CONTEXTS = 128          # PS3.8 9.3.2.2: as many odd ids are there
LONGEST = 1 << 18           # bytes of an A-ASSOCIATE-RQ or -AC; 128 contexts with every syntax there is take 220 KB
_MOST_ITEMS = 1000          # beside the contexts there are two in the standard
_MOST_SYNTAXES = 10_000     # 128 contexts with every syntax of the standard have 7 680
DEFAULT_LENGTH = 16384      # of a peer that does not say what it takes

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
# Results of a presentation context (PS3.8 table 9-18).
TAKEN, NO_REASON, NO_ABSTRACT_SYNTAX, NO_TRANSFER_SYNTAX = 0, 2, 3, 4

_APPLICATION, _PROPOSED, _ANSWERED, _ABSTRACT, _TRANSFER, _USER = 0x10, 0x20, 0x21, 0x30, 0x40, 0x50
_MAX_LENGTH, _CLASS_UID, _ROLE, _VERSION_NAME = 0x51, 0x52, 0x54, 0x55
_ITEM = struct.Struct(">BBH")
_FIXED = struct.Struct(">HH16s16s32s")


@dataclass(frozen=True, slots=True)
class Head:
    """Who calls whom: the fixed part of a request. `version` is a set of bits, bit 0 is version 1."""

    version: int
    called: str
    calling: str


@dataclass(frozen=True, slots=True)
class Context:
    """A presentation context as proposed; `abstract` and `syntaxes` are empty where the peer left them out."""

    number: int
    abstract: str
    syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """The variable part of an A-ASSOCIATE-RQ. `length` is the longest PDU that the peer takes, 0 = any."""

    application: str
    contexts: tuple[Context, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a proposed context: a result and, when it was taken, its transfer syntax."""

    number: int
    result: int
    syntax: str


@dataclass(frozen=True, slots=True)
class Accept:
    """The variable part of an A-ASSOCIATE-AC; see `Request`."""

    contexts: tuple[Answered, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Implementation:
    """What an application entity says of itself in the user information."""

    class_uid: str
    version_name: str
    longest_pdu: int


def read_head(data: bytes | bytearray) -> Head:
    """Read the first `HEAD` bytes of a request, PDU header included. AE titles come without padding."""
    version, _, called, calling, _ = _FIXED.unpack_from(data, 6)
    return Head(version, _title(called), _title(calling))


def read_request(data: bytes) -> Request:
    """Read a whole A-ASSOCIATE-RQ, PDU header included. Raise `ProtocolError` for one that is broken."""
    view = memoryview(data)
    application, length = "", DEFAULT_LENGTH
    contexts: list[Context] = []
    left = _MOST_SYNTAXES
    for number, (kind, value) in enumerate(_items(view[HEAD:])):
        if number >= _MOST_ITEMS:
            raise ProtocolError(f"more than {_MOST_ITEMS} items")
        if kind == _PROPOSED:
            if len(contexts) == MAX_CONTEXTS:
                raise ProtocolError(f"more than {MAX_CONTEXTS} presentation contexts are proposed")
            contexts.append(_read_context(value))
            left -= len(contexts[-1].syntaxes)
            if left < 0:
                raise ProtocolError(f"more than {_MOST_SYNTAXES} transfer syntaxes are proposed")
        elif kind == _APPLICATION:
            application = _uid(value)
        elif kind == _USER:
            length = _read_length(value)
    return Request(application, tuple(contexts), length)


def read_accept(body: bytes) -> Accept:
    """Read an A-ASSOCIATE-AC, without its PDU header. Raise `ProtocolError` for one that is broken."""
    length = DEFAULT_LENGTH
    contexts: list[Answered] = []
    for kind, value in _items(memoryview(body)[HEAD - 6:]):
        if kind == _ANSWERED:
            if len(value) < 4:
                raise ProtocolError("an answered presentation context is cut short")
            syntax = next((_uid(part) for sub, part in _items(value[4:]) if sub == _TRANSFER), "")
            contexts.append(Answered(value[0], value[2], syntax))
        elif kind == _USER:
            length = _read_length(value)
    return Accept(tuple(contexts), length)


def write_request(
    head: Head, contexts: Sequence[Context], implementation: Implementation, provided: Sequence[str] = (),
) -> bytes:
    """Return an A-ASSOCIATE-RQ. For the classes `provided` we offer to be SCP, for all to be SCU (PS3.7 D.3.3.4)."""
    proposed = b"".join(
        _item(_PROPOSED, bytes((context.number, 0, 0, 0)) + _item(_ABSTRACT, context.abstract.encode())
              + b"".join(_item(_TRANSFER, syntax.encode()) for syntax in context.syntaxes))
        for context in contexts)
    roles = b"".join(_item(_ROLE, struct.pack(">H", len(uid)) + uid.encode() + b"\0\1") for uid in provided)
    fixed = _FIXED.pack(head.version, 0, _padded(head.called), _padded(head.calling), b"")
    return _pdu(REQUEST, fixed + _item(_APPLICATION, APPLICATION_CONTEXT.encode()) + proposed + _user(implementation, roles))


def write_accept(request: bytes, contexts: Sequence[Answered], implementation: Implementation) -> bytes:
    """Return the A-ASSOCIATE-AC to the request with these bytes, whose fixed part is repeated (PS3.8 table 9-17)."""
    answered = b"".join(
        _item(_ANSWERED, bytes((context.number, 0, context.result, 0)) + _item(_TRANSFER, context.syntax.encode()))
        for context in contexts)
    fixed = struct.pack(">HH", 1, 0) + request[10:HEAD]
    return _pdu(ACCEPT, fixed + _item(_APPLICATION, APPLICATION_CONTEXT.encode()) + answered + _user(implementation, b""))


def _pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def write_reject(result: int, source: int, why: int) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    return _pdu(REJECT, bytes((0, result, source, why)))


def write_abort(why: int) -> bytes:
    """Return an A-ABORT by the service provider (PS3.8 table 9-26)."""
    return _pdu(ABORT, bytes((0, 0, 2, why)))


# The reasons that are given here, and the words for those of others (PS3.8 table 9-21).
CALLED_UNKNOWN, CALLING_UNKNOWN = write_reject(1, 1, 7), write_reject(1, 1, 3)
NO_APPLICATION, NO_VERSION = write_reject(1, 1, 2), write_reject(1, 2, 2)
NO_ROOM = write_reject(2, 3, 2)
UNSPECIFIED, UNEXPECTED, INVALID = write_abort(0), write_abort(2), write_abort(6)
_REASONS: Mapping[tuple[int, int], str] = {
    (1, 1): "No reason given", (1, 2): "Application context name not supported", (1, 3): "Calling AE title not recognised",
    (1, 7): "Called AE title not recognised", (2, 1): "No reason given", (2, 2): "Protocol version not supported",
    (3, 1): "Temporary congestion", (3, 2): "Local limit exceeded",
}


def read_reject(body: bytes) -> str:
    """Return in plain words why an association was rejected."""
    source, why = (body[2], body[3]) if len(body) >= 4 else (0, 0)
    return _REASONS.get((source, why), f"source {source}, reason {why}")


def _read_context(value: memoryview) -> Context:
    if len(value) < 4:
        raise ProtocolError("a presentation context is cut short")
    abstract, syntaxes = "", []
    for kind, part in _items(value[4:]):
        if kind == _ABSTRACT:
            abstract = abstract or _uid(part)
        elif kind == _TRANSFER:
            syntaxes.append(_uid(part))
    return Context(value[0], abstract, tuple(syntaxes))


def _read_length(value: memoryview) -> int:
    for kind, part in _items(value):
        if kind == _MAX_LENGTH and len(part) >= 4:
            return int.from_bytes(part[:4], "big")
    return DEFAULT_LENGTH


def _items(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Return type and value of each item."""
    at, end = 0, len(view)
    while at < end:
        if at + 4 > end:
            raise ProtocolError("an item of the association request is cut short")
        kind, _, size = _ITEM.unpack_from(view, at)
        at += 4 + size
        if at > end:
            raise ProtocolError(f"an item of type 0x{kind:02X} is longer than what holds it")
        yield kind, view[at - size:at]


def _uid(value: memoryview) -> str:
    return bytes(value).strip(b"\0 ").decode("latin-1")


def _title(value: bytes) -> str:
    return value.strip(b"\0 ").decode("latin-1")


def _padded(title: str) -> bytes:
    return title.encode("latin-1").ljust(16)[:16]


def _user(implementation: Implementation, more: bytes) -> bytes:
    return _item(_USER, _item(_MAX_LENGTH, struct.pack(">L", implementation.longest_pdu))
                 + _item(_CLASS_UID, implementation.class_uid.encode()) + more
                 + _item(_VERSION_NAME, implementation.version_name.encode()))


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, 0, len(value)) + value
