"""HL7 v2 over MLLP, the initiating side: one message, one answer, on a connection that is kept (ITI TF-2 C.2.1)."""

import socket
import ssl
import threading
import time

from broker.config.settings import OutboundSection
from broker.model.errors import TooLarge, Unavailable
from broker.security.tls import client_context
from broker.wire.hl7v2 import Deframer, frame

_PIECE = 65536


class MllpCall:
    """One peer. A message is sent on the connection of the one before; one that the peer has closed meanwhile is opened anew.

    Safe to share between threads: one message at a time.
    """

    def __init__(self, host: str, port: int, settings: OutboundSection, *, tls: bool = False) -> None:
        self._address, self._settings = (host, port), settings
        self._tls = client_context(settings) if tls else None
        self._guard = threading.Lock()
        self._connection: socket.socket | None = None

    def __call__(self, message: bytes) -> bytes:
        """Send a message (encoded, without the frame); return the answer's bytes, without the frame.

        Raise `Unavailable` when the peer is away, silent for too long or gone before its answer, or answers too much.
        """
        with self._guard:
            try:
                return self._again(message) if self._in_step() else self._first(message)
            except (OSError, TooLarge) as error:
                self.close()
                raise Unavailable(f"the HL7 v2 receiver at {self._where} ({_cause(error)})") from error

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @property
    def _where(self) -> str:
        return ":".join(map(str, self._address))

    def _in_step(self) -> bool:
        """Say whether there is a connection on which nothing has come since the last answer; close any other.

        A second answer to the message before would be taken for the one to the next.
        """
        if self._connection is None or _quiet(self._connection):
            return self._connection is not None
        self.close()
        return False

    def _again(self, message: bytes) -> bytes:
        """Use the connection that is there. Where it ended before any byte of an answer, the message goes on a new one."""
        try:
            return self._exchange(message)
        except (ConnectionError, ssl.SSLError):
            self.close()
            return self._first(message)

    def _first(self, message: bytes) -> bytes:
        connection = socket.create_connection(self._address, self._settings.connect)
        self._connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            self._connection = self._tls.wrap_socket(connection, server_hostname=self._address[0])
        return self._exchange(message)

    def _exchange(self, message: bytes) -> bytes:
        connection = self._connection
        assert connection is not None
        connection.settimeout(self._settings.silence)
        connection.sendall(frame(message))          # one send: some receivers take two packets for two messages
        frames = Deframer(self._settings.max_answer)
        begun = False
        until = time.monotonic() + self._settings.silence       # for the whole of it: it may come byte by byte
        while (answer := frames.take()) is None:
            connection.settimeout(max(until - time.monotonic(), 0.001))
            try:
                data = connection.recv(_PIECE)
            except ConnectionError:
                data = b""
            if not data:
                raise _Ended("ended in the middle of its answer") if begun else ConnectionResetError("no answer")
            begun = True
            frames.feed(data)
        return answer


def _quiet(connection: socket.socket) -> bool:
    """Say whether neither bytes nor the end of a connection wait to be read."""
    connection.settimeout(0)
    try:
        connection.recv(1)
    except OSError as error:
        return isinstance(error, (BlockingIOError, ssl.SSLWantReadError))
    return False


class _Ended(OSError):
    """The connection ended after a part of the answer: the message was read, and is not sent again at once."""


def _cause(error: Exception) -> str:
    return str(error) if isinstance(error, (TooLarge, _Ended)) else type(error).__name__
