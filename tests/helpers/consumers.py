"""Consumers of notifications on sockets: each takes what it is sent, keeps it, and acknowledges."""

import contextlib
import http.server
import socketserver
import threading
from collections.abc import Iterator

from broker.model.message_id import MessageId
from broker.wire import hl7v3
from broker.wire.hl7v2 import Deframer, frame, parse, write_ack
from broker.wire.xml import SOAP, canonical
from broker.wire.xml import parse as parse_xml

Got = list[bytes]
_DEVICE = "2.999.77.1"


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Let a server serve."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def v2_consumer() -> Iterator[tuple[int, Got]]:
    """Serve a consumer of HL7 v2; yield its port and what it got."""
    got: Got = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            frames = Deframer(1 << 20)
            while data := self.connection.recv(65536):
                frames.feed(data)
                while (message := frames.take()) is not None:
                    got.append(message)
                    self.connection.sendall(frame(write_ack(parse(message), MessageId.now())))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server, serving(server):
        yield server.server_address[1], got


@contextlib.contextmanager
def v3_consumer() -> Iterator[tuple[int, Got]]:
    """Serve a consumer of HL7 V3; yield its port and the messages it got, without their envelopes."""
    got: Got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            envelope = parse_xml(self.rfile.read(int(self.headers["Content-Length"])))
            [message] = envelope.iterfind(f"{{{SOAP}}}Body/*")
            got.append(canonical(message))
            acknowledgement = hl7v3.write_ack(message, MessageId.now(), manager=_DEVICE)
            answer = b'<s:Envelope xmlns:s="%s"><s:Body>%s</s:Body></s:Envelope>' % (SOAP.encode(), acknowledgement)
            self.send_response(200)
            self.send_header("Content-Type", "application/soap+xml; charset=utf-8")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, serving(server):
        yield server.server_address[1], got
