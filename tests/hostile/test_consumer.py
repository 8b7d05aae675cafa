"""Consumers that go away in mid-answer: the slot is free at once, the audit trail says that the answer was not taken whole."""

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.client import messages
from broker.edge.dimse.pdata import CommandSet
from broker.model.imaging import InstanceRef
from broker.wire.mime import MtomBody
from tests.helpers import dicom
from tests.helpers.bad_pacs import PENDING, SUCCESS, BadPacs
from tests.helpers.dimse import Parrot
from tests.helpers.site import IMAGES, REPOSITORY, RETRIEVE, THEIRS, Site, head, read_http, ref, rest
from tests.helpers.waiting import PATIENCE, eventually, spoken_to

pytestmark = [pytest.mark.peer("dcmtk")]
SLOTS = 4


def images(site: Site, refs: Sequence[InstanceRef]) -> tuple[str, bytes]:
    body = MtomBody(site.envelope(messages.retrieve_images(refs), IMAGES), [])
    return body.content_type, b"".join(body)


def document(site: Site, unique_id: str) -> tuple[str, bytes]:
    wanted = (f'<RetrieveDocumentSetRequest xmlns="urn:ihe:iti:xds-b:2007"><DocumentRequest><RepositoryUniqueId>{REPOSITORY}'
              f"</RepositoryUniqueId><DocumentUniqueId>{unique_id}</DocumentUniqueId></DocumentRequest></RetrieveDocumentSetRequest>")
    body = MtomBody(site.envelope(wanted.encode(), RETRIEVE), [])
    return body.content_type, b"".join(body)


def ask(site: Site, path: str, request: tuple[str, bytes]) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(PATIENCE)
    connection.connect(("127.0.0.1", site.region.http_port))
    kind, data = request
    connection.sendall(head(path, kind, f"Content-Length: {len(data)}\r\nConnection: close") + data)
    return connection


def broken(site: Site, code: str) -> int:
    return site.audited(code, "8")


def test_consumers_that_leave_a_retrieve_of_pictures(site: Site, tmp_path: Path) -> None:
    files = site.store(tmp_path, 3, size=1200)
    eventually(lambda: all(site.known(ref(file).sop_uid) for file in files))
    request = images(site, [ref(file) for file in files])
    before = broken(site, "RAD-69")
    with site.unchanged():
        for _ in range(3 * SLOTS):
            with ask(site, "/xds/imaging", request) as connection:
                assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: broken(site, "RAD-69") == before + 3 * SLOTS)
    with ask(site, "/xds/imaging", request) as connection:
        assert read_http(rest(connection)).status == 200
    site.goes_on(tmp_path)


def test_consumers_that_stop_reading_are_given_up(site: Site, tmp_path: Path) -> None:
    files = site.store(tmp_path, 3, size=1200)
    eventually(lambda: all(site.known(ref(file).sop_uid) for file in files))
    request = images(site, [ref(file) for file in files])
    before = broken(site, "RAD-69")
    stalled = [ask(site, "/xds/imaging", request) for _ in range(SLOTS)]
    try:
        for connection in stalled:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        site.feed()
        site.query()
        eventually(lambda: broken(site, "RAD-69") >= before + SLOTS)
    finally:
        for connection in stalled:
            connection.close()
    with ask(site, "/xds/imaging", request) as connection:
        assert read_http(rest(connection)).status == 200


def test_one_retrieve_more_than_slots_is_told_to_come_again(site: Site, pacs: BadPacs, tmp_path: Path) -> None:
    files, let_go = dicom.ct_study(tmp_path / "far", 2), threading.Event()

    def waiting(one: BadPacs, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        while not let_go.wait(0.2):
            peer.respond(command, PENDING)
        one.send(wanted)
        peer.respond(command, SUCCESS)

    pacs.behave()
    pacs.holds += files
    pacs.move = waiting
    refs = [ref(file, THEIRS) for file in files]
    site.catalogue(refs)
    request = images(site, refs)
    with contextlib.ExitStack() as stack:
        stack.callback(let_go.set)
        held = [stack.enter_context(ask(site, "/xds/imaging", request)) for _ in range(SLOTS + 1)]
        answered = spoken_to(held)
        assert len(answered) == 1
        busy = read_http(rest(answered[0]))
        assert (busy.status, busy.fault, busy.headers["Retry-After"]) == (503, "Receiver", "5")
        site.feed()
        site.query()
        let_go.set()
        assert [read_http(rest(one)).status for one in held if one not in answered] == [200] * SLOTS


def test_consumers_that_leave_a_retrieve_of_documents(site: Site, tmp_path: Path) -> None:
    request = document(site, site.submit(tmp_path, b"x" * (6 << 20)))
    before = broken(site, "ITI-43")
    with site.unchanged():
        for _ in range(6):
            with ask(site, "/xds/repository", request) as connection:
                assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: broken(site, "ITI-43") == before + 6)
    with ask(site, "/xds/repository", request) as connection:
        assert read_http(rest(connection)).status == 200
    site.goes_on(tmp_path)


def test_a_consumer_that_leaves_while_its_pictures_are_fetched(site: Site, pacs: BadPacs, tmp_path: Path) -> None:
    files = dicom.ct_study(tmp_path / "far", 3)

    def slow(one: BadPacs, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        time.sleep(0.5)
        one.send(wanted)
        peer.respond(command, SUCCESS)

    pacs.behave()
    pacs.holds += files
    pacs.move = slow
    refs = [ref(file, THEIRS) for file in files]
    site.catalogue(refs)
    with ask(site, "/xds/imaging", images(site, refs)):
        time.sleep(0.2)
    eventually(lambda: all(site.known(one.sop_uid) for one in refs))
    with site.client() as client:
        got = client.images(refs, tmp_path / "got")
    assert got.missing == ()
    assert [len(asked) for asked in pacs.asked] == [0]
    pacs.behave()
