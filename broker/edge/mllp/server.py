"""HL7 v2 over MLLP, the accepting side (ITI TF-2 C.2): messages of a connection are answered strictly in order.

A connection waits in a room until a whole message is here, then has a thread, which stays for `_STAY` seconds of silence.

A connection that stays without a whole message for `idle_timeout` seconds, is silent for `io_timeout` seconds in the middle
of one, or sends one at less than `min_rate`, is closed; so is one that begins a message over `max_message` bytes, after its
answer. Every other message is answered: what cannot be dispatched with AR, a bug with AE 207. An ACK is never answered. A
block that never ends with FS CR is not: the log says so when its connection ends, or when the next block begins.

A connection beyond `mllp_connections` takes the place of another that has no message at work: first of those that never
had one, then of those that are served now and then; among them the one that waits longest. Where all are at work, the address
that has most of them gives one back to another that has fewer: what it sent is carried out, and answered when it is repeated.
"""

import re
import selectors
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog

from broker.config.settings import Server as ServerSettings
from broker.config.settings import Settings
from broker.edge.door import tls
from broker.edge.door.calls import Calls
from broker.edge.door.rate import MinimumRate
from broker.edge.door.waiting import Waiting, WaitingRoom, port_of
from broker.model.caller import Caller, Certificate
from broker.model.errors import BrokerError, Hl7Code, Rejected, TooLarge
from broker.model.message_id import MessageId
from broker.model.transaction import ServedTransaction
from broker.security.gate import Gate, reason
from broker.wire.hl7v2 import Deframer, Message, frame, parse, parse_header, write_ack, write_broken, write_nack

Hl7Transaction = ServedTransaction[Any, Message, Any, Any, bytes]     # of whatever actor

log = structlog.get_logger("broker.mllp")

_POLL = 0.2
_PIECE = 1 << 16
_PATIENCE = 2.0
_LAST_ROUNDS = 100      # looks at what has come already when we stop
_STAY = 1.0     # seconds a thread waits for the next message of a connection before it lets it go
_SHOWN = 50     # characters of a control id in the log
_VERSION = re.compile(r"2\.[0-9](\.[0-9])?")
_PROCESSING = frozenset("PTD")


class _Connection(Waiting):
    """A connection with what came of its next message. `since` is when it began to wait for that (monotonic seconds)."""

    def __init__(self, sock: socket.socket, address: str, settings: ServerSettings) -> None:
        super().__init__(sock, address)
        self.frames = Deframer(settings.max_message)
        self.since = self.heard_at = time.monotonic()
        self.served = self.working = False      # whether it ever had a message, and whether one is at work
        self._settings = settings
        self._rate = MinimumRate(settings.min_rate, settings.io_timeout)

    @property
    def patience(self) -> float:
        """Seconds for which more may be waited for; none are left at zero and below."""
        left = self.since + self._settings.idle_timeout - time.monotonic()
        return min(left, self._settings.io_timeout) if self.frames.inside else left

    def feed(self, piece: bytes) -> None:
        """Add what came. Raise `TimeoutError` when a message comes too slowly."""
        now = time.monotonic()
        if self.frames.inside:
            self._rate.received(now - self.heard_at, len(piece))
        else:
            self._rate.begin()
        self.heard_at = now
        self.frames.feed(piece)

    def rest(self) -> None:
        """Begin to wait for the next message: this one is answered."""
        self.since = self.heard_at = time.monotonic()       # our own work does not count as a slow peer
        self.working = False

    def lost(self) -> None:
        """Log that the connection ends in the middle of a message."""
        if self.frames.inside:
            why = "the block ends with FS, without the CR behind it" if self.frames.lacks_cr else "the block has no end"
            log.warning("message lost", reason=why, peer=self.address)


class MllpServer:
    """Serves the HL7 v2 rows on one address, as the `node` (application, facility) that its answers come from.

    The thread of `serve` accepts and waits; a connection with something to do has a thread of its own.
    """

    def __init__(self, rows: Sequence[Hl7Transaction], gate: Gate, settings: Settings, node: tuple[str, str]) -> None:
        self._rows = {message.name: served for served in rows for message in served.row.messages}
        self._types = {name.split("^")[0] for name in self._rows}
        self._gate, self._settings, self._node = gate, settings.server, node
        self._port = port_of("tls.mllp", settings.tls.mllp, settings.tls.handshake)
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._room: WaitingRoom[_Connection] = WaitingRoom(self._selector, self, self._port)
        self._calls = Calls(self._selector)
        self._open: dict[_Connection, None] = {}
        self._threads: set[threading.Thread] = set()
        self._guard = threading.Lock()

    def listen(self) -> int:
        """Bind the address, so that connections queue up, and return its port. Raise OSError when it is taken."""
        if self._listener is None:
            self._listener = socket.create_server((self._settings.host, self._settings.mllp_port), backlog=1024)
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        port: int = self._listener.getsockname()[1]
        return port

    def serve(self, stop: threading.Event) -> None:
        """Serve until `stop` is set; then answer what was received whole and close."""
        port = self.listen()
        assert self._listener is not None
        log.info("listening", host=self._settings.host, port=port)
        with self._listener:
            while not stop.is_set():
                self._step(_POLL)
                self._room.look()
            self._selector.unregister(self._listener)
        self._drain()

    def _step(self, timeout: float) -> bool:
        """Attend to whoever says something within `timeout` seconds; return whether somebody did."""
        events = self._selector.select(timeout)
        for key, _ in events:
            key.data(key.fileobj)
        return bool(events)

    # --- what the waiting room asks for

    def drop(self, one: _Connection) -> None:
        """Close a connection that waits."""
        self._room.leave(one)
        one.lost()
        self._close(one)

    def late(self, one: _Connection) -> None:
        """Close a connection that has waited for too long."""
        log.info("closed", reason="deadline")
        self.drop(one)

    turn_away = drop

    # --- connections that wait

    def _accept(self, listener: socket.socket) -> None:
        for sock, address in self._room.accept(listener):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one = _Connection(sock, str(address[0]), self._settings)
            if self._admit(one):
                self._room.admit(one, self._hear, self._settings.idle_timeout)
                continue
            log.warning("connection refused", reason="limit", limit=self._settings.mllp_connections)
            sock.close()

    def _admit(self, one: _Connection) -> bool:
        """Enter a connection, in place of another where there are enough. False when nobody gives way."""
        with self._guard:
            if len(self._open) >= self._settings.mllp_connections:
                loser = self._loser(one.peer)
                if loser is None:
                    return False
                log.info("closed", reason="another connection needs the place")
                del self._open[loser]
                tls.cut(loser.sock, socket.SHUT_RDWR)       # whoever waits for it finds it closed
            self._open[one] = None
        return True

    def _loser(self, peer: str) -> _Connection | None:
        """Return whose place a newcomer of this peer gets."""
        waiting = [one for one in self._open if not one.working]
        if waiting:
            return min(waiting, key=lambda one: (one.served, one.since))
        held = Counter(one.peer for one in self._open)
        crowd, most = held.most_common(1)[0]
        if most <= held[peer] + 1:
            return None
        return next(one for one in self._open if one.peer == crowd)

    def _hear(self, one: _Connection) -> None:
        """Take what came; what may be a whole message, or is too long for one, gets a thread."""
        piece = tls.receive(one.sock, _PIECE)
        if piece is None:
            return
        if not piece:
            self.drop(one)
            return
        try:
            one.feed(piece)
        except TimeoutError:
            self.late(one)
            return
        if one.frames.ready:
            self._room.leave(one)
            self._begin(one)
        else:
            self._room.hold(one, one.patience)

    def _begin(self, one: _Connection) -> None:
        thread = threading.Thread(target=self._converse, args=(one,), name="mllp", daemon=True)
        try:
            thread.start()
        except RuntimeError:        # the system gives no more threads
            log.warning("closed", reason="no thread can be started")
            self.drop(one)
            return
        with self._guard:
            self._threads = {other for other in self._threads if other.is_alive()} | {thread}

    def _go_back(self, one: _Connection) -> None:
        """Have a connection wait again that a thread was for."""
        self._room.wait(one, self._hear, one.patience)
        self._room.attend(one)

    def _drain(self) -> None:
        """Answer what has come whole, and close."""
        rounds = _LAST_ROUNDS
        while rounds and self._step(0.0):
            rounds -= 1
        for one in list(self._room):
            self.drop(one)
        with self._guard:
            working, threads = list(self._open), self._threads
        for one in working:
            tls.cut(one.sock, socket.SHUT_RD)       # ends its wait for the next message, not its answer
        deadline = time.monotonic() + self._settings.io_timeout
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))
        for one in list(self._open):
            self._close(one)

    def _close(self, one: _Connection) -> None:
        tls.close(one.sock)
        with self._guard:
            self._open.pop(one, None)

    # --- connections with a thread

    def _converse(self, one: _Connection) -> None:
        """Answer what a connection sends until it is silent for a while. For a thread of its own."""
        goes_on = False
        try:
            goes_on = self._messages(one)
        except TimeoutError:
            one.lost()
            log.info("closed", reason="deadline")
        except OSError as error:
            log.info("closed", reason=type(error).__name__)
        finally:
            if goes_on:
                self._calls.leave(partial(self._go_back, one))
            else:
                self._close(one)

    def _messages(self, one: _Connection) -> bool:
        """Return whether the connection goes on."""
        frames = one.frames
        while True:
            try:
                data = frames.take()
            except TooLarge as error:
                log.warning("closed", reason=str(error))
                self._last_word(one.sock, frame(self._unread(frames.head, error)))
                return False
            if frames.lost:
                log.warning("message lost", reason="the next block began before its end (FS CR)", peer=one.address)
                frames.lost = 0
            if data is not None:
                one.working = one.served = True
                reply = self.answer(data, one.address, one.certificate)
                if reply:
                    one.sock.settimeout(self._settings.io_timeout)
                    one.sock.sendall(frame(reply))
                one.rest()
                continue
            piece = self._receive(one)
            if not piece:
                return piece is None
            one.feed(piece)

    def _receive(self, one: _Connection) -> bytes | None:
        """Return the next bytes, none when the peer has ended; None when there is no reason to wait for them with a thread."""
        one.sock.settimeout(max(min(one.patience, _STAY), 0.001))
        try:
            piece = one.sock.recv(_PIECE)
        except TimeoutError:
            return None
        if not piece:
            one.lost()
        return piece

    def _last_word(self, sock: socket.socket, reply: bytes) -> None:
        """Send and close the sending side, then let the peer finish: closing on unread bytes would take the reply back."""
        sock.settimeout(self._settings.io_timeout)
        sock.sendall(reply)
        tls.finish(sock)
        deadline = time.monotonic() + _PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(_PIECE):
                return

    def answer(self, data: bytes, address: str, certificate: Certificate | None = None) -> bytes:
        """Return the reply to one unframed message; nothing to an acknowledgement."""
        try:
            message = parse(data, self._node)
        except BrokerError as error:
            log.info("refused", reason=reason(error))
            return self._unread(data, error)
        if message.is_doubtful:
            log.warning(
                "doubtful character set", reason="the bytes are valid UTF-8, and were read as labelled",
                charset=message.form.charset, control_id=message.control_id[:_SHOWN], peer=address)
        if message.msh.get(9) == "ACK":
            log.warning("an acknowledgement came where messages are taken")
            return b""
        try:
            return self._dispatch(message, address, certificate)
        except BrokerError as error:
            return write_ack(message, MessageId.now(), error)
        except Exception as error:                      # noqa: BLE001 - a bug ends one message, never the connection
            places = [f"{step.filename}:{step.lineno}" for step in traceback.extract_tb(error.__traceback__)]
            log.error("internal error", message=message.name[:7], error=type(error).__name__, at=places[-6:])
            return write_broken(message, MessageId.now())

    def _dispatch(self, message: Message, address: str, certificate: Certificate | None) -> bytes:
        msh = message.msh
        served = self._find(message)
        if not message.control_id:
            raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no control id", "MSH^1^10")
        caller = Caller(
            node=f"{msh.get(4)}|{msh.get(3)}", local_node=f"{msh.get(6)}|{msh.get(5)}", address=address,
            certificate=certificate)
        return self._gate.perform(served, message, caller)

    def _find(self, message: Message) -> Hl7Transaction:
        """Return the row of a message. Raise `Rejected` (200 to 203) as HL7 v2.5 2.9.2.2 and table 0357 say.

        A message of one segment is refused (100) before its last fields are looked at: they hold the rest of it.
        """
        msh = message.msh
        if msh.get(9) not in self._types:
            raise Rejected(Hl7Code.UNSUPPORTED_MESSAGE_TYPE, "message type is not served", "MSH^1^9^1^1")
        served = self._rows.get(message.name)
        if served is None:
            raise Rejected(Hl7Code.UNSUPPORTED_EVENT, "trigger event is not served", "MSH^1^9^1^2")
        if len(message.segments) == 1:
            raise Rejected(Hl7Code.SEGMENT_SEQUENCE, "there is no segment behind MSH: a segment ends with CR", "MSH^1")
        if msh.get(11) not in _PROCESSING:
            raise Rejected(Hl7Code.UNSUPPORTED_PROCESSING_ID, "processing id is not P, T or D", "MSH^1^11")
        if not _VERSION.fullmatch(msh.get(12)):
            raise Rejected(Hl7Code.UNSUPPORTED_VERSION, "version is not 2.x", "MSH^1^12")
        return served

    def _unread(self, data: bytes, error: BrokerError) -> bytes:
        """Return the answer to what is no message, or was not read to its end: to its control id where there is a header."""
        header = parse_header(data, self._node)
        return write_ack(header, MessageId.now(), error) if header else write_nack(MessageId.now(), error, self._node)
