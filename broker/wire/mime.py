"""MIME multipart/related, streamed: a reader whose memory does not grow with the message, and the MTOM body we send.

Reading is done by python-multipart; what it leaves open is closed here: a preamble is skipped (RFC 2046 5.1.1), a
message that ends before its closing boundary is refused, parts and headers have limits.
"""

import functools
import logging
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from broker.model.errors import Rejected, TooLarge
from broker.wire.soap import Part

MAX_PARTS = 10_000
MAX_HEADER = 8192
_MAX_HEADERS = 32
_MAX_PREAMBLE = 8192

XOP_TYPE = "application/xop+xml"
SOAP_TYPE = "application/soap+xml"
ROOT_TYPE = f'{XOP_TYPE}; charset=UTF-8; type="{SOAP_TYPE}"'

Headers = dict[str, str]

# The parser warns in its log about what our exception says as well.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class BadMultipart(Rejected):
    """The bytes are not a whole multipart message."""

    def __init__(self, why: str) -> None:
        super().__init__("BadMultipart", why)


@functools.lru_cache(maxsize=256)  # callers send the same one with every request
def content_type_parameters(value: str) -> tuple[str, Mapping[str, str]]:
    """Return the media type in lower case and its parameters, names in lower case, quotes removed.

    All is empty for no value, and for one with characters beyond those of HTTP.
    """
    try:
        kind, options = parse_options_header(value)
    except UnicodeEncodeError:
        return "", {}
    return kind.decode("latin-1").strip(), {
        name.decode("latin-1").lower(): text.decode("latin-1") for name, text in options.items()}


def content_id(value: str) -> str:
    """Return a Content-ID or `start` value without its angle brackets."""
    return value.strip().removeprefix("<").removesuffix(">")


def limited(chunks: Iterable[bytes], limit: int, setting: str) -> Iterator[bytes]:
    """Return the chunks; raise `TooLarge` naming `setting` as soon as they are more than `limit` bytes."""
    size = 0
    for data in chunks:
        size += len(data)
        if size > limit:
            raise TooLarge(f"{setting} = {limit} bytes")
        yield data


class Multipart:
    """Iterate to get (headers, chunks) of each part in turn; what is left unread of a part is skipped.

    `chunks` is the message as it arrives, in pieces of any size. Header names are in lower case. Raise `BadMultipart`
    for anything that is not a whole message, `TooLarge` for more than `max_parts` parts.
    """

    def __init__(self, chunks: Iterable[bytes], boundary: str, max_parts: int = MAX_PARTS) -> None:
        if not 0 < len(boundary) <= 200:
            raise BadMultipart("the boundary parameter is missing or longer than 200 characters")
        try:
            self._delimiter = b"--" + boundary.encode("latin-1")
            self._parser = MultipartParser(boundary.encode("latin-1"), {
                "on_part_begin": self._on_part_begin, "on_part_data": self._on_part_data, "on_part_end": self._on_part_end,
                "on_header_field": self._on_header_field, "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end, "on_headers_finished": self._on_headers_finished, "on_end": self._on_end,
            }, max_header_count=_MAX_HEADERS, max_header_size=MAX_HEADER)
        except (FormParserError, UnicodeEncodeError) as error:
            raise BadMultipart("the boundary parameter is not usable") from error
        self._chunks = self._from_first_boundary(iter(chunks))
        self._max_parts, self._parts = max_parts, 0
        self._events: deque[Headers | bytes | None] = deque()
        self._headers: Headers = {}
        self._name, self._value = bytearray(), bytearray()
        self._ended = False

    def __iter__(self) -> Iterator[tuple[Headers, Iterator[bytes]]]:
        while (event := self._next()) is not None:
            assert isinstance(event, dict)
            body = self._body()
            yield event, body
            for _ in body:
                pass

    def _body(self) -> Iterator[bytes]:
        while isinstance(event := self._next(), bytes):
            yield event

    def _next(self) -> Headers | bytes | None:
        """Return headers, then data, then None at the end of the part; None again at the end of the message."""
        while not self._events:
            if self._ended:
                for _ in self._chunks:
                    pass
                return None
            data = next(self._chunks, b"")
            if not data:
                raise BadMultipart("the message ends before its closing boundary")
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise BadMultipart("not well-formed: " + str(error)[:120]) from error
        return self._events.popleft()

    def _from_first_boundary(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the message on from its first boundary, without the blanks that may stand behind that (RFC 2046 5.1.1).

        Behind the boundaries that follow the parser itself takes them.
        """
        head, most = b"", _MAX_PREAMBLE + 2 + len(self._delimiter)
        for data in chunks:
            head += data
            at = 0 if head.startswith(self._delimiter) else head.find(b"\r\n" + self._delimiter, 0, most)
            if at >= 0:
                line = head[at:].lstrip(b"\r\n")
                rest = line[len(self._delimiter):].lstrip(b" \t")
                if rest:
                    yield self._delimiter + rest
                    yield from filter(None, chunks)
                    return
            if len(head) >= most:
                break
        raise BadMultipart("there is no boundary at the beginning")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            raise TooLarge(f"server.max_parts = {self._max_parts} parts")
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("utf-8", "replace").strip()
        self._name.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        self._events.append(self._headers)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _on_part_end(self) -> None:
        self._events.append(None)

    def _on_end(self) -> None:
        self._ended = True


class MtomBody:
    """A multipart/related message with the envelope `root` first (ITI TF-2 Appendix V.3.6); iterate it to send it.

    `length` is its size in bytes and `content_type` its header value, both known before the first byte. Parts are
    streamed from their sources, so that a source that shrank raises OSError in mid-message.
    """

    def __init__(self, root: bytes, parts: Sequence[Part] = (), root_id: str = "root@broker") -> None:
        boundary = "mime." + secrets.token_hex(16)
        self.content_type = (
            f'multipart/related; type="{XOP_TYPE}"; start="<{root_id}>"; start-info="{SOAP_TYPE}"; boundary="{boundary}"')
        self._root = _part_head(boundary, ROOT_TYPE, root_id) + root
        self._parts = [(b"\r\n" + _part_head(boundary, part.media_type, part.content_id), part.source) for part in parts]
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.length = len(self._root) + sum(len(head) + source.size for head, source in self._parts) + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._root
        for head, source in self._parts:
            yield head
            yield from source.chunks()
        yield self._tail


def _part_head(boundary: str, media_type: str, content: str) -> bytes:
    # A media type is echoed as it was submitted; a line end in it must not become a header of ours.
    safe = "".join(c if c.isprintable() else " " for c in media_type)
    return (
        f"--{boundary}\r\nContent-Type: {safe}\r\nContent-Transfer-Encoding: binary\r\n"
        f"Content-ID: <{content}>\r\n\r\n").encode()
