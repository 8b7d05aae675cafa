"""A light load: `python -m tests.bench.load PORT CONNECTIONS SECONDS FIRST FILE EXPECT [CA]` prints
requests, seconds, and requests with those of the warming up.

FILE is a JSON list of requests, sent in turn; `@@@@@@@@` in one becomes a number of eight digits, counted from FIRST.
With CA, a file of certificates, connections are of TLS.
One connection has one request on its way. Every answer must be a 200 with EXPECT in its last 2 KB.
"""

import json
import selectors
import socket
import ssl
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

_MARK = b"@@@@@@@@"
_TAIL = 2048


@dataclass
class Connection:
    """One kept connection and the answer it reads."""

    peer: socket.socket
    pieces: list[bytes] = field(default_factory=list)
    left: int = -1

    def take(self, data: bytes, expect: bytes) -> bool:
        """Take some of the answer; say whether it is whole now."""
        if self.left < 0:
            head, end, body = data.partition(b"\r\n\r\n")
            if not end:
                raise SystemExit("the head of an answer came in pieces")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(data[:2000].decode("utf-8", "replace"))
            self.left = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            data = body
        self.left -= len(data)
        self.pieces.append(data)
        if self.left > 0:
            return False
        if expect not in b"".join(self.pieces[-3:])[-_TAIL:]:
            raise SystemExit(b"".join(self.pieces)[:2000].decode("utf-8", "replace"))
        self.pieces.clear()
        self.left = -1
        return True


def connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    """Return a connection, of TLS where there is a context."""
    peer = socket.create_connection(("127.0.0.1", port))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(peer, server_hostname="localhost") if context else peer


def read(peer: socket.socket) -> bytes:
    """Return what is there."""
    data = peer.recv(1 << 18)
    while isinstance(peer, ssl.SSLSocket) and peer.pending():
        data += peer.recv(1 << 18)
    return data


def main(port: int, connections: int, seconds: float, first: int, file: Path, expect: bytes, authority: str = "") -> None:
    """Run the load."""
    context = ssl.create_default_context(cafile=authority) if authority else None
    if context:
        context.maximum_version = ssl.TLSVersion.TLSv1_2    # in 1.3 tickets come unasked and look like an answer
    requests = [(text.encode().split(_MARK)) for text in json.loads(file.read_text("utf-8"))]
    selector = selectors.DefaultSelector()
    number = first

    def send(connection: Connection) -> None:
        nonlocal number
        connection.peer.sendall(str(number).encode().join(requests[number % len(requests)]))
        number += 1

    def round_trips(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            for key, _ in selector.select(5):
                connection = key.data
                data = read(connection.peer)
                if not data:
                    raise SystemExit("the server closed a connection")
                if connection.take(data, expect):
                    count += 1
                    send(connection)
        return count

    for _ in range(connections):
        peer = connect(port, context)
        connection = Connection(peer)
        selector.register(peer, selectors.EVENT_READ, connection)
        send(connection)
    warmed = round_trips(time.perf_counter() + seconds / 5)
    started = time.perf_counter()
    count = round_trips(started + seconds)
    sys.stdout.write(f"{count} {time.perf_counter() - started} {warmed + count}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), sys.argv[6].encode(),
         *sys.argv[7:])
