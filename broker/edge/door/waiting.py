"""Where connections of every wire wait for their peer: a descriptor each, no thread, and a deadline.

A connection of a TLS port shakes hands here first. Whoever makes a room says what happens to one that is late, that has to
make room for another, or that a bug has hit; the bytes are read by the callback that a connection waits with ("enough?").
"""

import selectors
import socket
import ssl
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import structlog

from broker.config.settings import TlsPort
from broker.edge.door import tls
from broker.edge.door.shares import Shares, peer_of
from broker.model.caller import Certificate
from broker.security.tls import server_context

_AT_ONCE = 64           # connections accepted in a row
_PAUSE = 0.05           # seconds without accepting when there are no descriptors left
_LOOK = 0.1             # seconds between two looks at who waited too long
_FAREWELL = 1.0         # seconds a peer gets to read why its handshake failed
_PIECE = 64 << 10
_QUIET = 1.0            # seconds between two log lines about one address
_ADDRESSES = 2000       # addresses whose last line is remembered


class Waiting:
    """A connection that may wait in a room. `until` ends that (monotonic seconds)."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.sock = sock
        self.address = address
        self.peer = peer_of(address)
        self.until = 0.0
        self.polled = False         # whether the room listens to it
        self.shaking = False        # whether its handshake is not done, or has failed
        self.certificate: Certificate | None = None
        self.heard: Callable[[Any], None] = _nothing


def _nothing(_one: Waiting) -> None:
    """Be the callback of a connection that never waited."""


T = TypeVar("T", bound=Waiting)
T_contra = TypeVar("T_contra", bound=Waiting, contravariant=True)


class Host(Protocol[T_contra]):
    """Whose room it is."""

    def drop(self, one: T_contra, /) -> None:
        """Close a connection, which leaves the room first."""
        ...

    def turn_away(self, one: T_contra, /) -> None:
        """End a connection that another one needs the place of."""
        ...

    def late(self, one: T_contra, /) -> None:
        """End the waiting of a connection whose deadline has passed."""
        ...


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of a port; a handshake may take `seconds`."""

    context: ssl.SSLContext
    seconds: float


def port_of(name: str, port: TlsPort, seconds: float) -> Tls | None:
    """Return the TLS of a port as its section says, None for a plain one. Raise `ConfigError` as `server_context` does."""
    context = server_context(name, port)
    return None if context is None else Tls(context, seconds)


class WaitingRoom(Generic[T]):
    """For the thread that polls `selector` and calls what is registered there, with its socket. Connections by peer."""

    def __init__(self, selector: selectors.BaseSelector, host: Host[T], port: Tls | None) -> None:
        self._selector, self._host, self._port = selector, host, port
        self._all: Shares[T] = Shares()
        self._looked = 0.0
        self._log = QuietLog()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

    def __contains__(self, one: T) -> bool:
        return one in self._all

    def accept(self, listener: socket.socket) -> Iterator[tuple[socket.socket, Any]]:
        """Return the connections that wait at the door, with their addresses; it costs a descriptor each."""
        for _ in range(_AT_ONCE):
            try:
                yield listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log.warning("not accepted", "", error.strerror or type(error).__name__)
                if not self.evict():
                    time.sleep(_PAUSE)
                return

    def admit(self, one: T, heard: Callable[[T], None], seconds: float) -> None:
        """Have a new connection wait, as `wait` does; on a TLS port from the end of its handshake on."""
        if self._port is None:
            self.wait(one, heard, seconds)
            return
        one.shaking = True
        try:
            one.sock = tls.wrap(one.sock, self._port.context)
        except OSError:
            self._host.drop(one)
            return
        self.wait(one, partial(self._shake, heard, seconds), self._port.seconds)

    def wait(self, one: T, heard: Callable[[T], None], seconds: float) -> None:
        """Have `heard` called whenever something has come, for `seconds` from now at most."""
        one.sock.setblocking(False)
        one.heard = heard
        self.hold(one, seconds)
        one.polled = True
        self._selector.register(one.sock, selectors.EVENT_READ, partial(self._event, one))

    def attend(self, one: T) -> None:
        """Call who listens to it, where OpenSSL has read more than was asked of it: no poller will speak of that.

        For whoever has a connection wait of which something was read before.
        """
        if one.polled and tls.has_more(one.sock):
            self._event(one, None)

    def hold(self, one: T, seconds: float) -> None:
        """Have it wait for something else than its peer."""
        one.until = time.monotonic() + seconds
        self._all.add(one)

    def leave(self, one: T) -> None:
        """Let it go; one that is not here is no error."""
        self._all.discard(one)
        if one.polled:
            one.polled = False
            self._selector.unregister(one.sock)

    def look(self) -> None:
        """End what waited too long."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        for one in [one for one in self._all if one.until <= now]:
            if not one.shaking:
                self._host.late(one)
                continue
            self._log.warning("TLS handshake failed", one.address, "it took too long")
            self._host.drop(one)

    def evict(self) -> bool:
        """Have the one that waits longest, of the peer that has most, make room; False when nobody waits."""
        crowd = self._all.crowd()
        if not crowd:
            return False
        (self._host.drop if crowd[0].shaking else self._host.turn_away)(crowd[0])
        return True

    def _event(self, one: T, _sock: object) -> None:
        """Call who listens, as long as there is more of what came: a poller knows nothing of what OpenSSL has read."""
        try:
            while one.polled:       # another event of the same round may have let it go
                one.heard(one)
                if not (one.polled and tls.has_more(one.sock)):     # what is with a thread is not touched
                    return
        except Exception as error:  # noqa: BLE001 - this thread is everybody's: a bug with one connection ends that connection
            log_bug(error)
            self._host.drop(one)

    def _shake(self, heard: Callable[[T], None], seconds: float, one: T) -> None:
        assert isinstance(one.sock, ssl.SSLSocket)
        try:
            wanted = tls.shake(one.sock)
        except OSError as error:
            self._fail(one, error)
            return
        if wanted:
            self._selector.modify(one.sock, wanted, partial(self._event, one))
            return
        one.shaking = False
        one.certificate = tls.certificate_of(one.sock)
        self.leave(one)
        self.wait(one, heard, seconds)
        self.attend(one)

    def _fail(self, one: T, error: OSError) -> None:
        """Give up a handshake. The peer gets a moment to read the alert: a close over unread bytes would take it back."""
        if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            self._host.drop(one)            # it went away, as a probe of the port does, and our own check of health
            return
        self._log.warning("TLS handshake failed", one.address, error.reason or type(error).__name__)
        self.leave(one)
        try:
            one.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._host.drop(one)
        else:
            self.wait(one, self._pass_over, _FAREWELL)

    def _pass_over(self, one: T) -> None:
        if tls.receive(one.sock, _PIECE) == b"":
            self._host.drop(one)


class QuietLog:
    """Warnings about peers: of one address a line a second, which counts those that have none."""

    def __init__(self, name: str = "broker.door") -> None:
        self._log = structlog.get_logger(name)
        self._told: dict[str, tuple[float, int]] = {}

    def warning(self, event: str, address: str, reason: str) -> None:
        """Log a line, or count it."""
        now = time.monotonic()
        told, silent = self._told.get(address, (0.0, 0))
        if now - told < _QUIET:
            self._told[address] = told, silent + 1
            return
        if len(self._told) >= _ADDRESSES:
            self._told.clear()
        self._told[address] = now, 0
        self._log.warning(event, address=address, reason=reason, **({"others": silent} if silent else {}))


def log_bug(error: Exception) -> None:
    """Log a bug: its kind and where it happened, without the peer's words."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    structlog.get_logger("broker.door").error("bug", error=type(error).__name__, frames=frames)
