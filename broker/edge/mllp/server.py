"""HL7 v2 over MLLP, the accepting side (ITI TF-2 C.2): one thread per connection, its messages strictly in order.

A connection that stays without a whole message for `idle_timeout` seconds, or is silent for `io_timeout` seconds in
the middle of one, is closed; so is one that begins a message over `max_message` bytes, after its answer. Every other
message is answered: what cannot be dispatched with AR, a bug with AE 207. An ACK is never answered. A block that never ends
with FS CR is not: the log says so when its connection ends, or when the next block begins.

A connection beyond `mllp_connections` takes the place of another that has no message at work: first of those that never
had one, then of those that are served now and then; among them the one that waits longest. Where all are at work, the address
that has most of them gives one back to another that has fewer: what it sent is carried out, and answered when it is repeated.
"""

import contextlib
import re
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from broker.config.settings import Settings
from broker.edge.door.shares import peer_of
from broker.model.caller import Caller
from broker.model.errors import BrokerError, Hl7Code, Rejected, TooLarge
from broker.model.stamp import Stamp
from broker.model.transaction import ServedTransaction
from broker.security.gate import Gate, reason
from broker.wire.hl7v2 import Deframer, Message, frame, parse, parse_header, write_ack, write_broken, write_nack

Hl7Transaction = ServedTransaction[Any, Message, Any, Any, bytes]     # of whatever actor

log = structlog.get_logger("broker.mllp")

_POLL = 0.2
_PIECE = 1 << 16
_PATIENCE = 2.0
_SHOWN = 50     # characters of a control id in the log
_VERSION = re.compile(r"2\.[0-9](\.[0-9])?")
_PROCESSING = frozenset("PTD")


@dataclass(slots=True)
class _Standing:
    """How a connection stands: whose it is, since when it waits, whether it ever had a message, whether one is at work."""

    since: float
    peer: str = ""
    served: bool = False
    working: bool = False


class MllpServer:
    """Serves the HL7 v2 rows on one address, as the `node` (application, facility) that its answers come from."""

    def __init__(self, rows: Sequence[Hl7Transaction], gate: Gate, settings: Settings, node: tuple[str, str]) -> None:
        self._rows = {message.name: served for served in rows for message in served.row.messages}
        self._types = {name.split("^")[0] for name in self._rows}
        self._gate, self._settings, self._node = gate, settings.server, node
        self._listener: socket.socket | None = None
        self._open: dict[socket.socket, _Standing] = {}
        self._guard = threading.Lock()

    def listen(self) -> int:
        """Bind the address, so that connections queue up, and return its port. Raise OSError when it is taken."""
        if self._listener is None:
            self._listener = socket.create_server((self._settings.host, self._settings.mllp_port), backlog=1024)
        port: int = self._listener.getsockname()[1]
        return port

    def serve(self, stop: threading.Event) -> None:
        """Serve until `stop` is set; then answer what was received whole and close."""
        port = self.listen()
        assert self._listener is not None
        log.info("listening", host=self._settings.host, port=port)
        threads: set[threading.Thread] = set()
        with self._listener:
            self._listener.settimeout(_POLL)
            while not stop.is_set():
                threads = {thread for thread in threads if thread.is_alive()}
                accepted = self._accept()
                if accepted is None:
                    continue
                if not self._admit(*accepted):
                    log.warning("connection refused", reason="limit", limit=self._settings.mllp_connections)
                    accepted[0].close()
                    continue
                thread = threading.Thread(target=self._converse, args=accepted[:1], name="mllp", daemon=True)
                threads.add(thread)
                thread.start()
        self._drain(threads)

    def _admit(self, accepted: socket.socket, peer: str) -> bool:
        """Enter a connection, in place of another where there are enough. False when nobody gives way."""
        with self._guard:
            if len(self._open) >= self._settings.mllp_connections:
                loser = self._loser(peer)
                if loser is None:
                    return False
                log.info("closed", reason="another connection needs the place")
                del self._open[loser]
                with contextlib.suppress(OSError):
                    loser.shutdown(socket.SHUT_RDWR)        # its thread closes it
            self._open[accepted] = _Standing(time.monotonic(), peer)
        return True

    def _loser(self, peer: str) -> socket.socket | None:
        """Return whose place a newcomer of this peer gets."""
        waiting = [(standing.served, standing.since, n, connection)
                   for n, (connection, standing) in enumerate(self._open.items()) if not standing.working]
        if waiting:
            return min(waiting)[-1]
        held = Counter(standing.peer for standing in self._open.values())
        crowd, most = held.most_common(1)[0]
        if most <= held[peer] + 1:
            return None
        return next(connection for connection, standing in self._open.items() if standing.peer == crowd)

    def _accept(self) -> tuple[socket.socket, str] | None:
        assert self._listener is not None
        try:
            accepted, address = self._listener.accept()
        except TimeoutError:
            return None
        except OSError as error:                        # out of descriptors, or the peer is gone already
            log.warning("not accepted", reason=error.strerror)
            time.sleep(_POLL)
            return None
        return accepted, peer_of(address[0])

    def _drain(self, threads: set[threading.Thread]) -> None:
        with self._guard:
            waiting = list(self._open)
        for connection in waiting:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)     # ends its wait for the next message, not its answer
        deadline = time.monotonic() + self._settings.io_timeout
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._messages(connection, str(connection.getpeername()[0]))
        except TimeoutError:
            log.info("closed", reason="deadline")
        except OSError as error:
            log.info("closed", reason=type(error).__name__)
        finally:
            with self._guard:
                self._open.pop(connection, None)

    def _messages(self, connection: socket.socket, address: str) -> None:
        frames, standing = Deframer(self._settings.max_message), self._standing(connection)
        while True:
            try:
                data = frames.take()
            except TooLarge as error:
                log.warning("closed", reason=str(error))
                self._last_word(connection, frame(self._unread(frames.head, error)))
                return
            if frames.lost:
                log.warning("message lost", reason="the next block began before its end (FS CR)", peer=address)
                frames.lost = 0
            if data is not None:
                standing.working = standing.served = True
                reply = self.answer(data, address)
                if reply:
                    connection.settimeout(self._settings.io_timeout)
                    connection.sendall(frame(reply))
                standing.since, standing.working = time.monotonic(), False
                continue
            piece = self._receive(connection, frames, standing, address)
            if not piece:
                return
            frames.feed(piece)

    def _receive(self, connection: socket.socket, frames: Deframer, standing: _Standing, address: str) -> bytes:
        """Return the next bytes, none when the peer has ended. Raise TimeoutError when it was silent for too long."""
        left = standing.since + self._settings.idle_timeout - time.monotonic()
        connection.settimeout(max(min(left, self._settings.io_timeout) if frames.inside else left, 0.001))
        piece = b""
        try:
            piece = connection.recv(_PIECE)
        finally:
            if not piece and frames.inside:
                why = "the block ends with FS, without the CR behind it" if frames.lacks_cr else "the block has no end"
                log.warning("message lost", reason=why, peer=address)
        return piece

    def _standing(self, connection: socket.socket) -> _Standing:
        with self._guard:
            return self._open.get(connection) or _Standing(time.monotonic())

    def _last_word(self, connection: socket.socket, reply: bytes) -> None:
        """Send and close the sending side, then let the peer finish: closing on unread bytes would take the reply back."""
        connection.settimeout(self._settings.io_timeout)
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(_PIECE):
                return

    def answer(self, data: bytes, address: str) -> bytes:
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
            return self._dispatch(message, address)
        except BrokerError as error:
            return write_ack(message, Stamp.now(), error)
        except Exception as error:                      # noqa: BLE001 - a bug ends one message, never the connection
            places = [f"{step.filename}:{step.lineno}" for step in traceback.extract_tb(error.__traceback__)]
            log.error("internal error", message=message.name[:7], error=type(error).__name__, at=places[-6:])
            return write_broken(message, Stamp.now())

    def _dispatch(self, message: Message, address: str) -> bytes:
        msh = message.msh
        served = self._find(message)
        if not message.control_id:
            raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "no control id", "MSH^1^10")
        caller = Caller(
            node=f"{msh.get(4)}|{msh.get(3)}", local_node=f"{msh.get(6)}|{msh.get(5)}", address=address)
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
        return write_ack(header, Stamp.now(), error) if header else write_nack(Stamp.now(), error, self._node)
