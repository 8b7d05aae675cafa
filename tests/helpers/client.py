"""A scripted SOAP peer: serves the broker's WSDLs, answers each POST with the next thing it was told, keeps what it got."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

from broker.config.data import data
from broker.files.sources import Octets
from broker.wire.mime import MtomBody
from broker.wire.soap import Part
from broker.wire.xml import RS, SOAP, WSA, XDS, XOP

WSDL = {"/pix": "pix", "/xds/registry": "registry", "/xds/repository": "repository", "/xds/imaging": "imaging"}


@dataclass(frozen=True)
class Reply:
    """One scripted answer. `cut` ends the connection after so many bytes of the body."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None


@dataclass(frozen=True)
class Got:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        """wsa:MessageID of the request."""
        found = re.search(rb"MessageID>([^<]+)<", self.body)
        return found.group(1).decode() if found else ""


Script = Callable[[Got], Reply]


@dataclass
class Peer:
    """The running peer: its base URL and what it got so far."""

    url: str
    got: list[Got]


@contextmanager
def peer(*script: Script) -> Iterator[Peer]:
    """Run a peer that answers its POSTs by `script` in order; one that is asked more often answers 500."""
    got: list[Got] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(_described(self.path.partition("?")[0], url))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self._send(script[len(got) - 1](got[-1]) if len(got) <= len(script) else Reply(500))

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[:reply.cut])
            self.close_connection = reply.cut is not None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Peer(url, got)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def plain(body: str) -> Script:
    """Answer `body` as plain SOAP."""
    return lambda got: Reply(headers={"Content-Type": "application/soap+xml; charset=utf-8"}, body=envelope(body, got.message_id))


def mtom(body: str, parts: Sequence[tuple[str, bytes]] = (), cut: int | None = None) -> Script:
    """Answer `body` as MTOM with these parts (Content-ID, bytes)."""
    def answer(got: Got) -> Reply:
        message = MtomBody(
            envelope(body, got.message_id),
            [Part(content_id=name, media_type="application/dicom", source=Octets(data)) for name, data in parts])
        return Reply(headers={"Content-Type": message.content_type}, body=b"".join(message), cut=cut)
    return answer


def fault(code: str, reason: str, subcode: str = "", status: int = 500) -> Script:
    """Answer a SOAP fault."""
    inner = f"<s:Subcode><s:Value xmlns:q='urn:q'>q:{subcode}</s:Value></s:Subcode>" if subcode else ""
    body = (f"<s:Fault><s:Code><s:Value>s:{code}</s:Value>{inner}</s:Code>"
            f"<s:Reason><s:Text xml:lang='en'>{reason}</s:Text></s:Reason></s:Fault>")
    return lambda got: Reply(status, {"Content-Type": "application/soap+xml"}, envelope(body, got.message_id))


def busy(retry_after: str = "0") -> Script:
    """Answer 503."""
    return lambda _got: Reply(503, {"Retry-After": retry_after})


def envelope(body: str, relates_to: str) -> bytes:
    """Return a SOAP 1.2 envelope."""
    return (f'<s:Envelope xmlns:s="{SOAP}" xmlns:wsa="{WSA}"><s:Header><wsa:RelatesTo>{relates_to}</wsa:RelatesTo></s:Header>'
            f"<s:Body>{body}</s:Body></s:Envelope>").encode()


def retrieved(documents: Sequence[tuple[str, str]], errors: Sequence[tuple[str, str]] = ()) -> str:
    """Return a RetrieveDocumentSetResponse: (uniqueId, Content-ID) of documents, (code, location) of errors."""
    listed = "".join(
        f'<rs:RegistryError errorCode="{code}" codeContext="not there" location="{place}" '
        'severity="urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Error"/>' for code, place in errors)
    rows = "".join(
        "<DocumentResponse><RepositoryUniqueId>2.999.1.3</RepositoryUniqueId>"
        f"<DocumentUniqueId>{uid}</DocumentUniqueId><mimeType>application/dicom</mimeType>"
        f'<Document><i:Include xmlns:i="{XOP}" href="cid:{quote(name)}"/></Document></DocumentResponse>'
        for uid, name in documents)
    errors_element = f"<rs:RegistryErrorList>{listed}</rs:RegistryErrorList>" if listed else ""
    state = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success"
    return (
        f'<RetrieveDocumentSetResponse xmlns="{XDS}" xmlns:rs="{RS}"><rs:RegistryResponse status="{state}">'
        f"{errors_element}</rs:RegistryResponse>{rows}</RetrieveDocumentSetResponse>")


def _described(path: str, url: str) -> Reply:
    """Return the broker's own WSDL of an endpoint, with this peer's address, or one of its schemas."""
    schema = data("wsdl") / "schema" / path.rpartition("/")[2]
    if path in WSDL:
        return _xml((data("wsdl") / f"{WSDL[path]}.wsdl").read_bytes().replace(b"http://127.0.0.1:8080", url.encode()))
    if schema.is_file():
        return _xml(schema.read_bytes())
    return {"/no-wsdl": _xml(b"no XML"), "/busy": Reply(503, {"Retry-After": "0"})}.get(path, Reply(404))


def _xml(body: bytes) -> Reply:
    return Reply(headers={"Content-Type": "text/xml"}, body=body)
