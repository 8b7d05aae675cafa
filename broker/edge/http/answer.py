"""Answers on their way out: a thread sends one as fast as its peer takes it; what a slow peer leaves, one thread sends for all.

An answer of known length whose peer has been waited for is taken from its working thread (`HandedOver`) and goes on in
`SlowAnswers`, so that no number of slow readers holds the threads that work.
"""

import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

from gunicorn import util
from gunicorn.http.wsgi import Response

from broker.edge.door import tls
from broker.edge.door.calls import Calls
from broker.edge.door.rate import MinimumRate
from broker.edge.door.shares import Shares
from broker.edge.door.waiting import log_bug

_PATIENCE = 1.0             # seconds a thread waits for a peer that takes its answer slowly, in all
_LOOK = 250                 # milliseconds between two looks whether it does
_FAST = 1 << 20             # bytes a second that are not slow
_TOGETHER = 64 << 10        # bytes that are sent in one go with the head
_ANSWERS = 256              # slow answers at once in a process
_HELD = 64 << 20            # bytes of them in memory


@runtime_checkable
class SetAside(Protocol):
    """An answer's body that holds something only while a thread works for it."""

    def set_aside(self) -> None:
        """Return that back; the rest is sent without a thread of its own."""
        ...


class HandedOver(Exception):
    """The peer takes its answer slowly: `rest` is what was not sent of the piece at hand."""

    def __init__(self, rest: memoryview) -> None:
        super().__init__("the answer goes on without a thread")
        self.rest = rest


class Answer(Response):
    """gunicorn's response, sent without waiting for a slow peer for ever.

    `hurried()` says whether others need the thread; `silence` is the longest time in seconds a peer may take nothing.
    """

    def __init__(self, req: Any, sock: socket.socket, cfg: Any, silence: float, hurried: Callable[[], bool]) -> None:
        super().__init__(req, sock, cfg)
        self._silence, self._hurried = silence, hurried
        self.headers_sent = False
        self._head = b""
        self.waited, self.out = 0.0, 0

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Take the headers; `Connection: close` of the application's is obeyed, which gunicorn drops."""
        if ("Connection", "close") in headers:
            self.force_close()
        super().process_headers(headers)

    def send_headers(self) -> None:
        """Make the head; it leaves with the first piece of the body."""
        if not self.headers_sent:
            lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
            self._head = util.to_bytestring("".join(lines), "latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        head, self._head = self._head, b""
        if len(data) <= _TOGETHER:
            self._send(head + data)
            return
        try:
            self._send(head)
        except HandedOver as over:
            raise HandedOver(memoryview(bytes(over.rest) + data)) from None
        self._send(data)

    def close(self) -> None:
        """End the answer."""
        self.send_headers()
        head, self._head = self._head, b""
        self._send(head + (b"0\r\n\r\n" if self.chunked else b""))

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        self.sock.setblocking(False)
        while rest:
            try:
                sent = tls.send(self.sock, rest)
            except tls.NOT_NOW:
                self._await(rest)
            else:
                self.out += sent
                rest = rest[sent:]

    def _await(self, rest: memoryview) -> None:
        """Wait for the peer. Raise `HandedOver` when that takes too long, `TimeoutError` where it cannot be handed over."""
        ready = select.poll()
        ready.register(self.sock, select.POLLOUT)
        begun = time.monotonic()
        while not ready.poll(_LOOK):
            stalled = time.monotonic() - begun
            if self.chunked and stalled >= self._silence:
                raise TimeoutError("the peer does not take its answer")
            if not self.chunked and stalled >= _PATIENCE:
                break
        self.waited += time.monotonic() - begun
        slow = time.monotonic() - begun >= _PATIENCE or self.out < self.waited * _FAST
        if not self.chunked and self.waited >= _PATIENCE and (slow or self._hurried()):
            raise HandedOver(rest)


class _Slow:
    """An answer that goes on without a thread of its own. Compared by identity."""

    def __init__(self, answer: Answer, peer: str, rest: memoryview, pieces: Iterator[bytes], rate: MinimumRate,
                 ended: Callable[[bool], None]) -> None:
        self.sock, self.peer, self.rest, self.pieces, self._rate = answer.sock, peer, rest, pieces, rate
        self.moved = time.monotonic()
        self._begun, self._out = self.moved - answer.waited, answer.out
        self.ended = ended

    @property
    def speed(self) -> float:
        """Bytes a second its peer has taken since it was first waited for."""
        return self._out / max(time.monotonic() - self._begun, 0.001)

    def go_on(self) -> bool:
        """Send what the peer takes now; return whether that was all. Raise OSError when it cannot go on."""
        if not self.rest:
            piece = next(filter(None, self.pieces), b"")
            if not piece:
                return True
            self.rest = memoryview(piece)
        sent = tls.send(self.sock, self.rest)
        self.rest = self.rest[sent:]
        self._out += sent
        now = time.monotonic()
        self._rate.received(now - self.moved, sent)
        self.moved = now
        return False


class SlowAnswers:
    """One thread that sends to all peers that take their answers slowly.

    Each must take `min_rate` bytes a second and something within `silence` seconds. Where there are too many, the slowest of
    the peer that has most is given up.
    """

    def __init__(self, min_rate: int, silence: float) -> None:
        self._min_rate, self._silence = min_rate, silence
        self._selector = selectors.DefaultSelector()
        self._calls = Calls(self._selector)
        self._all: Shares[_Slow] = Shares()

    def start(self) -> None:
        """Begin; the thread ends with its process."""
        threading.Thread(target=self._run, name="slow-answers", daemon=True).start()

    def take(self, answer: Answer, peer: str, rest: memoryview, pieces: Iterator[bytes], ended: Callable[[bool], None]) -> None:
        """Go on with an answer, from any thread. `ended(whole)` is called once, in another thread."""
        rate = MinimumRate(self._min_rate, self._silence)
        self._calls.leave(partial(self._add, _Slow(answer, peer, rest, pieces, rate, ended)))

    def _add(self, slow: _Slow) -> None:
        self._all.add(slow)
        self._selector.register(slow.sock, selectors.EVENT_WRITE, partial(self._go_on, slow))
        while len(self._all) > _ANSWERS or (len(self._all) > 1 and sum(len(one.rest) for one in self._all) > _HELD):
            self._end(min(self._all.crowd(), key=lambda one: one.speed), whole=False)

    def _run(self) -> None:
        looked = time.monotonic()
        while True:
            for key, _ in self._selector.select(1.0):
                key.data(key.fileobj)
            now = time.monotonic()
            if now - looked >= 1.0:
                looked = now
                for slow in [one for one in self._all if now - one.moved >= self._silence]:
                    self._end(slow, whole=False)

    def _go_on(self, slow: _Slow, _sock: socket.socket) -> None:
        if slow not in self._all:       # given up since the selector spoke
            return
        try:
            whole = slow.go_on()
        except tls.NOT_NOW:
            return
        except OSError:
            self._end(slow, whole=False)
        except Exception as error:  # noqa: BLE001 - this thread is everybody's: a bug in one answer ends that answer
            log_bug(error)
            self._end(slow, whole=False)
        else:
            if whole:
                self._end(slow, whole=True)

    def _end(self, slow: _Slow, *, whole: bool) -> None:
        self._all.discard(slow)
        self._selector.unregister(slow.sock)
        try:
            slow.ended(whole)
        except Exception as error:  # noqa: BLE001 - as above
            log_bug(error)
