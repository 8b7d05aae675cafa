"""HL7 v2 over MLLP, the initiating side: one message, one answer (ITI-8, ITI-9)."""

import socket

from broker.model.errors import Unavailable
from broker.wire.hl7v2 import Deframer, frame


def feed_v2(host: str, port: int, message: bytes, *, silence: float = 30.0, limit: int = 4 << 20) -> bytes:
    """Send one message (encoded, without the frame) and return the answer's bytes as they came, without the frame.

    What the answer says is the caller's to read. Raise `Unavailable` when the peer is away, silent for `silence`
    seconds or gone before its answer, `TooLarge` for an answer over `limit` bytes.
    """
    try:
        with socket.create_connection((host, port), silence) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(frame(message))          # one send: some receivers take two packets for two messages
            return _answer(connection, limit)
    except OSError as error:
        raise Unavailable(f"the HL7 v2 receiver at {host}:{port} ({type(error).__name__})") from error


def _answer(connection: socket.socket, limit: int) -> bytes:
    frames = Deframer(limit)
    while (answer := frames.take()) is None:
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError("no answer")
        frames.feed(data)
    return answer
