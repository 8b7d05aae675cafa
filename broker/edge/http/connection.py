"""One HTTP connection as it waits: the head of its request, how much of the body is there, and who may read the rest.

A body of a known, small size, or a chunked one that ends soon, is gathered here without a thread. The head is read by
gunicorn's parser; what it leaves open of RFC 9112 is refused here.
"""

import errno
import math
import re
import socket
import time
from typing import Any

from gunicorn.http import errors
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from broker.config.settings import Server as ServerSettings
from broker.edge.door import tls
from broker.edge.door.rate import MinimumRate
from broker.edge.door.waiting import Waiting

GATHERED = 256 << 10        # bytes of a body that are gathered before a thread is asked for
_WINDOW = 1.0               # seconds of waiting by which the speed of a body is measured
_LONGEST_HEAD = 64 << 10
_EMPTY_LINES = 8            # before a request line; RFC 9112 2.2 asks for one
_LONGEST_SIZE_LINE = 8190   # of a chunk, as gunicorn reads it

# uri-host [ ":" port ] of RFC 9110 7.2; what RFC 3986 allows in a reg-name, an address in brackets, or nothing.
_HOST = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")

# RFC 9110 15 and RFC 9112: the status of what a parser refuses, and what to say of it. Never with the peer's own words.
_REFUSALS: dict[type[Exception], tuple[str, str]] = {
    errors.LimitRequestLine: ("414 URI Too Long", "the request line is too long"),
    errors.LimitRequestHeaders: ("431 Request Header Fields Too Large", "there are too many header fields, or one is too long"),
    errors.ExpectationFailed: ("417 Expectation Failed", "no expectation but 100-continue is met"),
    errors.UnsupportedTransferCoding: ("501 Not Implemented", "no transfer coding but chunked is taken"),
    errors.InvalidHTTPVersion: ("505 HTTP Version Not Supported", "HTTP/1.1 and HTTP/1.0 are served"),
    errors.InvalidRequestLine: ("400 Bad Request", "the request line is not one of HTTP"),
    errors.InvalidRequestMethod: ("400 Bad Request", "the method is not one of HTTP"),
    errors.InvalidHeaderName: ("400 Bad Request", "a header field's name is not one of HTTP"),
    errors.ObsoleteFolding: ("400 Bad Request", "a header field goes on in the next line"),
}


class Refused(Exception):
    """A request that is answered by the server itself: `status` with its reason phrase, and a line that says why."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Unreader(SocketUnreader):
    """Reads a request's body: what was gathered, then the socket, no slower than allowed (`TimeoutError`).

    `end` says what comes after what was gathered: "" for the socket, "ended" for nothing, "late" for `TimeoutError`.
    """

    def __init__(self, sock: socket.socket, rate: MinimumRate) -> None:
        super().__init__(sock)
        self.rate = rate
        self.end = ""
        self._since = self._waited = 0.0
        self._got, self._last = 0, math.inf

    def begin(self) -> None:
        """Have what follows come from the socket, read by a thread and measured from now on."""
        self.end = ""
        self.rate.begin()
        self._since = self._waited = 0.0
        self._got, self._last = 0, math.inf

    @property
    def speed(self) -> float:
        """Bytes a second that came in the last second for which they were waited for; infinite before. Any thread may ask."""
        since = self._since
        waited = self._waited + (time.monotonic() - since if since else 0.0)
        return self._got / waited if waited >= _WINDOW else self._last

    def more(self, data: bytes) -> None:
        """Add what was gathered to what is there."""
        self.buf.seek(0, 2)
        self.buf.write(data)

    @property
    def held(self) -> int:
        """Bytes that are there."""
        return self.buf.getbuffer().nbytes

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return what comes next; nothing at the end."""
        if not self.end:
            since = self._since = time.monotonic()
            data: bytes = super().chunk(size_hint)
            waited, self._since = time.monotonic() - since, 0.0
            self._waited += waited
            self._got += len(data)
            if self._waited >= _WINDOW:
                self._last, self._got, self._waited = self._got / self._waited, 0, 0.0
            if data or not self.end:
                self.rate.received(waited, len(data))
                return data
        if self.end == "late":
            raise TimeoutError("the peer sends too slowly")
        return b""

    def some(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as there are any; nothing at the end."""
        data: bytes = self.take_buffered() or self.chunk(size)
        if len(data) > size:
            self.unread(data[size:])
        return data[:size]


class Incoming(Body):
    """A request's body that gives what is there, up to what is asked for. gunicorn's waits for all of it, in eight copies."""

    def read(self, size: int | None = None) -> bytes:
        """Return up to `size` bytes; nothing at the end."""
        reader = self.reader
        if size is None or self.buf.tell() or not isinstance(reader, LengthReader):
            return self._chunked(size)
        wanted = min(size, reader.length)
        if wanted <= 0:
            return b""
        try:
            data: bytes = reader.unreader.some(wanted)
        except BaseException:
            self.failed = True
            raise
        reader.length -= len(data)
        return data

    def _chunked(self, size: int | None) -> bytes:
        """Read as gunicorn does; what is no chunk is an OSError, as every other end of a body that comes too early."""
        try:
            data: bytes = super().read(size)
        except errors.ParseException as error:
            raise OSError(errno.EBADMSG, "the body is not one of HTTP") from error
        return data


class Chunks:
    """Finds the end of a chunked body (RFC 9112 7.1) as it comes. Only that: whether it is well-formed, the reader says."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._skip = 0
        self._last = self.whole = False

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; return whether the end was among what came, or nothing more need be waited for."""
        at = 0
        while at < len(data) and not self.whole:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at:end or len(data)]
            at = end or len(data)
            if end:
                self._ended(bytes(self._line).strip())
                self._line.clear()
            elif len(self._line) > _LONGEST_SIZE_LINE:
                self.whole = True
        return self.whole

    def _ended(self, line: bytes) -> None:
        if self._last:
            self.whole = not line
            return
        size = line.partition(b";")[0].strip()
        if not size or size.strip(b"0123456789abcdefABCDEF"):
            self.whole = True
            return
        count = int(size, 16)
        self._last = count == 0
        self._skip = count + 2 if count else 0


class Connection(Waiting, TConn):
    """A connection with what came of the next request."""

    def __init__(self, settings: ServerSettings, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        TConn.__init__(self, cfg, sock, client, server)
        Waiting.__init__(self, sock, client[0] if client else "")
        self.settings = settings
        self.head = bytearray()
        self.request: Request | None = None
        self.heard_at = 0.0
        self.leftover = 0
        self._empty_lines = 0
        self._rate = MinimumRate(settings.min_rate, settings.io_timeout)
        self._chunks: Chunks | None = None

    @property
    def unreader(self) -> Unreader:
        """Where the request's body comes from."""
        assert self.parser is not None
        found: Unreader = self.parser.unreader
        return found

    def take(self, data: bytes) -> bool:
        """Add to the head; return whether it is complete. Raise `Refused` when it is too long."""
        start = max(0, len(self.head) - 3)
        self.head += data
        while self.head.startswith(b"\r\n"):
            del self.head[:2]
            start = 0
            self._empty_lines += 1
            if self._empty_lines > _EMPTY_LINES:
                raise Refused("400 Bad Request", "there are empty lines and no request")
        complete = self.head.find(b"\r\n\r\n", start) >= 0
        if not complete and len(self.head) > _LONGEST_HEAD:
            raise Refused("431 Request Header Fields Too Large", "the head of the request is too long")
        return complete

    def begin(self) -> None:
        """Read the head, which is complete. Raise `Refused`, or `StopIteration` when nothing more may come here."""
        if self.parser is None:
            self.init()
            assert self.parser is not None
            self.parser.unreader = Unreader(self.sock, MinimumRate(self.settings.min_rate, self.settings.io_timeout))
            self.sock.setblocking(False)
        unreader = self.unreader
        unreader.end = "ended"      # the parser must not wait for anything
        unreader.unread(bytes(self.head))
        self.head.clear()
        self._empty_lines = 0
        try:
            request: Request = next(self.parser)
        except (errors.ParseException, errors.NoMoreData) as error:
            raise _refusal(error) from error
        _check(request)
        request.body = Incoming(request.body.reader)
        self.request = request
        self._rate.begin()
        self.heard_at = time.monotonic()
        chunked = not isinstance(request.body.reader, LengthReader)
        self._chunks = Chunks() if chunked else None
        if self._chunks is not None:
            self._chunks.feed(unreader.buf.getvalue())

    @property
    def whole(self) -> bool:
        """Whether all of the body is here."""
        assert self.request is not None
        return self._chunks.whole if self._chunks is not None else self.unreader.held >= self.request.body.reader.length

    @property
    def long(self) -> bool:
        """Whether the body is too long to be gathered here."""
        assert self.request is not None
        return self.eager if self._chunks is not None else self.request.body.reader.length > GATHERED

    @property
    def eager(self) -> bool:
        """Whether as much of a body is here as is ever gathered: others wait for a peer that sends less quickly."""
        return self.unreader.held >= GATHERED

    @property
    def hesitant(self) -> bool:
        """Whether the peer waits to be asked for the body (RFC 9110 10.1.1)."""
        return self.request is not None and self.request._expected_100_continue

    def gather(self, data: bytes) -> None:
        """Add to the body. Raise `TimeoutError` when it comes too slowly."""
        now = time.monotonic()
        self.unreader.more(data)
        if self._chunks is not None:
            self._chunks.feed(data)
        self._rate.received(now - self.heard_at, len(data))
        self.heard_at = now

    @property
    def is_read(self) -> bool:
        """Whether the application has read all of the body."""
        assert self.request is not None
        reader = self.request.body.reader
        return bool(reader.length == 0 if isinstance(reader, LengthReader) else reader.parser is None)

    def go_on(self) -> None:
        """Ask for the body where the peer waits to be asked; gunicorn asks only when the application is called."""
        if self.hesitant:
            assert self.request is not None
            self.request._expected_100_continue = False
            self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def give_way(self) -> None:
        """End the reading of a body that a thread waits for; it is answered like one that came too slowly."""
        self.unreader.end = "late"
        tls.cut(self.sock, socket.SHUT_RD)

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - gunicorn's signature
        """Close the socket, at once."""
        tls.close(self.sock)


def _refusal(error: Exception) -> Refused:
    for kind in type(error).__mro__:
        if kind in _REFUSALS:
            return Refused(*_REFUSALS[kind])
    return Refused("400 Bad Request", "a header field is not one of HTTP, or does not agree with another")


def _check(request: Request) -> None:
    """Refuse what gunicorn takes and RFC 9112 does not: no Host or a bad one (3.2), a coding we do not have (6.1)."""
    hosts = [value for name, value in request.headers if name == "HOST"]
    if not hosts and request.version >= (1, 1):
        raise Refused("400 Bad Request", "HTTP/1.1 needs a Host field")
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise Refused("400 Bad Request", "the Host field is not a host")
    codings = [value.strip().lower() for name, value in request.headers if name == "TRANSFER-ENCODING"]
    if codings and codings != ["chunked"]:
        raise Refused(*_REFUSALS[errors.UnsupportedTransferCoding])
