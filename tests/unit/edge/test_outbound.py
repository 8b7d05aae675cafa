"""What we send to repositories and registries, what we make of their answers, and that both are audited."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from broker.audit.spool import AuditLog
from broker.config.settings import OutboundSection, TlsPort
from broker.edge.outbound import RemoteRegistrar, SoapOutbound
from broker.edge.soap_call import CallOptions
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.errors import BrokerError, Problem, Rejected, Unavailable
from broker.model.metadata import DocumentEntry, RegistryObjects, SubmissionSet
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.security.tls import server_context
from broker.wire.ebxml import PARTIAL_SUCCESS, Submission, read_submission, registry_response, submit_request
from broker.wire.mime import MtomBody, Multipart, content_type_parameters
from broker.wire.ports import Manifest
from broker.wire.xml import RS, SOAP, WSA, XDS, XOP, parse
from tests.helpers.pki import Authority

pytestmark = pytest.mark.outside

DOCUMENT = b"\0" * 128 + b"DICM\r\n--mime.\r\n\r\n"
SOAP_TYPE = "application/soap+xml; charset=utf-8"
CALL = Call(caller=ANONYMOUS, facts=AuditFacts())
OWN = "http://broker.example"


def envelope(body: bytes) -> bytes:
    return b'<s:Envelope xmlns:s="%s"><s:Body>%s</s:Body></s:Envelope>' % (SOAP.encode(), body)


def fault(code: str) -> bytes:
    return envelope(
        f"<s:Fault><s:Code><s:Value>s:{code}</s:Value></s:Code><s:Reason><s:Text>no</s:Text></s:Reason></s:Fault>".encode())


def mtom(root: bytes) -> tuple[str, bytes]:
    message = MtomBody(root)
    return message.content_type, b"".join(message)


def failure(*codes: str) -> bytes:
    return envelope(registry_response([Problem(code, "P-1 is wrong") for code in codes]))


SUCCESS = envelope(registry_response(warnings=[Problem("XDSExtraMetadataNotSaved", "wardNote")]))


@dataclass
class Peer:
    """A scripted HTTP peer: it answers everything alike and keeps what it got."""

    url: str
    answer: tuple[int, str, bytes] = (200, SOAP_TYPE, SUCCESS)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with scripted_peer() as started:
        yield started


@contextlib.contextmanager
def scripted_peer(context: ssl.SSLContext | None = None) -> Iterator[Peer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            scripted.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            status, kind, body = scripted.answer
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) + (10 if body.startswith(b"cut") else 0)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scripted = Peer(f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}/xds")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield scripted
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def submission() -> Submission:
    patient = "P-1^^^&2.999.1&ISO"
    objects = RegistryObjects(
        submission_sets=(SubmissionSet(id="s", unique_id="2.25.7", source_id="2.25.8", patient_id=patient),),
        documents=(DocumentEntry(id="urn:uuid:a<1", unique_id="2.25.9", patient_id=patient, mime_type="application/dicom"),))
    return read_submission(parse(submit_request(objects)))


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(Open(), AuditLog(tmp_path / "audit", "test", "test"))


def audited(tmp_path: Path) -> str:
    return "".join(file.read_text("utf-8") for file in (tmp_path / "audit").glob("*"))


def test_a_manifest_travels_as_mtom(peer: Peer, submission: Submission, gate: Gate, tmp_path: Path) -> None:
    kind, body = mtom(SUCCESS)
    peer.answer = (200, kind, body)
    SoapOutbound(peer.url, gate, OWN).provide_and_register(Manifest(DOCUMENT, submission))
    [(headers, sent)] = peer.got
    kind, parameters = content_type_parameters(headers["Content-Type"])
    assert kind == "multipart/related"
    assert (parameters["type"], parameters["start-info"]) == ("application/xop+xml", "application/soap+xml")
    assert "Transfer-Encoding" not in headers
    (root_headers, root), (part_headers, part) = [(h, b"".join(c)) for h, c in Multipart([sent], parameters["boundary"])]
    assert root_headers["content-id"] == parameters["start"]
    assert (part, part_headers["content-type"]) == (DOCUMENT, "application/dicom")
    message = parse(root)
    header = message[0]
    assert header.findtext(f"{{{WSA}}}Action") == "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b"
    assert header.findtext(f"{{{WSA}}}To") == peer.url
    request = message[1][0]
    assert request.tag == f"{{{XDS}}}ProvideAndRegisterDocumentSetRequest"
    assert read_submission(request[0]).objects == submission.objects
    assert request[1].get("id") == "urn:uuid:a<1"
    assert f"<{request[1][0].get('href', '').removeprefix('cid:')}>" == part_headers["content-id"]
    assert request[1][0].tag == f"{{{XOP}}}Include"
    [line] = audited(tmp_path).splitlines()
    for text in (
        'EventActionCode="R"', 'EventOutcomeIndicator="0"', 'csd-code="110106"', 'csd-code="RAD-68"',
        'ParticipantObjectID="P-1^^^&amp;2.999.1&amp;ISO"', 'ParticipantObjectID="2.25.7"',
        f'UserID="{OWN}" UserIsRequestor="true"><RoleIDCode csd-code="110153"',
        f'UserID="{peer.url}" UserIsRequestor="false" NetworkAccessPointID="127.0.0.1"',
    ):
        assert text in line


def test_a_submission_travels_as_plain_soap(peer: Peer, submission: Submission, gate: Gate, tmp_path: Path) -> None:
    warnings = RemoteRegistrar(peer.url, gate, OWN).register(submission, CALL)
    assert [warning.code for warning in warnings] == ["XDSExtraMetadataNotSaved"]
    [(headers, sent)] = peer.got
    assert headers["Content-Type"] == "application/soap+xml; charset=UTF-8"
    message = parse(sent)
    assert message[0].findtext(f"{{{WSA}}}Action") == "urn:ihe:iti:2007:RegisterDocumentSet-b"
    assert read_submission(message[1][0]).objects == submission.objects
    assert 'csd-code="ITI-42"' in audited(tmp_path)


OTHER = envelope(b"<x/>")
MTOM_TYPE, MTOM = mtom(SUCCESS)

ANSWERS = {
    # name: (status, media type, body, error, codes or what is unavailable, outcome)
    "refused": (200, SOAP_TYPE, failure("XDSUnknownPatientId", "XDSRegistryMetadataError"), Rejected,
                ["XDSUnknownPatientId", "XDSRegistryMetadataError"], "4"),
    "partial": (200, SOAP_TYPE, envelope(registry_response([Problem("XDSRegistryError", "x")], status=PARTIAL_SUCCESS)), Rejected,
                ["XDSRegistryError"], "4"),
    "failure without errors": (
        200, SOAP_TYPE, envelope(f'<r:RegistryResponse xmlns:r="{RS}" status="urn:x"/>'.encode()), Rejected,
        ["XDSRegistryError"], "4"),
    "busy": (200, SOAP_TYPE, failure("XDSRegistryBusy"), Unavailable, [], "8"),
    "busy among others": (200, SOAP_TYPE, failure("XDSRegistryBusy", "XDSRegistryError"), Rejected,
                          ["XDSRegistryBusy", "XDSRegistryError"], "4"),
    "sender fault": (400, SOAP_TYPE, fault("Sender"), Rejected, ["Sender"], "4"),
    "sender fault of a stack that knows one status": (500, SOAP_TYPE, fault("Sender"), Rejected, ["Sender"], "4"),
    "sender fault with 400": (400, SOAP_TYPE, fault("Sender"), Rejected, ["Sender"], "4"),
    "receiver fault": (500, SOAP_TYPE, fault("Receiver"), Unavailable, [], "8"),
    "no slot": (503, SOAP_TYPE, fault("Receiver"), Unavailable, [], "8"),
    "html": (404, "text/html", b"<html>", Unavailable, [], "8"),
    "no xml": (200, SOAP_TYPE, b"hello", Unavailable, [], "8"),
    "other answer": (200, SOAP_TYPE, OTHER, Unavailable, [], "8"),
    "cut": (200, SOAP_TYPE, b"cut", Unavailable, [], "8"),
    "cut multipart": (200, MTOM_TYPE, MTOM[:-60], Unavailable, [], "8"),
    "too large": (200, SOAP_TYPE, SUCCESS + b" " * 100_000, Unavailable, [], "8"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(peer: Peer, submission: Submission, gate: Gate, tmp_path: Path, name: str) -> None:
    status, kind, body, error, codes, outcome = ANSWERS[name]
    peer.answer = (status, kind, body)
    registrar = RemoteRegistrar(peer.url, gate, OWN, CallOptions(max_answer=50_000))
    with pytest.raises(BrokerError) as caught:
        registrar.register(submission, CALL)
    assert type(caught.value) in {error, *error.__subclasses__()}
    if isinstance(caught.value, Rejected):
        assert [problem.code for problem in caught.value.problems] == codes
    if isinstance(caught.value, Unavailable):
        assert caught.value.what == "registry"
    assert len(peer.got) == 1
    [line] = audited(tmp_path).splitlines()
    assert f'EventOutcomeIndicator="{outcome}"' in line
    assert "P-1 is wrong" not in line


def test_nobody_listens(submission: Submission, gate: Gate, tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    with pytest.raises(Unavailable, match="repository"):
        SoapOutbound(f"http://127.0.0.1:{port}/", gate, OWN).provide_and_register(Manifest(DOCUMENT, submission))
    assert audited(tmp_path).count('EventOutcomeIndicator="8"') == 1


def test_a_silent_peer(submission: Submission, gate: Gate) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        registrar = RemoteRegistrar(f"http://127.0.0.1:{server.server_port}/", gate, OWN, CallOptions(silence=0.1))
        with pytest.raises(Unavailable):
            registrar.register(submission, CALL)


def test_a_peer_of_tls_is_trusted_by_its_authority_and_shown_our_certificate(
        submission: Submission, gate: Gate, tmp_path: Path) -> None:
    pki = Authority(tmp_path / "pki")
    certificate, key = pki.sign("broker")
    options = CallOptions.of(OutboundSection(ca=pki.ca, certificate=certificate, key=key))
    with scripted_peer(server_context("tls.http", TlsPort(**pki.port(required=True)))) as peer:
        RemoteRegistrar(peer.url, gate, OWN, options).register(submission, CALL)
        assert len(peer.got) == 1
        with pytest.raises(Unavailable):
            RemoteRegistrar(peer.url, gate, OWN).register(submission, CALL)
        assert len(peer.got) == 1
