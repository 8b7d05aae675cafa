"""gunicorn's thread worker, hardened: a request gets a thread when all of it is there, or when it is too long to wait for.

The stock worker keeps a thread for seconds on each silent connection, for ever on half a head or a slow body, and stands still
while it closes. Here silent, slow and closing connections wait in the poller of the main thread; each has a deadline, and one
of the peer that has most of them makes room when there are too many. Three kinds of work do not stand in each other's way:

- requests that are here whole (`server.threads`), in turns between peers;
- bodies too long to be gathered, read by threads of their own (`server.uploads`), of which a slow one gives way;
- answers that their peer takes slowly, sent by one thread for all (`web_answer`).

Whatever of gunicorn's inside this relies on is in the contract test; gunicorn is pinned to 27 for it.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from broker.config.settings import Server as ServerSettings
from broker.edge.door import tls
from broker.edge.door.shares import Held, Lane
from broker.edge.door.waiting import Tls, WaitingRoom, log_bug
from broker.edge.http.answer import Answer, HandedOver, SetAside, SlowAnswers
from broker.edge.http.connection import GATHERED, Connection, Refused
from broker.wire.rest import PEER_CERTIFICATE

_READ = 64 << 10        # bytes taken from a connection at once
_LEFTOVER = 64 << 10    # bytes taken from a peer that goes on sending after its answer
_LINGER = 2.0           # seconds such a peer gets to see the answer and close (RFC 9112 9.6)
_GENERATION = 2000      # requests answered by the same threads
_HELD = 64 << 20        # bytes of all bodies in a process that are being gathered, or wait for a thread
_CHANCE = 1.0           # seconds a long body has to be quick before it queues behind those that are
_QUICK = 1 << 20        # bytes a second at which a body gives way to nobody
_CRAWL = 4              # times `min_rate`: so slow a body gives way to any other

log = structlog.get_logger("broker.http")


class WebWorker(ThreadWorker):
    """Serves the HTTP port. `settings` and `port` come with the subclass `worker_for` makes.

    What is not said to run in a thread of its own runs in the main thread, which alone knows who waits and who works.
    """

    settings: ServerSettings
    port: Tls | None
    tpool: ThreadPoolExecutor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._room: WaitingRoom[Connection]                 # those in the poller, or in a queue
        self._held: Held[Connection] = Held(_HELD)          # of their bodies
        self._requests: Lane[Connection] = Lane(self.settings.threads)
        self._uploads: Lane[Connection] = Lane(self.settings.uploads)
        self._slow: SlowAnswers
        self._served = 0

    def init_process(self) -> None:
        """Begin; returns when the worker ends."""
        self._uploaders = ThreadPoolExecutor(self.settings.uploads, "upload")
        self._slow = SlowAnswers(self.settings.min_rate, self.settings.io_timeout)
        self._slow.start()
        super().init_process()

    def run(self) -> None:
        """Serve until the worker is told to stop."""
        self._room = WaitingRoom(self.poller, self, self.port)
        super().run()

    # --- what gunicorn's loop calls

    def accept(self, listener: Any) -> None:
        """Accept the connections that queue up at the port."""
        for client, address in self._room.accept(listener):
            self.nr_conns += 1
            conn = Connection(self.settings, self.cfg, client, address, listener.getsockname())
            self._room.admit(conn, self._hear, self.settings.idle_timeout)
            if self.nr_conns >= self.worker_connections:
                self._room.evict()

    def murder_pending(self) -> None:
        """End what waited too long; gunicorn asks after every look into the poller, at least once a second."""
        self._room.look()
        if self._uploads.wanted:
            self._make_way()

    def murder_keepalived(self, force: bool = False) -> None:
        """Close everything that waits, at the very end."""
        for conn in list(self._room) if force else ():
            self.drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        for conn in self._room:
            if conn.request is None:
                conn.until = min(conn.until, deadline)

    # --- a request on its way in

    def _hear(self, conn: Connection) -> None:
        data = tls.receive(conn.sock, _READ if conn.request is None else GATHERED)
        if data is None:
            return
        if conn.request is not None:
            self._gather(conn, data)
        elif data:
            self._take(conn, data)
        else:
            self.drop(conn)

    def _take(self, conn: Connection, data: bytes) -> None:
        """Add to the head of a request."""
        begun = bool(conn.head)
        try:
            complete = conn.take(data)
            if complete:
                conn.begin()
        except Refused as error:
            self._refuse(conn, error)
        except StopIteration:
            self._leave(conn)
            self._linger(conn)
        else:
            if complete:
                self._place(conn)
                if conn.polled:
                    self._hear(conn)        # most clients send the body at once behind the head
            elif conn.head and not begun:
                conn.until = time.monotonic() + self.settings.io_timeout

    def _place(self, conn: Connection) -> None:
        """Have a request answered, or its body gathered first."""
        if conn.whole:
            self._enqueue(self._requests, conn, math.inf)
        elif conn.long and (conn.eager or conn.hesitant):
            self._enqueue(self._uploads, conn, self.settings.io_timeout)
        else:
            conn.until = time.monotonic() + (_CHANCE if conn.long else self.settings.io_timeout)
            self._count(conn)
            with contextlib.suppress(OSError):      # the poller will say that it is gone
                conn.go_on()

    def _gather(self, conn: Connection, data: bytes) -> None:
        """Add to a body. One that ends early or comes too slowly is left to the application, which knows how to say so."""
        try:
            conn.gather(data)
        except TimeoutError:
            self.late(conn)
            return
        if not data:
            self._enqueue(self._requests, conn, math.inf)
        elif conn.whole or conn.eager:
            self._place(conn)
        else:
            if not conn.long:
                conn.until = time.monotonic() + self.settings.io_timeout
            self._count(conn)

    def _count(self, conn: Connection) -> None:
        """Note how much a connection holds in memory; where all hold too much, the peer that has most gives some back."""
        self._held.note(conn, conn.unreader.held)
        while (loser := self._held.excess) is not None:
            self._refuse_for_room(loser)

    def late(self, conn: Connection) -> None:
        """End the waiting of a connection, with an answer where something of a request is here."""
        if conn.request is not None and conn.polled and conn.long:
            self._enqueue(self._uploads, conn, self.settings.io_timeout)
        elif conn.request is not None and conn.polled:
            conn.unreader.end = "late"
            self._enqueue(self._requests, conn, math.inf)
        elif conn.request is not None:
            self._refuse_for_room(conn)
        elif conn.head:
            self._refuse(conn, Refused("408 Request Timeout", "the head of the request did not go on in time"))
        else:
            self.drop(conn)

    # --- a request at work

    def _enqueue(self, lane: Lane[Connection], conn: Connection, seconds: float) -> None:
        self._leave(conn)
        self._room.hold(conn, seconds)
        lane.queue.add(conn)
        self._count(conn)
        self._start(lane)

    def _start(self, lane: Lane[Connection]) -> None:
        """Have those work for whom there is a place."""
        while (conn := lane.next()) is not None:
            self._room.leave(conn)
            self._held.discard(conn)
            self._served += 1
            if self._served % _GENERATION == 0:     # libxml2 forgets the names it was taught when the thread ends
                self._renew()
            if lane is self._uploads:
                conn.unreader.begin()
            pool = self._uploaders if lane is self._uploads else self.tpool
            pool.submit(self.handle, conn).add_done_callback(partial(self.method_queue.defer, self._done, lane, conn))

    def _renew(self) -> None:
        before = self.tpool, self._uploaders
        self.tpool, self._uploaders = self.get_thread_pool(), ThreadPoolExecutor(self.settings.uploads, "upload")
        for pool in before:
            pool.shutdown(wait=False)

    def _make_way(self) -> None:
        """Have a slow body give way to one that queues.

        Of the peer that has most places the slowest, where that is fairer; else the slowest of all, when it only crawls. One at
        a time of each that queues: what was told is on its way out.
        """
        working, unfair = self._uploads.working, self._uploads.unfair
        if sum(conn.unreader.end == "late" for conn in working) >= len(self._uploads.queue):
            return
        crowd = [conn for conn in (working.crowd() if unfair else working) if not conn.unreader.end]
        slowest = min(crowd, key=lambda conn: conn.unreader.speed, default=None)
        if slowest is not None and slowest.unreader.speed < (_QUICK if unfair else _CRAWL * self.settings.min_rate):
            log.info("a slow body gives way", address=slowest.peer, rate=int(slowest.unreader.speed))
            slowest.give_way()

    def handle(self, conn: Connection) -> bool | None:
        """Answer a request, in a thread of its own. Return whether the connection may be used again, None when not done."""
        assert conn.request is not None
        try:
            conn.sock.settimeout(self.settings.io_timeout)
            kept = self.handle_request(conn.request, conn)
            return kept if kept is None else self._keepalive_after(conn, kept)
        except (ConnectionError, NoMoreData):       # the peer is gone
            return False
        except OSError as error:
            log.info("exchange cut", address=conn.peer, error=type(error).__name__, reason=getattr(error, "strerror", None))
            return False
        except Exception as error:  # noqa: BLE001 - the edge's dispatch: a bug is logged once, here, without the peer's words
            log_bug(error)
            return False

    def handle_request(self, req: Any, conn: Connection) -> bool | None:
        """Run the application and send its answer. Return as `handle` does."""
        answer, environ = wsgi.create(
            req, conn.sock, conn.client, conn.server, self.cfg, response_class=Answer,
            response_args=(self.settings.io_timeout, self._is_wanted))
        environ["wsgi.multithread"] = True
        if self.port is not None:
            environ["wsgi.url_scheme"] = "https"
        if conn.certificate is not None:
            environ[PEER_CERTIFICATE] = conn.certificate
        if not self.alive:
            answer.force_close()
        try:
            body = self.wsgi(environ, answer.start_response)
        except Exception as error:  # noqa: BLE001 - as in `handle`; and the peer is told
            log_bug(error)
            if answer.status is None:
                answer.start_response("500 Internal Server Error", [("Content-Length", "0"), ("Connection", "close")])
                answer.close()
            return False
        pieces = iter(body)
        try:
            for piece in pieces:
                answer.write(piece)
            answer.close()
        except HandedOver as over:
            self._hand_over(conn, answer, body, pieces, over.rest)
            return None
        except BaseException:
            _close(body)
            raise
        _close(body)
        return not answer.should_close()

    def _is_wanted(self) -> bool:
        return self._requests.wanted or self._uploads.wanted

    def _hand_over(self, conn: Connection, answer: Answer, body: Any, pieces: Iterator[bytes], rest: memoryview) -> None:
        if isinstance(body, SetAside):
            body.set_aside()
        kept = conn.is_read and not answer.should_close()

        def ended(whole: bool) -> None:
            try:
                _close(body)
            finally:
                self.method_queue.defer(self._answered, conn, whole and kept)
        self._slow.take(answer, conn.peer, rest, pieces, ended)

    def _done(self, lane: Lane[Connection], conn: Connection, future: "Future[bool | None]") -> None:
        """Take a thread back; the connection too, unless its answer goes on without one."""
        lane.working.discard(conn)
        kept = False if future.cancelled() or future.exception() is not None else future.result()
        if kept is not None:
            self._answered(conn, kept)
        self._start(lane)

    def _answered(self, conn: Connection, kept: bool) -> None:
        """Have an answered connection wait for its next request, or for its end."""
        conn.request = None
        if not kept:
            self._linger(conn)
            return
        seconds = self.settings.idle_timeout
        self._room.wait(conn, self._hear, seconds if self.alive else min(seconds, STOP_KEEPALIVE_LINGER))
        ahead = conn.unreader.take_buffered()
        if ahead:
            self._take(conn, ahead)
        self._room.attend(conn)

    # --- a connection's end

    def _refuse(self, conn: Connection, refused: Refused) -> None:
        self._leave(conn)
        self._say(conn, refused)
        self._linger(conn)

    def _refuse_for_room(self, conn: Connection) -> None:
        """End a request that there is no room for; at once, that is what it is for."""
        self._say(conn, Refused("503 Service Unavailable", "there are too many at work; come again"), "Retry-After: 5\r\n")
        self.drop(conn)

    @staticmethod
    def _say(conn: Connection, refused: Refused, more: str = "") -> None:
        log.info("request refused", address=conn.peer, status=int(refused.status[:3]), reason=refused.why)
        text = (f"HTTP/1.1 {refused.status}\r\nConnection: close\r\n{more}Content-Type: text/plain; charset=utf-8\r\n"
                f"Content-Length: {len(refused.why) + 1}\r\n\r\n{refused.why}\n")
        with contextlib.suppress(OSError):
            conn.sock.setblocking(False)
            conn.sock.send(text.encode())

    def _linger(self, conn: Connection) -> None:
        """Close the sending side and let the peer finish: closing on unread bytes would take the answer back."""
        conn.head.clear()
        conn.request = None
        try:
            tls.finish(conn.sock)
        except OSError:
            self.drop(conn)
        else:
            self._room.wait(conn, self._pass_over, _LINGER)

    def _pass_over(self, conn: Connection) -> None:
        data = tls.receive(conn.sock, _READ)
        if data is not None:
            conn.leftover += len(data)
            if not data or conn.leftover > _LEFTOVER:
                self.drop(conn)

    def _leave(self, conn: Connection) -> None:
        """Take a connection out of whatever it waits in."""
        self._room.leave(conn)
        self._held.discard(conn)
        for lane in (self._requests, self._uploads):
            lane.queue.discard(conn)

    def turn_away(self, conn: Connection) -> None:
        """End a connection that another one needs the place of."""
        if conn.request is None:
            self.drop(conn)
        else:
            self._refuse_for_room(conn)

    def drop(self, conn: Connection) -> None:
        """Close a connection that no thread works for."""
        self._leave(conn)
        self.nr_conns -= 1
        conn.close()


def _close(body: Any) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


def worker_for(settings: ServerSettings, port: Tls | None) -> type[WebWorker]:
    """Return the worker class of an installation."""
    return type("WebWorker", (WebWorker,), {"settings": settings, "port": port})
