"""A thousand connections that say nothing, or half a thing, at each door: the service answers as if they were not there."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import dimse
from tests.helpers.dicom import CT
from tests.helpers.dimse import Parrot
from tests.helpers.site import Site, adt, eventually, head

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
            eventually(back(site, before), 12)
    site.goes_on(tmp_path)


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
