"""The real server: routes, WSDL as a client loads it, limits on a socket, memory, the end of connections and processes."""

import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import zeep
from zeep.transports import Transport

from broker.config.settings import Settings
from broker.edge.soap.wsdl import FILES
from broker.wire.mime import MtomBody
from broker.wire.soap import Part
from tests.helpers.soap import NS, Reply, Served, Zeros, ask, bench, call, envelope, keep, mtom, served
from tests.helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.outside

MB = 1 << 20
WSDL = Path(__file__).parents[3] / "wsdl"
GIVE = mtom(f'<Give xmlns="{NS}">1</Give>'.encode(), "urn:test:Give")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("web"), threads=4, retrieve_slots=2, max_request=1 << 20, max_body=200 << 20,
                io_timeout=1.0) as running:
        yield running


@pytest.fixture
def http(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
        yield client


def as_reply(answer: httpx.Response) -> Reply:
    return Reply(answer.status_code, {"Content-Type": answer.headers["content-type"]}, answer.content)


def post(http: httpx.Client, text: str) -> Reply:
    body = envelope(ask(text), "urn:test:Ask")
    return as_reply(http.post("/ask", content=body, headers={"Content-Type": "application/soap+xml; charset=utf-8"}))


def audit(server: Served) -> str:
    return "".join(file.read_text("utf-8") for file in server.settings.audit_folder.glob("*"))


def test_routes(http: httpx.Client, server: Served) -> None:
    assert http.get("/healthz").text == "ok"
    assert (http.get("/nothing").status_code, http.get("/nothing").headers["content-type"]) == (404, "text/plain; charset=utf-8")
    assert http.get("/schema/../registry.wsdl").status_code == 404
    assert (http.get("/ask").status_code, http.get("/ask").headers["allow"]) == (405, "POST")
    assert http.post("/schema/xds.xsd").status_code == 405
    assert http.get("/ask?wsdl").status_code == 405  # an endpoint without a WSDL
    wsdl = http.get("/xds/imaging?wsdl")
    assert wsdl.headers["content-type"] == "text/xml; charset=utf-8"
    assert f'location="{server.url}/xds/imaging"' in wsdl.text
    assert f'schemaLocation="{server.url}/schema/rad69.xsd"' in wsdl.text
    assert http.get("/schema/rad69.xsd").text.startswith("<?xml")


def test_several_calls_on_one_connection(http: httpx.Client) -> None:
    assert [post(http, text).text("s:Body/t:Answer") for text in ("one", "two", "three")] == ["one", "two", "three"]


def test_zeep_loads_and_calls(server: Served) -> None:
    transport = Transport(timeout=10)  # type: ignore[no-untyped-call]  # zeep has no annotations
    transport.session.trust_env = False
    client = zeep.Client(f"{server.url}/xds/imaging?wsdl", transport=transport)  # type: ignore[no-untyped-call]  # as above
    client.settings.raw_response = True
    request = {
        "StudyRequest": [{"studyInstanceUID": "1.2", "SeriesRequest": [{"seriesInstanceUID": "1.3", "DocumentRequest": [
            {"RepositoryUniqueId": "9", "DocumentUniqueId": "1.4"}]}]}],
        "TransferSyntaxUIDList": {"TransferSyntaxUID": ["1.2.840.10008.1.2.1"]},
    }
    with transport.session:
        answer = client.service.ImagingDocumentSource_RetrieveImagingDocumentSet(**request)
    # The operation's real action is not that of the test row: dispatch saw it.
    assert answer.status_code == 400
    assert b"urn:ihe:rad:2009:RetrieveImagingDocumentSet" in answer.content


@pytest.mark.parametrize(("path", "operations"), [
    ("/xds/registry", {
        "DocumentRegistry_RegistryStoredQuery": "urn:ihe:iti:2007:RegistryStoredQuery",
        "DocumentRegistry_RegisterDocumentSet-b": "urn:ihe:iti:2007:RegisterDocumentSet-b"}),
    ("/xds/repository", {
        "DocumentRepository_ProvideAndRegisterDocumentSet-b": "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b",
        "DocumentRepository_RetrieveDocumentSet": "urn:ihe:iti:2007:RetrieveDocumentSet"}),
    ("/xds/imaging", {"ImagingDocumentSource_RetrieveImagingDocumentSet": "urn:ihe:rad:2009:RetrieveImagingDocumentSet"}),
    ("/pix", {f"PIXManager_PRPA_IN20130{n}UV02": f"urn:hl7-org:v3:PRPA_IN20130{n}UV02" for n in (1, 2, 4, 9)}),
    ("/pdq", {f"PDSupplier_{name}": f"urn:hl7-org:v3:{name}" for name in (
        "PRPA_IN201305UV02", "QUQI_IN000003UV01_Continue", "QUQI_IN000003UV01_Cancel")}),
])
def test_zeep_loads_every_wsdl(server: Served, path: str, operations: dict[str, str]) -> None:
    transport = Transport(timeout=10)  # type: ignore[no-untyped-call]  # as above
    transport.session.trust_env = False
    with transport.session:
        client = zeep.Client(f"{server.url}{path}?wsdl", transport=transport)  # type: ignore[no-untyped-call]  # as above
    [service] = client.wsdl.services.values()
    [port] = service.ports.values()
    assert port.binding_options["address"] == server.url + path
    assert {name: operation.abstract.wsa_action for name, operation in port.binding._operations.items()} == operations
    # The copy on disk loads by itself too.
    zeep.Client(str(WSDL / FILES[path]))  # type: ignore[no-untyped-call]  # as above


def raw(server: Served, head: str, *pieces: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.sendall(head.format(type="application/soap+xml").replace("\n", "\r\n").encode() + b"".join(pieces))
    return connection


def answer(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


POST = "POST /ask HTTP/1.1\nHost: x\nContent-Type: {type}\n"


def test_a_large_announced_body_is_refused_unread(server: Served) -> None:
    got = answer(raw(server, POST + "Content-Length: 99000000\n\n", b"x" * 1000))
    assert got.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close\r\n" in got
    assert b"server.max_request = 1048576 bytes" in got


def test_a_large_chunked_body_is_refused(server: Served) -> None:
    got = answer(raw(server, POST + "Transfer-Encoding: chunked\n\n", *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 40))
    assert got.startswith(b"HTTP/1.1 413 ")


CHUNKED = "Transfer-Encoding: chunked\n\n"


@pytest.mark.parametrize("rest", [
    "Content-Length: 1000\n\nabc", CHUNKED + "5\nab", CHUNKED + "zz\n", CHUNKED + "0\nbad trailer\n\n",
])
def test_a_cut_or_broken_body(server: Served, rest: str) -> None:
    connection = raw(server, POST + rest)
    connection.shutdown(socket.SHUT_WR)
    got = answer(connection)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"s:Sender" in got


def test_a_stalled_body_frees_its_thread(server: Served) -> None:
    got = answer(raw(server, POST + "Content-Length: 1000\n\n", b"abc"))
    assert got.startswith(b"HTTP/1.1 408 ")


def test_expect_100_continue(server: Served) -> None:
    body = envelope(ask("hello"), "urn:test:Ask")
    with raw(server, POST + f"Expect: 100-continue\nConnection: close\nContent-Length: {len(body)}\n\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert b"hello" in answer(connection)


def workers(server: Served) -> list[str]:
    pid = server.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()


def peak(server: Served) -> int:
    """Largest resident size any worker has had, in bytes."""
    found = 0
    for worker in workers(server):
        status = Path(f"/proc/{worker}/status").read_text("ascii")
        found = max(found, int(status.partition("VmHWM:")[2].split()[0]) << 10)
    return found


def test_memory_stays_flat_whatever_is_sent(server: Served, http: httpx.Client) -> None:
    post(http, "warm")
    before = peak(server)
    size = 100 * MB
    message = MtomBody(
        envelope(keep("cid:big"), "urn:test:Keep"),
        [Part(content_id="big", media_type="application/dicom", source=Zeros(size))])

    def pieces() -> Iterable[bytes]:
        yield from message
    headers = {"Content-Type": message.content_type, "Content-Length": str(message.length)}
    digest, taken = hashlib.sha1(), 0
    for _ in range(size // MB):
        digest.update(b"\0" * MB)
    with http.stream("POST", "/keep", content=pieces(), headers=headers) as reply:
        assert reply.status_code == 200
        for data in reply.iter_bytes(MB):
            if not taken:
                assert digest.hexdigest().encode() in data
            taken += len(data)
    assert taken > size
    assert peak(server) - before < 60 * MB
    eventually(lambda: not list((server.settings.documents_folder / ".spool").iterdir()))


def test_an_aborted_download_is_audited_and_gives_its_slot_back(server: Served, http: httpx.Client) -> None:
    headers = {"Content-Type": GIVE.content_type, "Content-Length": str(GIVE.length)}
    def noticed(times: int) -> bool:
        return audit(server).count("not taken whole") == times

    for n in range(4):
        with http.stream("POST", "/give", content=b"".join(GIVE), headers=headers) as reply:
            assert reply.status_code == 200
            next(reply.iter_bytes(1000))
        eventually(partial(noticed, n + 1))


def test_an_aborted_upload_leaves_nothing(server: Served) -> None:
    head = f"POST /keep HTTP/1.1\nHost: x\nContent-Type: {GIVE.content_type}\nContent-Length: 1000000\n\n"
    raw(server, head, b"".join(mtom(keep(), "urn:test:Keep", ("a", b"x" * 5000)))[:4000]).close()
    eventually(lambda: not list((server.settings.documents_folder / ".spool").iterdir()))


def test_sigterm_lets_a_running_answer_finish(tmp_path: Path) -> None:
    client = httpx.Client(trust_env=False, timeout=PATIENCE)
    with served(tmp_path, web_workers=2, threads=4, retrieve_slots=2) as server, client as http:
        eventually(lambda: len(workers(server)) == 2)
        headers = {"Content-Type": GIVE.content_type}
        with http.stream("POST", server.url + "/give", content=b"".join(GIVE), headers=headers) as reply:
            os.kill(server.process.pid, signal.SIGTERM)
            time.sleep(0.3)
            taken = sum(len(data) for data in reply.iter_bytes(MB))
        assert taken == int(reply.headers["content-length"])
        assert server.process.wait(timeout=PATIENCE) == 0


def test_a_killed_master_takes_its_workers_and_the_address_with_it(tmp_path: Path) -> None:
    with served(tmp_path) as server, httpx.Client(trust_env=False, timeout=PATIENCE) as http:
        eventually(lambda: len(workers(server)) == 1)
        headers = {"Content-Type": GIVE.content_type}
        with http.stream("POST", server.url + "/give", content=b"".join(GIVE), headers=headers):  # an answer under way
            server.process.kill()
            eventually(lambda: free(server.port))


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def test_two_settings_of_the_address(tmp_path: Path) -> None:
    ready = bench(tmp_path, public_url="https://broker.example/base/")
    reply = call(ready.app, "/xds/imaging", b"", "", method="GET", query="WSDL")
    assert b'location="https://broker.example/base/xds/imaging"' in reply.body
    assert Settings().public_url == "http://127.0.0.1:8080"
