"""Answers that go to an address of their own, where an operator allows it (WS-Addressing 1.0 3.4)."""

import http.server
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from broker.config.settings import OutboundSection
from broker.edge.soap.later import Later
from broker.wire.xml import Element, parse
from tests.helpers.soap import NS, ask, bench, envelope, keep, mtom
from tests.helpers.waiting import PATIENCE

WSA = {"w": "http://www.w3.org/2005/08/addressing", "s": "http://www.w3.org/2003/05/soap-envelope", "t": NS}


class Asker:
    """Where answers arrive; `refuse` so many of them first."""

    def __init__(self) -> None:
        self.got: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.refuse = 0
        asker = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                asker.refuse -= 1
                self.send_response(503 if asker.refuse >= 0 else 202)
                self.send_header("Content-Length", "0")
                self.end_headers()
                asker.got.put((self.path, data))

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def answer(self) -> tuple[str, Element]:
        path, data = self.got.get(timeout=PATIENCE)
        return path, parse(data)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def asker() -> Iterator[Asker]:
    asker = Asker()
    yield asker
    asker.close()


def later(*allowed: str) -> Later:
    return Later(OutboundSection(reply_to=allowed))


@pytest.mark.parametrize(("address", "allowed"), [
    ("http://a.example/pix/reply", True), ("http://a.example/pix/", True), ("http://a.example/other", False),
    ("https://a.example/pix/reply", False), ("http://a.example:81/pix/reply", False), ("http://a.example.evil/pix/", False),
    ("http://a.example@evil/pix/", False), ("", False), ("urn:x", False), ("http://[/pix/", False),
])
def test_answers_go_only_where_an_operator_allows_it(address: str, allowed: bool) -> None:
    assert later("http://a.example/pix/").allows(address) is allowed
    assert not later().allows(address)


def test_an_answer_is_posted_again_until_it_is_taken(asker: Asker) -> None:
    asker.refuse = 2
    sender = later(asker.url)
    assert sender.send(f"{asker.url}/x", b"<a/>")
    assert [asker.answer()[0] for _ in range(3)] == ["/x"] * 3
    sender.close()


def request(body: bytes, action: str, reply_to: str, **more: str) -> bytes:
    whole = envelope(body, action, **more)
    return whole.replace(b"http://www.w3.org/2005/08/addressing/anonymous", reply_to.encode())


def test_an_answer_comes_by_itself_and_relates_to_its_request(asker: Asker, tmp_path: Path) -> None:
    edge = bench(tmp_path, outbound=OutboundSection(reply_to=(f"{asker.url}/here/",)))
    address = f"{asker.url}/here/answers?of=1&more"
    reply = edge.post("/ask", request(ask("林美"), "urn:test:Ask", escape(address), message_id="urn:uuid:7"))
    assert (reply.status, reply.body) == (202, b"")
    path, answer = asker.answer()
    assert path == "/here/answers?of=1&more"
    assert answer.findtext("s:Body/t:Answer", None, WSA) == "林美"
    assert answer.findtext("s:Header/w:RelatesTo", None, WSA) == "urn:uuid:7"
    assert answer.findtext("s:Header/w:To", None, WSA) == address


def test_a_fault_comes_by_itself_too(asker: Asker, tmp_path: Path) -> None:
    edge = bench(tmp_path, outbound=OutboundSection(reply_to=(asker.url,)))
    assert edge.post("/ask", request(ask("x"), "urn:test:Nothing", asker.url)).status == 202
    assert asker.answer()[1].find("s:Body/s:Fault", WSA) is not None


def test_what_goes_back_on_the_connection_says_so(asker: Asker, tmp_path: Path) -> None:
    """Another address than those allowed, and attachments."""
    edge = bench(tmp_path, outbound=OutboundSection(reply_to=(f"{asker.url}/here/",)))
    for body, kind in (
            (request(ask("x"), "urn:test:Ask", f"{asker.url}/there/"), "application/soap+xml"),
            (request(ask("x"), "urn:test:Ask", "http://elsewhere.example/here/"), "application/soap+xml")):
        reply = edge.post("/ask", body, kind)
        assert (reply.status, b"OnlyAnonymousAddressSupported" in reply.body) == (400, True)
    whole = mtom(keep("cid:a"), "urn:test:Keep", ("a", b"bytes"))
    data = b"".join(whole).replace(b"http://www.w3.org/2005/08/addressing/anonymous", f"{asker.url}/here/".encode())
    reply = edge.post("/keep", data, whole.content_type)
    assert (reply.status, b"OnlyAnonymousAddressSupported" in reply.body) == (400, True)
    assert asker.got.empty()
