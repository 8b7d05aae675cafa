"""TLS of the three ports: who is let in, what of a certificate reaches the caller, and handshakes that stop, drip or fail.

That hostile peers hold up nobody after their handshake is tried by the tests of each wire, which run plain and over TLS.
"""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from broker.audit.spool import AuditLog
from broker.config.profile import Profile
from broker.config.settings import Server, Settings, TlsSection
from broker.db import Database
from broker.edge.dimse import pdata
from broker.edge.mllp.server import MllpServer
from broker.model.caller import Call, Caller
from broker.model.message_id import MessageId
from broker.model.transaction import NOBODY, NOTHING_TO_FILTER, AuditEvent, ServedTransaction, Transaction, Wire
from broker.model.transaction import Message as Row
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire.hl7v2 import Message, write_ack
from tests.helpers import dicom, dimse, soap
from tests.helpers.dial import over
from tests.helpers.dicom import CT
from tests.helpers.dimse import Parrot
from tests.helpers.pki import Authority

pytestmark = pytest.mark.outside
EXPLICIT = "1.2.840.10008.1.2.1"
ECHO = pdata.write_command(1, [
    (pdata.CLASS, dimse.VERIFICATION), (pdata.FIELD, pdata.C_ECHO_RQ), (pdata.MESSAGE_ID, 3),
    (pdata.DATA_SET, pdata.NO_DATA_SET)])
MESSAGE = b"\x0bMSH|^~\\&|HIS|HOSP|BROKER|REGION|1||ADT^A04|m1|P|2.3.1\rPID|||1||LI\r\x1c\r"
HELLO = bytes.fromhex("160301020001")
SUBJECT = "CN=modality,O=Demo"
HANDSHAKE = 2.0


@dataclass
class Port:
    """A port with TLS, how it is called, and who called it."""

    number: int
    call: Callable[[ssl.SSLContext], None]
    callers: Callable[[], list[str]]    # subjects of the certificates; empty text where none was shown
    ending: bytes       # what makes the server end the connection; nothing where silence does
    audit: Path


class Actor:
    def __init__(self) -> None:
        self.callers: list[Caller] = []

    def take(self, message: Message, call: Call) -> bytes:
        self.callers.append(call.caller)
        return write_ack(message, MessageId.now())


ROW = Transaction(
    code="ITI-8", name="feed", wire=Wire.HL7V2, endpoint="mllp", messages=(Row(name="ADT^A04"),),
    audit=AuditEvent(event_code="110110", event_text="Patient Record", action="C"),
    read=lambda message, _facts: message, subject=NOBODY, handle=Actor.take, filtered=NOTHING_TO_FILTER,
    write=lambda _request, reply: reply, refuse=lambda message, error: write_ack(message, MessageId.now(), error))


def subject(caller: Caller) -> str:
    return caller.certificate.subject if caller.certificate else ""


@contextlib.contextmanager
def mllp(folder: Path, tls: TlsSection, _pki: Authority) -> Iterator[Port]:
    actor, stop = Actor(), threading.Event()
    gate = Gate(Open(), AuditLog(folder / "audit", "broker", "demo"))
    settings = Settings(server=Server(mllp_port=0, idle_timeout=4.0), tls=tls)
    server = MllpServer([ServedTransaction(ROW, actor)], gate, settings, ("BROKER", "REGION"))
    number = server.listen()
    thread = threading.Thread(target=server.serve, args=(stop,))
    thread.start()

    def call(context: ssl.SSLContext) -> None:
        with connected(number, context) as peer:
            peer.sendall(MESSAGE)
            assert b"MSA|AA|m1" in peer.recv(65536)

    try:
        yield Port(number, call, lambda: [subject(one) for one in actor.callers], b"", folder / "audit")
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def http(folder: Path, tls: TlsSection, pki: Authority) -> Iterator[Port]:
    found: list[str] = []
    with over(pki.client("probe")), soap.served(folder, tls) as server:
        def call(context: ssl.SSLContext) -> None:
            answer = httpx.get(f"https://localhost:{server.port}/who", verify=context, trust_env=False, timeout=10)
            scheme, *shown = answer.text.split("\n")
            assert scheme == "https"
            found.append(shown[0] if shown else "")
        yield Port(server.port, call, lambda: found, b"nonsense\r\n\r\n", server.settings.audit_folder)


@contextlib.contextmanager
def dicom_port(folder: Path, tls: TlsSection, database: Database, profile: Profile) -> Iterator[Port]:
    settings = dicom.short_settings().model_copy(update={"tls": tls})
    with dicom.broker(folder, database, profile, dicom.Board(), settings=settings) as broker:
        def call(context: ssl.SSLContext) -> None:
            with over(context), Parrot(broker.port) as peer:
                assert peer.associate([(dimse.VERIFICATION, EXPLICIT)])[0] == 2
                peer.say(ECHO)
                assert peer.answer().number(pdata.STATUS) == 0
                peer.release()

        def callers() -> list[str]:
            return [line.partition(' AlternativeUserID="')[2].partition('"')[0] for line in broker.audited()]
        yield Port(broker.port, call, callers, b"nonsense", broker.audit_folder)


@contextlib.contextmanager
def connected(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(
            plain, server_hostname="localhost", suppress_ragged_eofs=False) as peer:
        yield peer


Start = Callable[..., Port]


@pytest.fixture
def pki(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture(params=["http", "mllp", "dicom"])
def start(
    request: pytest.FixtureRequest, tmp_path: Path, pki: Authority, database: Database, profile: Profile,
) -> Iterator[Start]:
    wire = request.param
    with ExitStack() as stack:
        def go(**options: bool) -> Port:
            tls = TlsSection.model_validate({wire: pki.port(**options), "handshake": HANDSHAKE})
            if wire == "dicom":
                return stack.enter_context(dicom_port(tmp_path, tls, database, profile))
            return stack.enter_context((http if wire == "http" else mllp)(tmp_path, tls, pki))
        yield go


def refused(port: Port, context: ssl.SSLContext) -> bool:
    """Say whether a call is ended by the server, in the handshake or (TLS 1.3) at the first read."""
    try:
        port.call(context)
    except (ssl.SSLError, ConnectionError, httpx.TransportError, AssertionError):
        return True
    return False


def test_a_certificate_that_is_shown_reaches_the_caller(start: Start, pki: Authority) -> None:
    port = start(required=True)
    port.call(pki.client("modality"))
    assert port.callers() == [SUBJECT]


def test_where_none_is_required_a_caller_without_one_is_anonymous(start: Start, pki: Authority) -> None:
    port = start()
    port.call(pki.client())
    port.call(pki.client("modality"))
    assert port.callers() == ["", SUBJECT]


def test_a_port_that_asks_for_none_ignores_what_it_would_be_shown(start: Start, pki: Authority) -> None:
    port = start(clients=False)
    port.call(pki.client("modality"))
    assert port.callers() == [""]


def test_strangers_are_refused_and_others_are_served(start: Start, pki: Authority, tmp_path: Path) -> None:
    port = start(required=True)
    assert refused(port, pki.client())
    assert refused(port, pki.client("stranger", by=Authority(tmp_path / "other", "Other CA")))
    old = pki.client()
    old.load_cert_chain(*pki.sign("old", days=-1))
    assert refused(port, old)
    assert port.callers() == []
    port.call(pki.client("modality"))


@pytest.mark.parametrize(("version", "taken"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_an_older_version_of_tls_is_refused(start: Start, pki: Authority, version: str, taken: bool) -> None:
    port = start()
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port.number}", "-CAfile", str(pki.ca), version,
               "-cipher", "ALL:@SECLEVEL=0"]
    done = subprocess.run(command, input=b"Q\n", capture_output=True, timeout=20, check=False)
    assert (b"no peer certificate available" not in done.stdout) is taken
    port.call(pki.client())


@pytest.mark.parametrize("say", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", MESSAGE, dimse.association(
    1, "PACSA", "BROKER", [(CT, EXPLICIT)])], ids=["http", "mllp", "dicom"])
def test_who_speaks_without_tls_is_refused_at_once(start: Start, pki: Authority, say: bytes) -> None:
    port = start()
    with socket.create_connection(("127.0.0.1", port.number), 10) as peer:
        peer.sendall(say)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := peer.recv(4096):
                data += piece
    assert len(data) <= 7       # an alert at most
    port.call(pki.client())
    assert len(port.callers()) == 1


def test_handshakes_that_stop_or_drip_hold_nobody_up_and_end_in_time(start: Start, pki: Authority) -> None:
    port, context = start(required=True), pki.client("modality")
    stop = threading.Event()
    with ExitStack() as stack:
        stalled = [stack.enter_context(socket.create_connection(("127.0.0.1", port.number), 20)) for _ in range(200)]
        for peer in stalled[100:]:
            peer.sendall(HELLO)

        def drip() -> None:
            while not stop.wait(0.2):
                for peer in stalled[150:]:
                    with contextlib.suppress(OSError):
                        peer.sendall(b"\0")
        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            port.call(context)
            for peer in stalled:
                with contextlib.suppress(ConnectionResetError):
                    peer.settimeout(20)
                    while peer.recv(100):
                        pass
        finally:
            stop.set()
            dripping.join()
        port.call(context)
    assert port.callers() == [SUBJECT, SUBJECT]


def test_who_goes_away_before_the_end_of_its_handshake_is_not_in_the_log(start: Start, pki: Authority) -> None:
    """So does whatever looks whether the port answers, our own `/healthz` every time it is asked."""
    port = start()
    with capture_logs() as logs:
        for say in (b"", HELLO):
            with socket.create_connection(("127.0.0.1", port.number), 10) as peer:
                peer.sendall(say)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(100):
                    pass
        port.call(pki.client())
    assert "TLS handshake failed" not in [line["event"] for line in logs]


def test_an_end_is_told(start: Start, pki: Authority) -> None:
    """Without close_notify a peer could not tell an end from a cut, and OpenSSL calls that an error."""
    port = start()
    with connected(port.number, pki.client()) as peer:
        peer.sendall(port.ending)
        while peer.recv(4096):
            pass


def test_a_new_handshake_on_a_connection_is_refused(start: Start, pki: Authority) -> None:
    port = start()
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port.number}", "-CAfile", str(pki.ca), "-tls1_2"]
    done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20, check=False)
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"renegotiation" in done.stderr
    port.call(pki.client())


def test_the_audit_record_names_who_has_shown_a_certificate(tmp_path: Path, pki: Authority) -> None:
    with mllp(tmp_path, TlsSection.model_validate({"mllp": pki.port(required=True)}), pki) as port:
        port.call(pki.client("modality"))
        (line,) = "".join(file.read_text("utf-8") for file in port.audit.glob("*.xml")).splitlines()
    assert f'<ActiveParticipant UserID="HOSP|HIS" AlternativeUserID="{SUBJECT}" UserIsRequestor="true"' in line


def fingerprint(certificate: Path) -> str:
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-fingerprint", "-sha256"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.partition("=")[2].strip().replace(":", "").lower()


def test_who_resumes_a_session_is_known_as_before(tmp_path: Path, pki: Authority) -> None:
    context = pki.client("modality", maximum=ssl.TLSVersion.TLSv1_2)
    with mllp(tmp_path, TlsSection.model_validate({"mllp": pki.port(required=True)}), pki) as port:
        session = None
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port.number), 10) as plain, context.wrap_socket(
                    plain, server_hostname="localhost", session=session) as peer:
                peer.sendall(MESSAGE)
                assert b"MSA|AA" in peer.recv(65536)
                assert peer.session_reused is (session is not None)
                session = peer.session
        assert port.callers() == [SUBJECT, SUBJECT]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
def test_curl_is_answered_with_a_certificate_and_refused_without(tmp_path: Path, pki: Authority) -> None:
    certificate, key = pki.sign("modality")
    with http(tmp_path, TlsSection.model_validate({"http": pki.port(required=True), "handshake": HANDSHAKE}), pki) as port:
        command = ["curl", "-sS", "--cacert", str(pki.ca), f"https://localhost:{port.number}/who"]
        shown = subprocess.run(
            [*command, "--cert", str(certificate), "--key", str(key)], capture_output=True, text=True, check=True)
        assert shown.stdout.split("\n") == ["https", SUBJECT, fingerprint(certificate)]
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.peer("dcmtk")
def test_dcmtk_stores_over_tls(tmp_path: Path, pki: Authority, database: Database, profile: Profile) -> None:
    certificate, key = pki.sign("modality")
    settings = dicom.short_settings().model_copy(update={"tls": TlsSection.model_validate({"dicom": pki.port(required=True)})})
    files = dicom.ct_study(tmp_path / "in", 12, 256, "1.2.840.99.1")
    shown = ["+tls", str(key), str(certificate), "+cf", str(pki.ca)]
    with dicom.broker(tmp_path, database, profile, dicom.Board(), settings=settings) as broker:
        echo = ["echoscu", "-aet", "PACSA", "-aec", "BROKER", *shown, "127.0.0.1", str(broker.port)]
        subprocess.run(echo, check=True, capture_output=True, timeout=20)
        assert dicom.store(files, broker.port, "PACSA", "BROKER", *shown).returncode == 0
        assert len(broker.files()) == len(files)
        assert {dicom.body(broker.online.path(path)) for path in broker.files()} == {dicom.body(file) for file in files}
        assert dicom.store(files, broker.port, "PACSA", "BROKER", "+tla", "+cf", str(pki.ca)).returncode != 0
        assert all(f'AlternativeUserID="{SUBJECT}"' in line for line in broker.audited())
