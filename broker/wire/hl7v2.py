r"""HL7 v2 messages over MLLP: frames, character sets, segments, acknowledgements (HL7 v2.5 chapter 2, ITI TF-2 C.2).

Bytes are framed first (`Deframer`), decoded as MSH-18 says, and only then split at the delimiters: GB 18030 and Big5
use delimiter bytes as second bytes of characters. An empty MSH-18 means ASCII; what is not ASCII is then read as
UTF-8, strictly, because text in another character set hardly ever passes as UTF-8. What cannot be decoded is refused.
Segments end with CR; LF around them is dropped, LF alone does not end one (HL7 v2.5 2.3).

Of the escapes `\F\ \S\ \T\ \R\ \E\`, `\H\`, `\N\` and `\Xhh..\` (bytes of the message's character set) are resolved.
The messages of the PIX profile are in `hl7v2_pix`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from broker.model.errors import BrokerError, Hl7Code, Problem, Rejected, TooLarge, Unavailable
from broker.model.stamp import Stamp

START, END = b"\x0b", b"\x1c\r"
UTF8 = "UNICODE UTF-8"
_RESTART = START + b"MSH"
_MAX_SEGMENTS = 10_000
_MAX_REPETITIONS = 1_000
_NOISE = b" \t\r\n\0"
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_CODECS = {
    **{f"8859{n}": f"iso8859-{n}" for n in (*range(1, 10), 15)},
    **dict.fromkeys(("", "ASCII", "ISOIR6", "UNICODE", "UNICODEUTF8", "UTF8"), "utf-8"),
    **dict.fromkeys(("GB180302000", "GB18030", "GBK", "GB2312"), "gb18030"),
    "BIG5": "cp950",
}
TEXTS = {
    Hl7Code.SEGMENT_SEQUENCE: "Segment sequence error",
    Hl7Code.REQUIRED_FIELD_MISSING: "Required field missing",
    Hl7Code.DATA_TYPE: "Data type error",
    Hl7Code.TABLE_VALUE: "Table value not found",
    Hl7Code.UNSUPPORTED_MESSAGE_TYPE: "Unsupported message type",
    Hl7Code.UNSUPPORTED_EVENT: "Unsupported event code",
    Hl7Code.UNSUPPORTED_PROCESSING_ID: "Unsupported processing id",
    Hl7Code.UNSUPPORTED_VERSION: "Unsupported version id",
    Hl7Code.UNKNOWN_KEY: "Unknown key identifier",
    Hl7Code.DUPLICATE_KEY: "Duplicate key identifier",
    Hl7Code.RECORD_LOCKED: "Application record locked",
    Hl7Code.INTERNAL: "Application internal error",
}
_BEFORE_PROCESSING = {
    Hl7Code.UNSUPPORTED_MESSAGE_TYPE, Hl7Code.UNSUPPORTED_EVENT, Hl7Code.UNSUPPORTED_PROCESSING_ID, Hl7Code.UNSUPPORTED_VERSION,
}


def frame(message: bytes) -> bytes:
    """Give the message as one MLLP block: VT, message, FS, CR."""
    return START + message + END


class Deframer:
    """Finds MLLP blocks in a stream fed piece by piece; whatever the pieces, the messages are the same.

    Bytes between blocks are dropped. A VT directly followed by `MSH` inside an unfinished block begins a new block:
    the unfinished one was never sent whole. A block longer than `limit` bytes raises `TooLarge`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._buffer += data

    def take(self) -> bytes | None:
        """Give the next whole message without its frame, or None until more is fed."""
        buffer = self._buffer
        if buffer[:1] != START:
            begin = buffer.find(START)
            del buffer[:begin if begin >= 0 else len(buffer)]
            self._seen = 0
        end = buffer.find(END, max(self._seen, 1))
        if end < 0:
            self._seen = len(buffer) - 1
            self._check(len(buffer) - 1)
            return None
        begin = max(buffer.rfind(_RESTART, 0, end), 0) + 1
        self._check(end - begin)
        message = bytes(buffer[begin:end])
        del buffer[:end + len(END)]
        self._seen = 0
        return message

    @property
    def inside(self) -> bool:
        """Say whether a block has begun and not ended."""
        return bool(self._buffer)

    @property
    def head(self) -> bytes:
        """The first segment of the unfinished block, as far as it came."""
        return bytes(self._buffer[1:4096]).split(b"\r")[0]

    def _check(self, length: int) -> None:
        if length > self._limit:
            raise TooLarge(f"server.max_message = {self._limit} bytes")


class Form(NamedTuple):
    """How a message is written: MSH-1, the four characters of MSH-2, MSH-18 as declared, and the codec it means."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    charset: str = UTF8
    codec: str = "utf-8"

    @classmethod
    def of(cls, charset: str) -> "Form":
        """Give the usual delimiters with this MSH-18."""
        return cls(charset=charset, codec=_codec(charset))

    def quote(self, text: str) -> str:
        """Write `text` so that no delimiter, CR or LF is left in it."""
        e, codes = self.escape, {self.field: "F", self.component: "S", self.subcomponent: "T", self.repetition: "R",
                                 self.escape: "E", "\r": "X0D", "\n": "X0A"}
        return "".join(f"{e}{codes[c]}{e}" if c in codes else c for c in text)

    def unquote(self, text: str) -> str:
        """Resolve the escapes in `text`; an unknown one, or one that hides a control character, stays as it is."""
        if self.escape not in text:
            return text
        return _escapes(self.escape).sub(lambda match: self._resolve(match.group(1), match.group()), text)

    def _resolve(self, code: str, whole: str) -> str:
        plain = {"F": self.field, "S": self.component, "T": self.subcomponent, "R": self.repetition, "E": self.escape,
                 "H": "", "N": ""}.get(code)
        if plain is not None:
            return plain
        if code[:1] != "X":
            return whole
        try:
            text = bytes.fromhex(code[1:]).decode(self.codec)
        except ValueError:
            return whole
        return text if text.isprintable() else whole


@lru_cache(8)
def _escapes(mark: str) -> "re.Pattern[str]":
    return re.compile(f"{re.escape(mark)}([^{re.escape(mark)}]+){re.escape(mark)}")


@dataclass(frozen=True, slots=True)
class Value:
    """One repetition of a field. Components and sub-components count from 1; what is absent is empty."""

    text: str
    form: Form

    def component(self, number: int) -> str:
        """Give a component as it is written, escapes and sub-components included."""
        parts = self.text.split(self.form.component, number)
        return parts[number - 1] if number <= len(parts) else ""

    def get(self, component: int = 1, subcomponent: int = 1) -> str:
        """Give a sub-component without escapes and surrounding blanks."""
        parts = self.component(component).split(self.form.subcomponent, subcomponent)
        return self.form.unquote(parts[subcomponent - 1]).strip() if subcomponent <= len(parts) else ""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its bytes as received, its decoded text. Fields count as the standard counts them, MSH too."""

    raw: bytes
    text: str
    form: Form

    @property
    def name(self) -> str:
        """PID, QPD, …"""
        return self.text[:3]

    def field(self, number: int) -> str:
        """Give a field as it is written."""
        index = number - 1 if self.name == "MSH" else number
        parts = self.text.split(self.form.field, index + 1)
        return parts[index] if index < len(parts) else ""

    def values(self, number: int) -> tuple[Value, ...]:
        """Give the repetitions of a field, none when it is empty."""
        text = self.field(number)
        parts = text.split(self.form.repetition, _MAX_REPETITIONS) if text else []
        if len(parts) > _MAX_REPETITIONS:
            raise Rejected(Hl7Code.DATA_TYPE, "too many repetitions", f"{self.name}^1^{number}")
        return tuple(Value(part, self.form) for part in parts)

    def get(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """Give a sub-component of the field's first repetition, without escapes."""
        return Value(self.field(number).split(self.form.repetition, 1)[0], self.form).get(component, subcomponent)


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded message: bytes as received, segments, and how it is written."""

    raw: bytes
    segments: tuple[Segment, ...]
    form: Form

    @property
    def msh(self) -> Segment:
        """The header."""
        return self.segments[0]

    @property
    def name(self) -> str:
        """Message type and trigger event: `ADT^A04`."""
        return f"{self.msh.get(9)}^{self.msh.get(9, 2)}"

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return self.msh.get(10)

    def all(self, name: str) -> tuple[Segment, ...]:
        """Give all segments of this name."""
        return tuple(segment for segment in self.segments if segment.name == name)

    def need(self, name: str) -> Segment:
        """Give the first segment of this name. Raise `Rejected` (100) when there is none."""
        found = self.all(name)
        if not found:
            raise Rejected(Hl7Code.SEGMENT_SEQUENCE, f"segment {name} is missing", name)
        return found[0]


def parse(data: bytes) -> Message:
    """Read an unframed message. Raise `Rejected` when it has no MSH, a wrong one, or text its MSH-18 does not allow."""
    body = data.lstrip(_NOISE).removeprefix(b"\xef\xbb\xbf")
    if body[:3] != b"MSH" or len(body) < 9:
        raise Rejected(Hl7Code.SEGMENT_SEQUENCE, "the message does not begin with MSH", "MSH^1")
    lines = body.split(b"\r", _MAX_SEGMENTS)
    if len(lines) > _MAX_SEGMENTS:
        raise TooLarge(f"segments of one message = {_MAX_SEGMENTS}")
    lines = [line.strip(b"\n") for line in lines if line.strip(_NOISE)]
    form = _form(lines[0])
    return Message(data, tuple(_segment(line, form) for line in lines), form)


def parse_header(data: bytes) -> Message | None:
    """Give the MSH alone, as far as it is ASCII, of a message `parse` refuses, so that it can be answered; None without one."""
    line = data.lstrip(_NOISE).removeprefix(b"\xef\xbb\xbf").split(b"\r", 1)[0]
    separator = line[3:4] or b"|"
    plain = separator.join(line.split(separator)[:17]).decode("ascii", "replace").replace("\ufffd", "?")
    try:
        return parse(plain.encode())
    except BrokerError:
        return None


def _segment(line: bytes, form: Form) -> Segment:
    try:
        text = line.decode(form.codec)
    except UnicodeDecodeError as error:
        raise Rejected(Hl7Code.DATA_TYPE, "the text is not in the character set that MSH-18 names", "MSH^1^18") from error
    if _CONTROLS.search(text):
        raise Rejected(Hl7Code.DATA_TYPE, "control characters in the text", text[:3] if text[:3].isalnum() else "")
    return Segment(line, text, form)


def _form(line: bytes) -> Form:
    separator = line[3:4]
    marks = line[4:line.find(separator, 4)] if separator in line[4:] else line[4:]
    every = (separator + marks[:4]).decode("latin-1")
    if len(marks) not in (4, 5) or len(set(every)) != 5 or not every.isascii() or any(c.isalnum() or c <= " " for c in every):
        raise Rejected(Hl7Code.DATA_TYPE, "MSH-2 is not four different delimiters", "MSH^1^2")
    charset = _charset(line, separator, every[2])
    return Form(every[0], every[1], every[2], every[3], every[4], charset, _codec(charset))


def _charset(line: bytes, separator: bytes, repetition: str) -> str:
    """Give MSH-18: the first field from the 18th on which, taken as the character set, turns out to be MSH-18.

    A header whose names hold delimiter bytes cannot be split before it is decoded, so the candidates are tried.
    """
    plain = line.split(separator)
    said: dict[str, str] = {}       # MSH-18 by codec: the line may be long, and a name may stand in it often
    for candidate in plain[17:]:
        name = candidate.decode("latin-1").strip()
        codec = _CODECS.get(_plain(name)) if name else None
        if codec is not None:
            if codec not in said:
                said[codec] = "".join(line.decode(codec, "replace").split(separator.decode("latin-1"), 18)[17:18]).strip()
            if said[codec] == name:
                return name
    field = plain[17].decode("latin-1") if len(plain) > 17 else ""
    declared = {part.strip() for part in field.split(repetition) if part.strip()}
    if len(declared) > 1:
        raise Rejected(Hl7Code.TABLE_VALUE, "more than one character set in a message is not supported", "MSH^1^18")
    return declared.pop() if declared else ""


def _plain(name: str) -> str:
    return re.sub(r"[ /_-]", "", name).upper()


def _codec(name: str) -> str:
    codec = _CODECS.get(_plain(name))
    if codec is None:
        raise Rejected(Hl7Code.TABLE_VALUE, "character set is not supported", "MSH^1^18")
    return codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The MSH of a message we begin. `sender` and `receiver` are (application, facility)."""

    sender: tuple[str, str]
    receiver: tuple[str, str]
    stamp: Stamp = field(default_factory=Stamp.now)
    charset: str = UTF8
    version: str = "2.5"
    processing: str = "P"

    def segment(self, name: str, form: Form) -> str:
        """Give the segment; `name` is MSH-9 as written."""
        nodes = "|".join(form.quote(part) for part in (*self.sender, *self.receiver))
        return (f"MSH|^~\\&|{nodes}|{self.stamp.when}||{name}|{form.quote(self.stamp.id)}|{self.processing}|{self.version}"
                f"||||||{form.charset}")


def join(segments: Iterable[str | Segment], form: Form) -> bytes:
    """Give the message's bytes. A received segment is copied byte for byte.

    Where the character set lacks a character the whole message is written in UTF-8 and says so: nothing is lost.
    """
    lines = list(segments)
    try:
        return b"".join((line.raw if isinstance(line, Segment) else line.encode(form.codec)) + b"\r" for line in lines)
    except UnicodeEncodeError:
        texts = [line.text if isinstance(line, Segment) else line for line in lines]
        fields = texts[0].split(form.field)
        texts[0] = form.field.join((*fields, *[""] * 18)[:17]) + form.field + UTF8
        return "".join(text + "\r" for text in texts).encode()


def reply_header(request: Message, name: str, stamp: Stamp) -> str:
    """Give the MSH of a reply: nodes changed over, delimiters, version, processing id and character set as asked."""
    msh, mark = request.msh, request.form.field
    nodes = mark.join(msh.field(number) for number in (5, 6, 3, 4))
    kind = name.replace("^", request.form.component)
    version = msh.get(12) if re.fullmatch(r"2\.[0-9](\.[0-9])?", msh.get(12)) else "2.5"
    start = f"MSH{mark}{msh.field(2)}{mark}{nodes}{mark}{stamp.when}{mark}{mark}{kind}{mark}{stamp.id}{mark}"
    tail = mark * 6 + request.form.charset if request.form.charset else ""
    return f"{start}{msh.field(11) or 'P'}{mark}{version}{tail}"


def write_ack(request: Message, stamp: Stamp, error: BrokerError | None = None) -> bytes:
    """Give the acknowledgement of a message: AA, or AE / AR with one ERR per problem in the v2.5 form (2.15.5)."""
    form = request.form
    event = form.quote(request.msh.get(9, 2)[:3])
    code, problems = outcome(error)
    return join([
        reply_header(request, f"ACK^{event}^ACK" if event else "ACK", stamp),
        form.field.join(("MSA", code, request.msh.field(10))),
        *(err_segment(form, problem.code, [problem.location], problem.context) for problem in problems),
    ], form)


def write_nack(stamp: Stamp, error: BrokerError) -> bytes:
    """Give the AR for something that is not a message: nobody is named in it, MSA-2 is empty."""
    _, problems = outcome(error)
    errors = [err_segment(Form(), problem.code, [problem.location], problem.context) for problem in problems]
    return join([f"MSH|^~\\&|||||{stamp.when}||ACK|{stamp.id}|P|2.5", "MSA|AR|", *errors], Form())


def outcome(error: BrokerError | None) -> tuple[str, tuple[Problem, ...]]:
    """Give MSA-1 and what goes into ERR: AE tells the sender not to resend unchanged, AR that it may (2.9.2)."""
    if error is None:
        return "AA", ()
    if isinstance(error, Rejected):
        early = error.problems[0].code in _BEFORE_PROCESSING
        return "AR" if early else "AE", error.problems
    context = str(error) if isinstance(error, Unavailable | TooLarge) else "internal error"
    return "AR", (Problem(Hl7Code.INTERNAL, context),)


def write_broken(request: Message, stamp: Stamp) -> bytes:
    """Give the AE 207 that answers a bug."""
    return write_ack(request, stamp, Rejected(Hl7Code.INTERNAL, "internal error"))


def err_segment(form: Form, code: str, locations: Iterable[str], text: str) -> str:
    """Give an ERR segment (2.15.5): locations in ERR-2, table 0357 in ERR-3, severity E, `text` for people in ERR-8."""
    known = Hl7Code(code) if code in TEXTS else Hl7Code.INTERNAL
    places = form.repetition.join(place.replace("^", form.component) for place in locations)
    coded = form.component.join((known, TEXTS[known], "HL70357"))
    return form.field.join(("ERR", "", places, coded, "E", "", "", "", form.quote(text)))
