"""Bodies, frames and PDUs that stop, drip or never end: each has a deadline, holds nobody up and leaves nothing."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.client import messages
from tests.helpers import dicom
from tests.helpers.dicom import CT
from tests.helpers.dimse import Parrot, store_request
from tests.helpers.site import QUERY, SOAP_TYPE, Site, adt, head, read_http, ref, rest
from tests.helpers.waiting import PATIENCE

pytestmark = [pytest.mark.peer("dcmtk")]

EXPLICIT = "1.2.840.10008.1.2.1"
Attack = Callable[[Site], bytes]


def drip(connection: socket.socket, more: Iterator[bytes]) -> bytes:
    """Send a byte every 50 ms until something comes or the connection ends; return what came."""
    begun, data = time.monotonic(), b""
    connection.settimeout(0.05)
    with contextlib.suppress(ConnectionError):
        while not data:
            assert time.monotonic() - begun < PATIENCE, "no deadline"
            connection.sendall(next(more))
            with contextlib.suppress(TimeoutError):
                data = connection.recv(65536)
                if not data:
                    return b""
    connection.settimeout(PATIENCE)
    return data + rest(connection)


def forever(data: bytes = b"x") -> Iterator[bytes]:
    while True:
        yield data


def dripping_body(site: Site) -> bytes:
    with site.http() as connection:
        connection.sendall(head("/xds/registry", SOAP_TYPE, "Content-Length: 100000"))
        return drip(connection, forever())


def dripping_part(site: Site) -> bytes:
    body = site.provide(site.objects(b"document"), b"document")
    data = b"".join(body)
    with site.http() as connection:
        connection.sendall(head("/xds/repository", body.content_type, f"Content-Length: {len(data) + 100_000}"))
        connection.sendall(data[:data.index(b"document") + 4])
        return drip(connection, forever())


def dripping_chunks(site: Site) -> bytes:
    with site.http() as connection:
        connection.sendall(head("/xds/registry", SOAP_TYPE, "Transfer-Encoding: chunked"))
        return drip(connection, forever(b"1\r\nx\r\n"))


def stopped_body(site: Site) -> bytes:
    with site.http() as connection:
        connection.sendall(head("/xds/registry", SOAP_TYPE, "Content-Length: 1000") + b"<x>")
        connection.settimeout(PATIENCE)
        return rest(connection)


def endless_chunks(site: Site) -> bytes:
    """As fast as the wire takes it."""
    with site.http() as connection:
        connection.sendall(head("/xds/registry", SOAP_TYPE, "Transfer-Encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        return rest(connection)


def endless_part(site: Site) -> bytes:
    """Chunks as fast as the wire takes them, in the middle of a part."""
    body = site.provide(site.objects(b"document"), b"document")
    data = b"".join(body)
    with site.http() as connection:
        connection.sendall(head("/xds/repository", body.content_type, "Transfer-Encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for piece in (data[:data.index(b"document") + 4], *(b"x" * 0x4000,) * 1000):
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        return rest(connection)


def dripping_chunked_part(site: Site) -> bytes:
    body = site.provide(site.objects(b"document"), b"document")
    data = b"".join(body)
    piece = data[:data.index(b"document") + 4]
    with site.http() as connection:
        connection.sendall(head("/xds/repository", body.content_type, "Transfer-Encoding: chunked"))
        connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        return drip(connection, forever(b"1\r\nx\r\n"))


def ended_chunks(site: Site, path: str, kind: str, data: bytes) -> bytes:
    """The sender closes its side, the last chunk never comes."""
    with site.http() as connection:
        connection.sendall(head(path, kind, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n" % (len(data), data))
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(PATIENCE)
        return rest(connection)


def query_without_last_chunk(site: Site) -> bytes:
    return ended_chunks(site, "/xds/registry", SOAP_TYPE, site.envelope(messages.find_documents(site.patient), QUERY))


def submission_without_last_chunk(site: Site) -> bytes:
    """All of the MIME message is there."""
    body = site.provide(site.objects(b"document"), b"document")
    return ended_chunks(site, "/xds/repository", body.content_type, b"".join(body))


def dripping_head(site: Site) -> bytes:
    with site.http() as connection:
        connection.sendall(b"POST /xds/registry HTTP/1.1\r\nX: ")
        return drip(connection, forever())


def frame_without_end(site: Site) -> bytes:
    with site.mllp() as connection:
        connection.sendall(b"\x0b" + adt("never").replace("\n", "\r").encode("gb18030"))
        connection.settimeout(PATIENCE)
        return rest(connection)


def dripping_frame(site: Site) -> bytes:
    with site.mllp() as connection:
        connection.sendall(b"\x0b" + adt("drip").replace("\n", "\r").encode("gb18030"))
        return drip(connection, forever())


def storing(site: Site, folder: Path, *, drips: bool) -> bytes:
    (file,) = dicom.ct_study(folder, 1, 200)
    with Parrot(site.region.dicom_port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, ref(file).sop_uid, dicom.body(file))[:1000])
        peer.socket.settimeout(PATIENCE)
        return drip(peer.socket, forever()) if drips else rest(peer.socket)


def stopped_pdu(site: Site) -> bytes:
    return storing(site, site.region.folder / "stopped", drips=False)


def dripping_pdu(site: Site) -> bytes:
    return storing(site, site.region.folder / "drips", drips=True)


SLOW_HTTP: Mapping[Attack, int] = {
    dripping_body: 408, dripping_part: 408, dripping_chunks: 408, dripping_chunked_part: 408, stopped_body: 408,
    endless_chunks: 413, endless_part: 413, query_without_last_chunk: 400, submission_without_last_chunk: 400,
    dripping_head: 408}
SLOW_FRAMES = (frame_without_end, dripping_frame)
SLOW_PDUS = (stopped_pdu, dripping_pdu)


@pytest.fixture(scope="module")
def answers(site: Site) -> Mapping[Attack, bytes]:
    """All attacks at once: what each heard in the end."""
    with site.unchanged(), ThreadPoolExecutor(16) as pool:
        running = {attack: pool.submit(attack, site) for attack in (*SLOW_HTTP, *SLOW_FRAMES, *SLOW_PDUS)}
        found = {attack: future.result() for attack, future in running.items()}
    assert list((site.region.data / "documents" / ".spool").iterdir()) == []
    return found


@pytest.mark.parametrize("attack", SLOW_HTTP)
def test_slow_http_is_answered_with_a_fault(answers: Mapping[Attack, bytes], attack: Attack) -> None:
    reply = read_http(answers[attack])
    assert reply.status == SLOW_HTTP[attack]
    if attack is not dripping_head:
        assert reply.fault == "Sender"


@pytest.mark.parametrize("attack", SLOW_FRAMES)
def test_slow_frames_are_given_up(answers: Mapping[Attack, bytes], attack: Attack) -> None:
    assert answers[attack] == b""


@pytest.mark.parametrize("attack", SLOW_PDUS)
def test_slow_pdus_are_aborted(answers: Mapping[Attack, bytes], attack: Attack) -> None:
    assert answers[attack] == b"\7\0\0\0\0\4\0\0\0\0"


def test_many_slow_ones_at_once_hold_nobody_up(site: Site, tmp_path: Path) -> None:
    """Fewer than the threads there are: each holds one until its deadline."""
    attacks: tuple[Attack, ...] = ((dripping_part, dripping_body, stopped_body) * 4) + (dripping_frame,) * 12
    with site.unchanged(fed=1), ThreadPoolExecutor(len(attacks)) as pool:
        running = [pool.submit(attack, site) for attack in attacks]
        time.sleep(0.3)
        site.feed()
        site.query()
        assert not all(future.done() for future in running)
        for future in running:
            future.result()
    site.goes_on(tmp_path)
