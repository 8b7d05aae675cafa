"""gunicorn's thread worker, hardened: a connection gets a thread when the head of its request is there, not before.

The stock worker keeps a thread for seconds on each silent connection, for ever on half a head, and stands still while it
closes. Here silent, slow and closing connections wait in the poller of the main thread; each has a deadline, and the one that
waits longest makes room when there are too many. Whatever of gunicorn's inside this relies on is in the contract test;
gunicorn is pinned to 27 for it.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from selectors import EVENT_READ
from typing import Any

import structlog
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from broker.config.settings import Server as ServerSettings
from broker.edge.pace import Pace

_LONGEST_HEAD = 64 << 10
_LEFTOVER = 64 << 10    # bytes taken from a peer that goes on sending after its answer
_LINGER = 2.0           # seconds such a peer gets to see the answer and close (RFC 9112 9.6)
_PAUSE = 0.05           # seconds without accepting when there are no descriptors left
_AT_ONCE = 64           # connections accepted in a row
_GENERATION = 2000      # requests answered by the same threads

log = structlog.get_logger("broker.http")


class Unreader(SocketUnreader):
    """Reads a request's body no slower than allowed; raises TimeoutError."""

    def __init__(self, sock: socket.socket, pace: Pace) -> None:
        super().__init__(sock)
        self.pace = pace

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Give what comes next."""
        since = time.monotonic()
        data: bytes = super().chunk(size_hint)
        self.pace.heard(time.monotonic() - since, len(data))
        return data

    def some(self, size: int) -> bytes:
        """Give up to `size` bytes as soon as there are any; nothing at the end."""
        data: bytes = self.take_buffered() or self.chunk(size)
        if len(data) > size:
            self.unread(data[size:])
        return data[:size]


class Incoming(Body):
    """A request's body that gives what is there, up to what is asked for. gunicorn's waits for all of it, in eight copies."""

    def read(self, size: int | None = None) -> bytes:
        """Give up to `size` bytes; nothing at the end."""
        reader = self.reader
        if size is None or self.buf.tell() or not isinstance(reader, LengthReader):
            whole: bytes = super().read(size)
            return whole
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


class Connection(TConn):
    """A connection with what came of the next head. `until` ends its waiting (monotonic seconds)."""

    def __init__(self, settings: ServerSettings, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.settings = settings
        self.head = bytearray()
        self.until = 0.0
        self.leftover = 0

    def init(self) -> None:
        """Get ready for the request whose head is here: limits of time are on the socket from now on."""
        super().init()
        if not isinstance(self.parser.unreader, Unreader):
            self.parser.unreader = Unreader(self.sock, Pace(self.settings.min_rate, self.settings.io_timeout))
        self.parser.unreader.pace.begin()
        self.parser.unreader.unread(bytes(self.head))
        self.head.clear()
        self.sock.settimeout(self.settings.io_timeout)

    def take(self, data: bytes) -> bool:
        """Add to the head; say whether it is complete. Empty lines before it do not count (RFC 9112 2.2)."""
        start = max(0, len(self.head) - 3)
        self.head += data
        while self.head.startswith(b"\r\n"):
            del self.head[:2]
            start = 0
        return self.head.find(b"\r\n\r\n", start) >= 0


class WebWorker(ThreadWorker):
    """Serves the HTTP port. `settings` come with the subclass `worker_for` makes."""

    settings: ServerSettings
    tpool: ThreadPoolExecutor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting: dict[Connection, None] = {}
        self._requests = 0

    def accept(self, listener: Any) -> None:
        """Accept what waits at the door; it costs a descriptor, no thread."""
        for _ in range(_AT_ONCE):
            try:
                client, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("not accepted", reason=error.strerror)
                if not self._evict():
                    time.sleep(_PAUSE)
                return
            self.nr_conns += 1
            self._wait(Connection(self.settings, self.cfg, client, address, listener.getsockname()), self._hear,
                       self.settings.idle_timeout)
            if self.nr_conns >= self.worker_connections:
                self._evict()

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request."""
        req.body = Incoming(req.body.reader)
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, fs: "Future[Any]") -> None:
        """Have an answered connection wait for its next request, or for its end."""
        if fs.cancelled() or fs.exception() is not None or not fs.result():
            self._linger(conn)
            return
        conn.data_ready = False
        if conn.take(conn.parser.unreader.take_buffered()):
            self._serve(conn)
        else:
            seconds = self.settings.io_timeout if conn.head else self.settings.idle_timeout
            self._wait(conn, self._hear, seconds if self.alive else min(seconds, STOP_KEEPALIVE_LINGER))

    def murder_pending(self) -> None:
        """Close what waited too long; gunicorn asks once a second."""
        now = time.monotonic()
        for conn in [conn for conn in self._waiting if conn.until <= now]:
            if conn.head:
                self._refuse(conn, b"408 Request Timeout")
            else:
                self._drop(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close everything that waits, at the very end."""
        for conn in list(self._waiting) if force else ():
            self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        for conn in self._waiting:
            conn.until = min(conn.until, deadline)

    def _hear(self, conn: Connection, _sock: Any) -> None:
        data = self._received(conn)
        if data is None:
            return
        begun = bool(conn.head)
        if not data:
            self._drop(conn)
        elif conn.take(data):
            self._leave(conn)
            self._serve(conn)
        elif len(conn.head) > _LONGEST_HEAD:
            self._refuse(conn, b"431 Request Header Fields Too Large")
        elif conn.head and not begun:
            conn.until = time.monotonic() + self.settings.io_timeout

    def _serve(self, conn: Connection) -> None:
        self._requests += 1
        if self._requests % _GENERATION == 0:   # libxml2 forgets the names it was taught when the thread ends
            before, self.tpool = self.tpool, self.get_thread_pool()
            before.shutdown(wait=False)
        conn.data_ready = True
        self.enqueue_req(conn)

    def _refuse(self, conn: Connection, status: bytes) -> None:
        self._leave(conn)
        with contextlib.suppress(OSError):
            conn.sock.send(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Close the sending side and let the peer finish: closing on unread bytes would take the answer back."""
        conn.head.clear()
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
        else:
            self._wait(conn, self._drain, _LINGER)

    def _drain(self, conn: Connection, _sock: Any) -> None:
        data = self._received(conn)
        if data is not None:
            conn.leftover += len(data)
            if not data or conn.leftover > _LEFTOVER:
                self._drop(conn)

    def _wait(self, conn: Connection, heard: Callable[[Connection, Any], None], seconds: float) -> None:
        conn.sock.setblocking(False)
        conn.until = time.monotonic() + seconds
        self._waiting[conn] = None
        self.poller.register(conn.sock, EVENT_READ, partial(heard, conn))

    def _leave(self, conn: Connection) -> None:
        del self._waiting[conn]
        self.poller.unregister(conn.sock)

    def _evict(self) -> bool:
        """Close the connection that waits longest; False when none does."""
        longest = next(iter(self._waiting), None)
        if longest is not None:
            self._drop(longest)
        return longest is not None

    def _drop(self, conn: Connection) -> None:
        self._leave(conn)
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    @staticmethod
    def _received(conn: Connection) -> bytes | None:
        """Give what came, empty at the end; None when nothing is there yet."""
        try:
            data: bytes = conn.sock.recv(_LONGEST_HEAD)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""
        return data


def worker_for(settings: ServerSettings) -> type[WebWorker]:
    """Give the worker class of an installation."""
    return type("WebWorker", (WebWorker,), {"settings": settings})
