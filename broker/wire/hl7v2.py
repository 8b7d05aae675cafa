r"""HL7 v2 messages over MLLP: frames, character sets, segments, acknowledgements (HL7 v2.5 chapter 2, ITI TF-2 C.2).

Bytes are framed first (`Deframer`), decoded as MSH-18 says, and only then split at the delimiters: GB 18030 and Big5
use delimiter bytes as second bytes of characters. An empty MSH-18 means ASCII; what is not ASCII is then read as
UTF-8, strictly, because text in another character set hardly ever passes as UTF-8. What cannot be decoded is refused.

Segments end with CR (HL7 v2.5 2.3); CR LF, LF CR and, where no CR is in the message, LF are taken for it. A line that does
not begin with the name of a segment is refused: it is the rest of one that was torn. In a message with CR a lone LF ends a
segment where one that patients' messages have follows it, and stays text where no name follows; anything else is refused.

What a message holds is read by `hl7v2_message`; the messages of the PIX profile are in `hl7v2_pix`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from broker.model.errors import BrokerError, Hl7Code, Problem, Rejected, TooLarge, Unavailable
from broker.model.message_id import MessageId
from broker.wire import hl7v2_charset as charsets
from broker.wire.hl7v2_message import NOBODY, UTF8, Form, Message, Segment, Value

__all__ = [
    "NOBODY", "TEXTS", "UTF8", "Deframer", "Form", "Header", "Message", "Segment", "Value", "err_segment", "err_segments",
    "frame", "join", "msa_segment", "outcome", "parse", "parse_header", "reply_header", "write_ack", "write_broken",
    "write_nack"]
START, END = b"\x0b", b"\x1c\r"
_WIDE_END = b"\x1c\0\r"     # the end in two bytes a character: such a block is taken, so that it can be answered
_RESTART = START + b"MSH"
_MAX_SEGMENTS = 10_000
_MAX_HEADER = 10_000        # bytes of MSH
_NOISE = b" \t\r\n\0"
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_CONTROL_BYTES = bytes(code for code in range(32) if code not in b"\t\n\r")
_NAME = re.compile(rb"[A-Z][A-Z0-9]{2}")
# Segments of messages about patients, in any version: what a lone LF may stand before.
_SEGMENTS = frozenset((
    b"ACC", b"AL1", b"ARV", b"BHS", b"BTS", b"DB1", b"DG1", b"DRG", b"DSC", b"ERR", b"EVN", b"FHS", b"FTS", b"GT1", b"IAM",
    b"IN1", b"IN2", b"IN3", b"MRG", b"MSA", b"MSH", b"NK1", b"NPU", b"NTE", b"OBX", b"PD1", b"PDA", b"PID", b"PR1", b"PRT",
    b"PV1", b"PV2", b"QAK", b"QPD", b"RCP", b"ROL", b"SFT", b"UAC", b"UB1", b"UB2"))
_BATCH = frozenset(("FHS", "BHS", "BTS", "FTS"))
_BRIEF = 80                 # characters of MSA-3
_CANDIDATES = 100           # fields of a header that are tried as MSH-18
_SPARE = "\\&#$%@*!;:?+=<>"          # what stands for the marks that a short MSH-2 leaves out
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
    """Return the message as one MLLP block: VT, message, FS, CR."""
    return START + message + END


class Deframer:
    """Finds MLLP blocks in a stream fed piece by piece; whatever the pieces, the messages are the same.

    Bytes between blocks are dropped. A VT directly followed by `MSH` inside an unfinished block begins a new block:
    the unfinished one was never sent whole. A block longer than `limit` bytes raises `TooLarge`.
    """

    def __init__(self, limit: int) -> None:
        self.lost = 0       # blocks that were dropped because the next one began before they ended
        self._limit = limit
        self._buffer = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._buffer += data
        self._skip()

    def take(self) -> bytes | None:
        """Return the next whole message without its frame, or None until more is fed."""
        buffer = self._buffer
        self._skip()
        end, length = self._end(buffer)
        if end < 0:
            self._check(len(buffer) - 1)
            return None
        begin = max(buffer.rfind(_RESTART, 0, end), 0) + 1
        self._check(end - begin)
        self.lost += buffer.count(_RESTART, 1, end)
        message = bytes(memoryview(buffer)[begin:end])
        del buffer[:end + length]
        self._seen = 0
        return message

    def _skip(self) -> None:
        """Drop what stands before a block."""
        buffer = self._buffer
        if buffer[:1] != START:
            begin = buffer.find(START)
            del buffer[:begin if begin >= 0 else len(buffer)]
            self._seen = 0

    def _end(self, buffer: bytearray) -> tuple[int, int]:
        """Return where the first block ends, and how long its mark is; a negative number when it has not ended."""
        seen = max(self._seen, 1)
        end = buffer.find(END, seen)
        wide = buffer.find(_WIDE_END, seen, end if end >= 0 else len(buffer))
        if max(wide, end) < 0:
            self._seen = len(buffer) - len(_WIDE_END) + 1
        return (wide, len(_WIDE_END)) if wide >= 0 else (end, len(END))

    @property
    def inside(self) -> bool:
        """Say whether a block has begun and not ended."""
        return bool(self._buffer)

    @property
    def ready(self) -> bool:
        """Say whether `take` would give a message, or refuse one that is too long."""
        return len(self._buffer) > self._limit + 1 or self._end(self._buffer)[0] >= 0

    @property
    def lacks_cr(self) -> bool:
        """Say whether the unfinished block seems to have ended: with FS, but without the CR behind it."""
        return self._buffer.find(END[:1]) >= 0

    @property
    def head(self) -> bytes:
        """The unfinished block as far as it came, no more of it than a header has."""
        return bytes(memoryview(self._buffer)[1:_MAX_HEADER])

    def _check(self, length: int) -> None:
        if length > self._limit:
            raise TooLarge(f"server.max_message = {self._limit} bytes")


def parse(data: bytes, node: tuple[str, str] = NOBODY) -> Message:
    """Read an unframed message that `node` answers.

    Raise `Rejected` when it is none, more than one or a batch, has a wrong MSH, or text its MSH-18 does not allow.
    """
    body = charsets.without_mark(data.lstrip(_NOISE)).rstrip(b"\0")     # a string of C brings its end along
    if body[:3] != b"MSH" or len(body) < 9:
        raise _no_message(data, body)
    lines = _lines(body)
    form = _form(lines[0], body)
    segments = tuple(_segment(line, form) for line in lines)
    for segment in segments[1:]:
        if segment.name == "MSH" or segment.name in _BATCH:
            raise _several(segment.name)
        if segment.name == "ADD":
            raise Rejected(Hl7Code.SEGMENT_SEQUENCE, "a segment that goes on in ADD is not supported", "ADD")
    return Message(data, segments, form, node)


def parse_header(data: bytes, node: tuple[str, str] = NOBODY) -> Message | None:
    """Return the header of a message that `parse` refuses, as far as it is ASCII, so that it can be answered; None without one.

    It has the usual delimiters where MSH-2 is wrong, and is made of FHS or BHS where a batch was refused.
    """
    body = charsets.without_mark(data[:_MAX_HEADER].lstrip(_NOISE))
    if codec := charsets.wide(data[:_MAX_HEADER]) or charsets.wide(body):
        body = data[:_MAX_HEADER].decode(codec, "replace").encode().lstrip(_NOISE + "\ufeff\ufffd".encode())
    line = re.split(rb"[\r\n]", body, maxsplit=1)[0]
    separator = line[3:4]
    if line[:3] not in (b"MSH", b"FHS", b"BHS") or not _is_mark(separator):
        return None
    fields = _plain_fields(line, separator)
    if line[:3] != b"MSH":
        fields = _of_batch(fields, data, separator)
    try:
        form = _form(separator.decode().join(fields[:17]).encode(), line)
    except Rejected:
        fields[1] = "".join(mark for mark in "^~\\&#" if mark != separator.decode())[:4]
        form = Form(separator.decode(), *fields[1])._replace(charset="")
    text = separator.decode().join(fields[:17])
    return Message(data, (Segment(text.encode(), text, form),), form, node)


def _plain_fields(line: bytes, separator: bytes) -> list[str]:
    """Return the fields of a header, split after it was decoded where its character set is known, what is not ASCII as `?`."""
    try:
        codec = _form(line, line).codec
    except Rejected:
        codec = "ascii"
    text = line.decode(codec, "replace").encode("ascii", "replace").decode()
    fields = _CONTROLS.sub("?", text).split(separator.decode())
    return [*fields, *[""] * (2 - len(fields))]


def _of_batch(fields: list[str], data: bytes, separator: bytes) -> list[str]:
    """Return the fields of an MSH with the nodes and the id of FHS or BHS; version and mode are those of its first message."""
    found = re.search(rb"(?:^|[\r\n])(MSH" + re.escape(separator) + rb"[^\r\n]{0,5000})", data)
    first = [*(_plain_fields(found.group(1), separator) if found else []), *[""] * 12]
    given = [*fields, *[""] * 11]
    return ["MSH", *given[1:7], "", "", given[10] or first[9], first[10] or "P", first[11] or "2.5"]


def _no_message(data: bytes, body: bytes) -> Rejected:
    """Return why something that does not begin with MSH is not taken."""
    if codec := charsets.wide(data) or charsets.wide(body):
        return Rejected(
            Hl7Code.TABLE_VALUE, f"the message is in {codec[:6].upper()}, which HL7 v2 over MLLP cannot be; send UNICODE UTF-8",
            "MSH^1^18")
    if body[:3] in (b"FHS", b"BHS"):
        return _several(body[:3].decode())
    return Rejected(Hl7Code.SEGMENT_SEQUENCE, "the message does not begin with MSH", "MSH^1")


def _several(name: str) -> Rejected:
    """Return the refusal of a block that holds more than one message, or a batch: none of them may vanish unanswered."""
    what = "several messages in one block are" if name == "MSH" else "a batch (FHS, BHS) is"
    return Rejected(
        Hl7Code.SEGMENT_SEQUENCE, f"{what} not taken, nothing was carried out; send each message in a block of its own",
        "MSH^2" if name == "MSH" else name)


def _lines(body: bytes) -> list[bytes]:
    """Return the segments. Raise `Rejected` (100) for a line that is none, `TooLarge` for too many."""
    separator = body[3:4]
    end = b"\r" if b"\r" in body.rstrip(_NOISE) else b"\n"
    pieces = body.split(end, _MAX_SEGMENTS)
    lines = [line.lstrip(_NOISE) for piece in pieces for line in _cut(piece.strip(b"\n"), separator)]
    if len(lines) > _MAX_SEGMENTS:
        raise TooLarge(f"segments of one message = {_MAX_SEGMENTS}")
    for number, line in enumerate(lines, 1):
        if line and not (_NAME.match(line) and line[3:4] in (separator, b"")):
            raise Rejected(
                Hl7Code.SEGMENT_SEQUENCE, f"line {number} does not begin with the name of a segment: a segment ends with CR, and"
                " text has a line end as \\X0D\\ or \\X0A\\")
    return [line for line in lines if line]


def _cut(line: bytes, separator: bytes) -> list[bytes]:
    """Return the segments in what stands between two ends: a lone LF ends one where another one follows.

    Raise `Rejected` (100) where a name follows that no message about patients has: it may be text or a segment.
    """
    if b"\n" not in line:
        return [line]
    if line.count(b"\n") > _MAX_SEGMENTS:
        raise TooLarge(f"line feeds of one segment = {_MAX_SEGMENTS}")
    parts = re.split(rb"\n[ \t\0]*(?=[A-Z][A-Z0-9]{2}(?:" + re.escape(separator) + rb"|\n|\Z))", line)
    for part in parts[1:]:
        if part[:3] not in _SEGMENTS and part[:1] != b"Z":
            raise Rejected(
                Hl7Code.SEGMENT_SEQUENCE, f"a line feed stands before '{part[:3].decode()}': a segment ends with CR, and text"
                " has a line feed as \\X0A\\")
    return parts


def _segment(line: bytes, form: Form) -> Segment:
    try:
        text = line.decode(form.codec)
    except UnicodeDecodeError as error:
        named = f"that MSH-18 names ({form.charset})" if form.charset else "of a message without MSH-18 (ASCII, UTF-8)"
        raise Rejected(Hl7Code.DATA_TYPE, f"the text is not in the character set {named}", "MSH^1^18") from error
    # The bytes are looked at first: no byte of a longer character is a control, and the search of text is ten times slower.
    plain = len(line.translate(None, _CONTROL_BYTES)) == len(line)
    if not plain or (not line.isascii() and ("\ufffe" in text or "\uffff" in text)):
        raise Rejected(Hl7Code.DATA_TYPE, "control characters in the text", text[:3])
    return Segment(line, text, form)


def _form(line: bytes, body: bytes) -> Form:
    """Return how a message is written. What a short MSH-2 leaves out is not used: it gets marks the message does not hold."""
    separator = line[3:4]
    marks = line[4:line.find(separator, 4)] if separator in line[4:] else line[4:]
    if not 2 <= len(marks) <= 5 or not all(_is_mark(marks[n:n + 1]) for n in range(len(marks))) or not _is_mark(separator):
        raise Rejected(Hl7Code.DATA_TYPE, "MSH-2 is not two to five delimiters", "MSH^1^2")
    every = (separator + marks[:4]).decode()
    spare = [mark for mark in _SPARE if mark not in every and mark.encode() not in body] if len(every) < 5 else []
    every = (every + "".join(spare))[:5]
    if len(set(every)) != 5 or len(set(marks)) != len(marks):
        raise Rejected(Hl7Code.DATA_TYPE, "the delimiters of MSH-1 and MSH-2 are not different", "MSH^1^2")
    if len(line) > _MAX_HEADER:
        raise Rejected(Hl7Code.DATA_TYPE, f"MSH is longer than {_MAX_HEADER} bytes", "MSH^1")
    charset = _charset(line, separator, every[2])
    return Form(*every)._replace(charset=charset, codec=charsets.codec(charset))


def _is_mark(byte: bytes) -> bool:
    """Say whether a byte can be a delimiter: of ASCII, and neither a letter, a digit, a blank nor a control."""
    return byte.isascii() and byte > b" " and byte != b"\x7f" and not byte.isalnum()


def _charset(line: bytes, separator: bytes, repetition: str) -> str:
    """Return MSH-18: the first field from the 18th on which, taken as the character set, turns out to be MSH-18.

    A header whose names hold delimiter bytes cannot be split before it is decoded, so the candidates are tried.
    """
    plain = line.split(separator, _CANDIDATES)[:_CANDIDATES]
    said: dict[str, str] = {}       # MSH-18 by codec: the line may be long, and a name may stand in it often
    for candidate in plain[17:]:
        name = candidate.decode("latin-1").strip()
        codec = charsets.known_codec(name) if name else None
        if codec is not None:
            if codec not in said:
                said[codec] = "".join(line.decode(codec, "replace").split(separator.decode("latin-1"), 18)[17:18]).strip()
            if said[codec] == name:
                return name
    return charsets.declared(plain[17].decode("latin-1") if len(plain) > 17 else "", repetition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The MSH of a message we begin. `sender` and `receiver` are (application, facility)."""

    sender: tuple[str, str]
    receiver: tuple[str, str]
    message_id: MessageId = field(default_factory=MessageId.now)
    charset: str = UTF8
    version: str = "2.5"
    processing: str = "P"

    def segment(self, name: str, form: Form) -> str:
        """Return the segment; `name` is MSH-9 as written."""
        nodes = "|".join(form.quote(part) for part in (*self.sender, *self.receiver))
        time, control_id = self.message_id
        return (f"MSH|^~\\&|{nodes}|{time}||{name}|{form.quote(control_id)}|{self.processing}|{self.version}"
                f"||||||{form.charset}")


def join(segments: Iterable[str | Segment], form: Form) -> bytes:
    """Return the message's bytes. A received segment is copied byte for byte.

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


def reply_header(request: Message, name: str, message_id: MessageId) -> str:
    """Return the MSH of a reply: from us to whom the request names as sender; delimiters, version, mode and set as asked."""
    msh, form, mark = request.msh, request.form, request.form.field
    usual = form.component + form.repetition + form.escape + form.subcomponent
    nodes = mark.join((*map(form.quote, request.node), msh.field(3), msh.field(4)))
    kind = name.replace("^", form.component)
    time, control_id = message_id
    start = f"MSH{mark}{max(msh.field(2), usual, key=len)}{mark}{nodes}{mark}{time}{mark}{mark}{kind}{mark}{control_id}{mark}"
    tail = mark * 6 + form.charset if form.charset else ""
    return f"{start}{msh.field(11) or 'P'}{mark}{request.version}{tail}"


def write_ack(request: Message, message_id: MessageId, error: BrokerError | None = None) -> bytes:
    """Return the acknowledgement of a message: AA, or AE / AR with its problems."""
    event = request.form.quote(request.msh.get(9, 2)[:3])
    kind = f"ACK^{event}^ACK" if request.version >= "2.3.1" else f"ACK^{event}"     # MSH-9 has a structure from 2.3.1 on
    code, problems = outcome(error)
    return join([
        reply_header(request, kind if event else "ACK", message_id),
        msa_segment(request, code, problems),
        *err_segments(request.form, request.version, problems),
    ], request.form)


def write_nack(message_id: MessageId, error: BrokerError, node: tuple[str, str] = NOBODY) -> bytes:
    """Return the AR of `node` for something that is not a message: nobody is addressed, MSA-2 is empty."""
    form = Form()
    _, problems = outcome(error)
    nodes = "|".join(map(form.quote, node))
    return join([
        f"MSH|^~\\&|{nodes}|||{message_id.time}||ACK|{message_id.control_id}|P|2.5", f"MSA|AR||{_brief(form, problems)}",
        *err_segments(form, "2.5", problems)], form)


def outcome(error: BrokerError | None) -> tuple[str, tuple[Problem, ...]]:
    """Return MSA-1 and what goes into ERR: AE tells the sender not to resend unchanged, AR that it may (2.9.2)."""
    if error is None:
        return "AA", ()
    if isinstance(error, Rejected):
        early = error.problems[0].code in _BEFORE_PROCESSING
        return "AR" if early else "AE", error.problems
    context = str(error) if isinstance(error, Unavailable | TooLarge) else "internal error"
    return "AR", (Problem(Hl7Code.INTERNAL, context),)


def write_broken(request: Message, message_id: MessageId) -> bytes:
    """Return the AE 207 that answers a bug."""
    return write_ack(request, message_id, Rejected(Hl7Code.INTERNAL, "internal error"))


def msa_segment(request: Message, code: str, problems: Sequence[Problem]) -> str:
    """Return MSA: code, the request's control id as it was written, and in MSA-3 what was wrong first (withdrawn in 2.7)."""
    form = request.form
    fields = ["MSA", code, request.msh.field(10) if request.control_id else ""]
    return form.field.join([*fields, _brief(form, problems)] if problems and request.version < "2.7" else fields)


def _brief(form: Form, problems: Sequence[Problem]) -> str:
    """Return the first problem's text, written in at most 80 characters (MSA-3, HL7 v2.5 2.15.8.3)."""
    text = problems[0].context[:_BRIEF]
    while len(form.quote(text)) > _BRIEF:
        text = text[:-1]
    return form.quote(text)


def err_segments(form: Form, version: str, problems: Sequence[Problem]) -> list[str]:
    """Return ERR as the version has it: one for each problem from 2.5 on (2.15.5), one with all of them in ERR-1 before."""
    if not problems:
        return []
    if version < "2.5":             # one digit before and behind the first dot
        return [form.field.join(("ERR", form.repetition.join(_old_error(form, problem) for problem in problems)))]
    return [err_segment(form, version, [problem]) for problem in problems]


def _old_error(form: Form, problem: Problem) -> str:
    """Return an ELD (HL7 v2.4 2.16.5.1): segment, sequence, field, code."""
    place = [*problem.location.split("^"), "", ""][:3]
    return form.component.join((*place, form.subcomponent.join(_coded(problem.code))))


def _coded(code: str) -> tuple[str, str, str]:
    known = Hl7Code(code) if code in TEXTS else Hl7Code.INTERNAL
    return known, TEXTS[known], "HL70357"


def err_segment(form: Form, version: str, problems: Sequence[Problem]) -> str:
    """Return the ERR of problems with one code, from version 2.5 on (2.15.5).

    Places are in ERR-2, table 0357 in ERR-3, severity E, the first one's text for people in ERR-8. From 2.6 on a place that
    names a segment says which one of them.
    """
    places = [problem.location for problem in problems]
    whole = [f"{place}^1" if place and "^" not in place and version >= "2.6" else place for place in places]
    first = problems[0]
    return form.field.join((
        "ERR", "", form.repetition.join(place.replace("^", form.component) for place in whole),
        form.component.join(_coded(first.code)), "E", "", "", "", form.quote(first.context)))
