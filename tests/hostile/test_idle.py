"""A thousand connections that say nothing, or half a thing, at each door: the service answers as if they were not there."""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers import dimse
from tests.helpers.dicom import CT
from tests.helpers.dimse import Parrot
from tests.helpers.region import Region
from tests.helpers.site import LIMITS, Site, adt, head
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk")]

COUNT = 1000
EXPLICIT = "1.2.840.10008.1.2.1"
HALF = {
    "http_port": head("/xds/registry", "application/soap+xml", "Content-Length: 10")[:40],
    "mllp_port": b"\x0b" + adt("half").replace("\n", "\r").encode("gb18030")[:60],
    "dicom_port": dimse.association(1, "PACSA", "BROKER", [(CT, EXPLICIT)])[:50],
}


@contextlib.contextmanager
def thousand(port: int, say: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(COUNT):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)))
            if say:
                with contextlib.suppress(OSError):      # it may have had to make room already
                    found[-1].sendall(say)
        yield found


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A region that lets a thousand connections stay at each door for as long as a test takes."""
    limits = {**LIMITS, "io_timeout": 120.0, "idle_timeout": 120.0, "mllp_connections": COUNT + 100}
    with Region(tmp_path_factory.mktemp("roomy"), server=limits) as region:
        yield Site(region)


def open_at(site: Site, port: int) -> int:
    """Return how many connections the broker's processes hold at their end of a door."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
        for process in psutil.Process(site.region.pid).children(recursive=True) for one in process.net_connections("inet"))


def greet_http(connection: socket.socket, _number: int) -> None:
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = connection.recv(65536)
    head_, _, body = answer.partition(b"\r\n\r\n")
    (length,) = re.findall(rb"(?i)content-length: (\d+)", head_)
    while len(body) < int(length):
        body += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 "), answer


def greet_mllp(connection: socket.socket, number: int) -> None:
    connection.sendall(b"\x0b" + adt(f"greet-{number}").replace("\n", "\r").encode("gb18030") + b"\x1c\r")
    answer = b""
    while not answer.endswith(b"\x1c\r"):
        piece = connection.recv(65536)
        assert piece, answer
        answer += piece
    assert f"MSA|AA|greet-{number}".encode() in answer, answer


SERVED = {"http_port": greet_http, "mllp_port": greet_mllp}


def back(site: Site, before: tuple[int, int]) -> Callable[[], bool]:
    """Threads of a pool stay; what a connection had goes."""
    return lambda: site.load()[0] <= before[0] + 20 and site.load()[1] <= before[1] + 5


@pytest.mark.parametrize("half", [False, True], ids=["silent", "half"])
@pytest.mark.parametrize("port", HALF)
def test_a_thousand_idle_connections_leave_the_service_answering(site: Site, tmp_path: Path, port: str, half: bool) -> None:
    site.goes_on(tmp_path)
    before = site.load()
    with thousand(getattr(site.region, port), HALF[port] if half else b""):
        site.goes_on(tmp_path)
        assert site.load()[0] <= before[0] + 80
        with site.unchanged():
            eventually(back(site, before))
    site.goes_on(tmp_path)


@pytest.mark.parametrize(("port", "kind"), [
    ("http_port", "silent"), ("http_port", "half"), ("http_port", "served"),
    ("mllp_port", "silent"), ("mllp_port", "half"), ("mllp_port", "served"),
    ("dicom_port", "silent"), ("dicom_port", "half"),
])
def test_a_thousand_open_connections_leave_the_service_answering(roomy: Site, tmp_path: Path, port: str, kind: str) -> None:
    """All of them are open before and after the work: none had to make room for it.

    DICOM gives them 5 seconds to ask for an association; where the work takes longer than that, it is done again.
    """
    roomy.goes_on(tmp_path)
    before, door = roomy.load(), getattr(roomy.region, port)
    assert any(open_during_work(roomy, tmp_path, port, kind) for _ in range(5 if port == "dicom_port" else 1))
    eventually(back(roomy, before))
    roomy.goes_on(tmp_path)
    assert open_at(roomy, door) < 100


def open_during_work(site: Site, folder: Path, port: str, kind: str) -> bool:
    door = getattr(site.region, port)
    with thousand(door, HALF[port] if kind == "half" else b"") as found:
        if kind == "served":
            for number, connection in enumerate(found):
                SERVED[port](connection, number)
        eventually(lambda: open_at(site, door) >= COUNT)
        site.goes_on(folder)
        return open_at(site, door) >= COUNT


def test_idle_associations_leave_the_service_answering(site: Site, tmp_path: Path) -> None:
    """Those that did ask for an association and then do nothing hold all places until another needs one."""
    before = site.load()
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            peer = stack.enter_context(Parrot(site.region.dicom_port))
            assert peer.associate([(CT, EXPLICIT)])[0] == 2
        time.sleep(1.1)
        site.goes_on(tmp_path)
    eventually(back(site, before))
