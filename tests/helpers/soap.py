"""Small transactions that try the SOAP edge, a WSGI caller, and a real server in a process of its own.

`python -m tests.helpers.soap FOLDER PORT` serves them; `Served` starts that.
"""

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from broker.audit.spool import AuditLog
from broker.config.settings import OutboundSection, Server, Settings, TlsSection
from broker.edge.http import routes
from broker.edge.http.server import serve
from broker.files.sources import CHUNK, FileSlice, Octets, Spooled
from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Rejected, TooLarge, Unavailable
from broker.model.transaction import (
    NOBODY,
    NOTHING_TO_FILTER,
    AuditEvent,
    Message,
    Packaging,
    ServedTransaction,
    Transaction,
    Wire,
)
from broker.security.gate import Gate, reason
from broker.security.rules import Open
from broker.wire.envelope import write_request
from broker.wire.mime import MtomBody, Multipart, content_id, content_type_parameters
from broker.wire.rest import PEER_CERTIFICATE
from broker.wire.soap import Part, SoapReply, SoapRequest, SoapTransaction
from broker.wire.xml import RAD, XDS, Element, parse
from broker.wire.xop import resolve
from tests.helpers.dial import dial
from tests.helpers.ports import free_port
from tests.helpers.waiting import PATIENCE

NS = "urn:test"
EVENT = AuditEvent(event_code="110112", event_text="Query", action="E", type_code="TEST-1", type_text="Test")


def ask(text: str, tag: str = "Ask") -> bytes:
    return f'<t:{tag} xmlns:t="{NS}">{text}</t:{tag}>'.encode()


def _answer(_request: Any, text: str) -> SoapReply:
    return SoapReply(fragments=(b'<Answer xmlns="urn:test">', text.encode(), b"</Answer>"))


def _refuse(_raw: Any, error: BrokerError) -> SoapReply:
    context = error.problems[0].context if isinstance(error, Rejected) else ""
    return SoapReply(fragments=(f'<Refused xmlns="urn:test" code="{reason(error)}">{context}</Refused>'.encode(),))


def _handle_ask(_actor: Any, text: str, call: Call) -> str:
    call.facts.query = text.encode()
    if text.startswith("bug"):
        raise KeyError(text)
    if text == "down":
        raise Unavailable("registry")
    if text == "large":
        raise TooLarge("a limit")
    if text == "reject":
        raise Rejected("Wrong", "no")
    return text


@dataclass
class Actor:
    """Where documents are spooled, what a retrieve gives, and how to hold a handler up."""

    folder: Path = Path()
    give: Any = None
    enter: Callable[[], None] = lambda: None
    keep_at: Path | None = None
    seen: list[list[Spooled]] = field(default_factory=list)


def _read_text(raw: SoapRequest, _facts: AuditFacts) -> str:
    return raw.body.text or ""


def _handle_text(_actor: Any, text: str, _call: Call) -> str:
    return text


def _read_keep(raw: SoapRequest, _facts: AuditFacts) -> SoapRequest:
    return raw


def _handle_keep(actor: Actor, raw: SoapRequest, _call: Call) -> list[Spooled]:
    documents = [resolve(raw, element, actor.folder) for element in raw.body]
    actor.seen.append(documents)
    if actor.keep_at is not None:
        documents = [replace(d, path=str(Path(d.path).rename(actor.keep_at / d.sha1))) for d in documents]
    return documents


def _write_keep(_request: Any, documents: list[Spooled]) -> SoapReply:
    parts = tuple(
        Part(content_id=f"d{n}@broker", media_type=d.media_type, source=FileSlice(d.path, d.size))
        for n, d in enumerate(documents))
    sums = " ".join(f"{d.sha1}" for d in documents)
    return SoapReply(fragments=(f'<Kept xmlns="{NS}">{sums}</Kept>'.encode(),), parts=parts)


def _read_give(raw: SoapRequest, _facts: AuditFacts) -> int:
    text = raw.body.text or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise Rejected("Wrong", "not a size")
    return int(text)


def _handle_give(actor: Actor, size: int, _call: Call) -> Any:
    actor.enter()
    return actor.give or Octets(b"\0" * size)


def _write_give(_request: Any, source: Any) -> SoapReply:
    part = Part(content_id="picture@broker", media_type="application/dicom", source=source)
    return SoapReply(fragments=(b'<Given xmlns="urn:test"/>',), parts=(part,), reply_action="urn:test:Special")


Row = Transaction[Any, SoapRequest, Any, Any, SoapReply]

ASK: Row = Transaction(
    code="TEST-1", name="Ask", wire=Wire.SOAP, endpoint="/ask",
    messages=(
        Message(name=f"{{{NS}}}Ask", action="urn:test:Ask", reply_action="urn:test:AskAnswer"),
        Message(name=f"{{{NS}}}Ask2", action="urn:test:Ask2", reply_action="urn:test:Ask2Answer"),
    ),
    audit=EVENT, read=_read_text, subject=NOBODY, handle=_handle_ask,
    filtered=NOTHING_TO_FILTER, write=_answer, refuse=_refuse)

# The same Body child as ASK under another action, as ITI-57 is to ITI-42.
ASK_AGAIN: Row = Transaction(
    code="TEST-2", name="Ask again", wire=Wire.SOAP, endpoint="/ask",
    messages=(Message(name=f"{{{NS}}}Ask", action="urn:test:Again", reply_action="urn:test:AgainAnswer"),),
    audit=EVENT, read=_read_text, subject=NOBODY, handle=lambda *_: "again",
    filtered=NOTHING_TO_FILTER, write=_answer, refuse=_refuse)

KEEP: Row = Transaction(
    code="TEST-3", name="Keep", wire=Wire.SOAP, endpoint="/keep",
    messages=(Message(name=f"{{{NS}}}Keep", action="urn:test:Keep", reply_action="urn:test:Kept"),),
    audit=EVENT, read=_read_keep, subject=NOBODY, handle=_handle_keep,
    filtered=NOTHING_TO_FILTER, write=_write_keep, refuse=_refuse, packaging=Packaging.MTOM)

GIVE: Row = Transaction(
    code="TEST-4", name="Give", wire=Wire.SOAP, endpoint="/give",
    messages=(Message(name=f"{{{NS}}}Give", action="urn:test:Give", reply_action="urn:test:Given"),),
    audit=EVENT, read=_read_give, subject=NOBODY, handle=_handle_give,
    filtered=NOTHING_TO_FILTER, write=_write_give, refuse=_refuse,
    packaging=Packaging.MTOM, may_be_plain=True, takes_slot=True)

CHECKED: Row = Transaction(
    code="TEST-5", name="Checked", wire=Wire.SOAP, endpoint="/xds/imaging",
    messages=(Message(name=f"{{{RAD}}}RetrieveImagingDocumentSetRequest", action="urn:test:Checked", reply_action="r"),),
    audit=EVENT, read=lambda _raw, _facts: "checked", subject=NOBODY, handle=_handle_text,
    filtered=NOTHING_TO_FILTER, write=_answer, refuse=_refuse,
    schema="rad69.xsd")

KEEP_CHECKED: Row = Transaction(
    code="TEST-6", name="Keep checked", wire=Wire.SOAP, endpoint="/xds/repository",
    messages=(Message(name=f"{{{XDS}}}ProvideAndRegisterDocumentSetRequest", action="urn:test:P", reply_action="r"),),
    audit=EVENT, read=lambda _raw, _facts: "checked", subject=NOBODY, handle=_handle_text,
    filtered=NOTHING_TO_FILTER, write=_answer, refuse=_refuse,
    schema="xds.xsd", packaging=Packaging.MTOM)

ROWS: tuple[Row, ...] = (
    ASK, ASK_AGAIN, KEEP, GIVE, CHECKED, KEEP_CHECKED,
    *(replace(ASK, endpoint=path) for path in ("/xds/registry", "/pix", "/pdq")))


@dataclass
class Bench:
    """The edge with the rows above, in this process."""

    settings: Settings
    actor: Actor
    app: Any

    @property
    def spooled(self) -> list[str]:
        return [file.name for file in (self.settings.documents_folder / ".spool").glob("*")]

    def audited(self) -> list[str]:
        return [line for file in sorted(self.settings.audit_folder.glob("*")) for line in file.read_text("utf-8").splitlines()]

    def post(self, path: str, body: bytes, content_type: str = "application/soap+xml; charset=utf-8", **more: Any) -> "Reply":
        return call(self.app, path, body, content_type, **more)

    def ask(self, text: str, **headers: Any) -> "Reply":
        return self.post("/ask", envelope(ask(text), "urn:test:Ask", **headers))


def bench(folder: Path, *, outbound: OutboundSection | None = None, **server: Any) -> Bench:
    settings = Settings(data=folder, server=Server(**server), outbound=outbound or OutboundSection())
    actor = Actor(settings.documents_folder / ".spool")
    gate = Gate(Open(), AuditLog(settings.audit_folder, "test", "test"))
    served: list[SoapTransaction] = [ServedTransaction(row, actor) for row in ROWS]
    return Bench(settings, actor, routes.build(served, gate, settings, {"/healthz": _healthz, "/who": _who}))


def _who(environ: Mapping[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with what the caller has shown, and how it called."""
    shown = environ.get(PEER_CERTIFICATE)
    body = "\n".join([environ["wsgi.url_scheme"], *((shown.subject, shown.fingerprint) if shown else ())]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def _healthz(_environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return (b"ok",)


def envelope(body: bytes, action: str, message_id: str = "urn:uuid:1") -> bytes:
    return write_request(body, action=action, to="http://broker/", message_id=message_id)


def mtom(body: bytes, action: str, *documents: tuple[str, bytes]) -> MtomBody:
    """A request with the documents attached under these content ids."""
    parts = [Part(content_id=cid, media_type="application/dicom", source=Octets(data)) for cid, data in documents]
    return MtomBody(envelope(body, action), parts)


def keep(*hrefs: str) -> bytes:
    include = '<Document><xop:Include xmlns:xop="http://www.w3.org/2004/08/xop/include" href="{}"/></Document>'
    return f'<Keep xmlns="{NS}">{"".join(include.format(href) for href in hrefs)}</Keep>'.encode()


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return content_type_parameters(self.headers["Content-Type"])[0]

    def parts(self) -> dict[str, bytes]:
        """The parts of an MTOM answer by Content-ID, the root as `root`."""
        kind, parameters = content_type_parameters(self.headers["Content-Type"])
        assert kind == "multipart/related"
        found = {content_id(h["content-id"]): b"".join(chunks) for h, chunks in Multipart([self.body], parameters["boundary"])}
        found["root"] = found.pop(content_id(parameters["start"]))
        return found

    def root(self) -> Element:
        return parse(self.parts()["root"] if self.kind == "multipart/related" else self.body)

    def text(self, path: str) -> str | None:
        names = {"s": "http://www.w3.org/2003/05/soap-envelope", "a": "http://www.w3.org/2005/08/addressing", "t": NS}
        return self.root().findtext(path, namespaces=names)

    def element(self, path: str) -> Element | None:
        names = {"s": "http://www.w3.org/2003/05/soap-envelope", "a": "http://www.w3.org/2005/08/addressing", "t": NS}
        return self.root().find(path, namespaces=names)

    @property
    def fault(self) -> str:
        """The code's local name with those of its subcodes, as `Sender/ActionNotSupported`; empty for no fault."""
        values = self.root().iterfind(".//{http://www.w3.org/2003/05/soap-envelope}Value")
        return "/".join((value.text or "").rpartition(":")[2] for value in values)


def call(
    app: Any, path: str, body: bytes | Iterable[bytes], content_type: str, *, method: str = "POST", query: str = "",
    length: int | None = None, chunked: bool = False, take: int | None = None, coding: str = "",
) -> Reply:
    """Make one call by WSGI. `length` lies about the body's size; `take` closes the answer after so many pieces.

    `coding` is the request's Content-Encoding.
    """
    data = body if isinstance(body, bytes) else b"".join(body)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "CONTENT_TYPE": content_type,
        "REMOTE_ADDR": "10.1.2.3", "wsgi.input": io.BytesIO(data), "wsgi.input_terminated": True,
    }
    if coding:
        environ["HTTP_CONTENT_ENCODING"] = coding
    if not chunked:
        environ["CONTENT_LENGTH"] = str(len(data) if length is None else length)
    started: list[Any] = []
    answer = app(environ, lambda status, headers: started.append((status, headers)))
    pieces: list[bytes] = []
    try:
        for piece in answer:
            pieces.append(piece)
            if take is not None and len(pieces) >= take:
                break
    finally:
        if hasattr(answer, "close"):
            answer.close()
    status, headers = started[0]
    return Reply(int(status[:3]), dict(headers), b"".join(pieces))


@dataclass
class Served:
    """A real server process."""

    url: str
    port: int
    process: "subprocess.Popen[bytes]"
    settings: Settings


@contextlib.contextmanager
def served(folder: Path, tls: TlsSection | None = None, **server: Any) -> Iterator[Served]:
    """Serve the rows with gunicorn in a child process until left; where it speaks TLS, it must be possible to `dial` it."""
    port = free_port()
    settings = Settings(data=folder, server=Server(http_port=port, **server), tls=tls or TlsSection())
    (folder / "settings.json").write_text(settings.model_dump_json())
    process = subprocess.Popen([sys.executable, "-m", "tests.helpers.soap", str(folder / "settings.json")])
    try:
        _await(port, process)
        yield Served(settings.public_url, port, process, settings)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def _await(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert process.poll() is None, "the server did not start"
        with contextlib.suppress(OSError), dial(port, 1) as probe:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if probe.recv(100).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.05)
    raise AssertionError("the server does not answer")


@dataclass(frozen=True)
class Zeros:
    """A large source that needs no memory."""

    size: int

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        for start in range(0, self.size, length):
            yield b"\0" * min(length, self.size - start)


def main(settings_file: str) -> None:
    settings = Settings.model_validate_json(Path(settings_file).read_text("utf-8"))
    folder, server = settings.data, settings.server.model_dump()

    def factory() -> Any:
        ready = bench(folder, **server)
        ready.actor.give = Zeros(64 << 20)
        return ready.app
    serve(factory, settings)


if __name__ == "__main__":
    main(sys.argv[1])
