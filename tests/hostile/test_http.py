"""HTTP as no good client speaks it: heads that mean two things, headers that would say who we are, what logs repeat, lists."""

import contextlib
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from broker.client import messages
from broker.wire.mime import MtomBody
from broker.wire.xml import RAD, RIM, XDS
from tests.helpers.site import IMAGES, LIMITS, OURS, QUERY, REPOSITORY, RETRIEVE, SOAP_TYPE, Site, head, read_http, rest
from tests.helpers.waiting import PATIENCE

pytestmark = [pytest.mark.peer("dcmtk")]

MARK = "Zhang^San-4711"
WORDS = f"\x1b[31m{MARK}".encode()


def exchange(site: Site, data: bytes) -> bytes:
    """Send, end the sending side, and give everything that comes back."""
    with site.http() as connection:
        connection.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def get(more: bytes, line: bytes = b"GET /schema/xds.xsd HTTP/1.1") -> bytes:
    return line + b"\r\n" + more + b"\r\n"


def post(more: bytes, body: bytes = b"") -> bytes:
    return b"POST /xds/registry HTTP/1.1\r\nHost: x\r\nContent-Type: application/soap+xml\r\n" + more + b"\r\n" + body


# RFC 9112 section in the name. Where the peer's words could be repeated, they are WORDS.
BAD = {
    "3.2 no Host": (get(b""), 400),
    "3.2 two Hosts": (get(b"Host: a\r\nHost: b\r\n"), 400),
    "3.2 the same Host twice": (get(b"Host: a\r\nHost: a\r\n"), 400),
    "3.2 two hosts in a Host": (get(b"Host: a, b\r\n"), 400),
    "3.2 user in Host": (get(b"Host: me@x\r\n"), 400),
    "3.2 path in Host": (get(b"Host: x/y\r\n"), 400),
    "3.2 half an address in Host": (get(b"Host: [::1\r\n"), 400),
    "3.2 letters for a port": (get(b"Host: x:http\r\n"), 400),
    "3.2 a bad Host in HTTP/1.0": (get(b"Host: x y\r\n", b"GET /schema/xds.xsd HTTP/1.0"), 400),
    "3.2 no Host in an absolute request": (get(b"", b"GET http://x/schema/xds.xsd HTTP/1.1"), 400),
    "6.1 gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"3\r\n<x>\r\n0\r\n\r\n"), 501),
    "6.1 gzip and chunked in two fields": (post(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 501),
    "6.1 deflate, chunked": (post(b"Transfer-Encoding: deflate, chunked\r\n", b"0\r\n\r\n"), 501),
    "6.1 identity, chunked": (post(b"Transfer-Encoding: identity, chunked\r\n", b"0\r\n\r\n"), 501),
    "6.1 an unknown coding": (post(b"Transfer-Encoding: " + MARK.encode() + b", chunked\r\n", b"0\r\n\r\n"), 501),
    "6.1 chunked twice": (post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), 400),
    "6.1 chunked not last": (post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"), 400),
    "6.1 not chunked at all": (post(b"Transfer-Encoding: gzip\r\n", b"x"), 400),
    "6.1 a length too": (post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"), 400),
    "6.1 chunked in HTTP/1.0": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "6.2 two lengths": (post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"xx"), 400),
    "6.2 two lengths in one": (post(b"Content-Length: 1, 1\r\n", b"x"), 400),
    "6.2 a signed length": (post(b"Content-Length: +1\r\n", b"x"), 400),
    "6.2 a length of words": (post(b"Content-Length: " + MARK.encode() + b"\r\n", b"x"), 400),
    "2.2 empty lines without end": (b"\r\n" * 5000, 400),
    "2.2 empty lines before a request": (b"\r\n" * 9 + get(b"Host: x\r\n"), 400),
    "2.2 bare LF": (b"GET /schema/xds.xsd HTTP/1.1\nHost: x\n\r\n\r\n", 400),
    "2.3 HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "2.3 HTTP/3.0": (get(b"Host: x\r\n", b"GET /schema/xds.xsd HTTP/3.0"), 505),
    "2.3 no version": (get(b"Host: x\r\n", b"GET /schema/xds.xsd"), 400),
    "3 a method of words": (get(b"Host: x\r\n", b"get" + WORDS + b" / HTTP/1.1"), 400),
    "3 a target of words": (get(b"Host: x\r\n", b"GET /" + WORDS + b" HTTP/1.1"), 400),
    "3 a long target": (get(b"Host: x\r\n", b"GET /" + MARK.encode() * 700 + b" HTTP/1.1"), 414),
    "5 a name of words": (get(b"Host: x\r\n" + WORDS + b": 1\r\n"), 400),
    "5 a value of words": (get(b"Host: x\r\nX: " + WORDS + b"\r\n"), 400),
    "5 a line without a colon": (get(b"Host: x\r\n" + MARK.encode() + b"\r\n"), 400),
    "5.1 a space before the colon": (get(b"Host : x\r\n"), 400),
    "5.2 a folded field": (get(b"Host: x\r\nX: a\r\n " + MARK.encode() + b"\r\n"), 400),
    "5.4 many fields": (get(b"Host: x\r\n" + b"X: 1\r\n" * 200), 431),
    "5.4 a long field": (get(b"Host: x\r\nX: " + MARK.encode() * 700 + b"\r\n"), 431),
    "5.4 a long head": (get(b"Host: x\r\n" + b"X: " + MARK.encode() * 7000 + b"\r\n"), 431),
    "an expectation of words": (post(b"Expect: " + MARK.encode() + b"\r\nContent-Length: 1\r\n", b"x"), 417),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_head_is_refused_by_its_status_without_its_words(site: Site, kind: str) -> None:
    data, status = BAD[kind]
    before = len(site.region.logs())
    answer = exchange(site, data)
    assert read_http(answer).status == status
    assert b"\r\nConnection: close\r\n" in answer
    assert MARK.encode() not in answer
    time.sleep(0.1)
    said = site.region.logs()[before:]
    assert MARK not in said
    assert "\x1b" not in said
    assert status in [json.loads(line).get("status") for line in said.splitlines()]


GOOD = {
    "HTTP/1.0 without Host": get(b"", b"GET /schema/xds.xsd HTTP/1.0"),
    "an empty Host": get(b"Host:\r\n"),
    "a port": get(b"Host: x:8080\r\n"),
    "an IPv6 address": get(b"Host: [::1]:8080\r\n"),
    "an underscore": get(b"Host: xds_registry\r\n"),
    "an absolute target": get(b"Host: x\r\n", b"GET http://x/schema/xds.xsd HTTP/1.1"),
    "empty lines": b"\r\n\r\n" + get(b"Host: x\r\n"),
    "a script name": get(b"Host: x\r\nSCRIPT_NAME: /schema\r\n"),
    "the path as a script name": get(b"Host: x\r\nSCRIPT_NAME: /schema/xds.xsd\r\n"),
    "a script name that does not fit": get(b"Host: x\r\nSCRIPT_NAME: /other\r\n"),
    "a script name with a hyphen": get(b"Host: x\r\nScript-Name: /schema\r\n"),
    "a path": get(b"Host: x\r\nPATH_INFO: /other\r\nPath-Info: /other\r\n"),
    "a remote address": get(b"Host: x\r\nREMOTE_ADDR: 9.9.9.9\r\nREMOTE_USER: root\r\n"),
    "schemes that disagree": get(b"Host: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\nX-Forwarded-Protocol: ssl\r\n"),
    "a prefix": get(b"Host: x\r\nX-Forwarded-Prefix: /x\r\nX-Original-URL: /x\r\nX-Rewrite-URL: /x\r\nForwarded: for=x\r\n"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_right_or_means_nothing_is_served(site: Site, kind: str) -> None:
    reply = read_http(exchange(site, GOOD[kind]))
    assert (reply.status, reply.body[:5]) == (200, b"<?xml")


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Script-Name", "PATH_INFO", "X-Forwarded-Prefix", "X-Script-Name"])
def test_no_header_changes_the_path_that_is_served(site: Site, name: str) -> None:
    line = b"GET /elsewhere/schema/xds.xsd HTTP/1.1"
    assert read_http(exchange(site, get(f"Host: x\r\n{name}: /elsewhere\r\n".encode(), line))).status == 404


def test_no_header_changes_where_a_request_came_from(site: Site) -> None:
    body = site.envelope(messages.find_documents(site.patient), QUERY)
    more = (f"X-Forwarded-For: 9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nREMOTE_ADDR: 9.9.9.9\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}")
    with site.http() as connection:
        connection.sendall(head("/xds/registry", SOAP_TYPE, more) + body)
        assert read_http(rest(connection)).status == 200
    assert "9.9.9.9" not in "".join(file.read_text("utf-8") for file in (site.region.data / "audit").glob("*.xml"))


def test_every_line_of_the_log_is_ours(site: Site) -> None:
    """Whatever the tests of this folder did to the region so far."""
    exchange(site, b"nonsense\r\n\r\n")
    for line in site.region.logs().splitlines():
        assert {"event", "level", "timestamp", "role"} <= json.loads(line).keys(), line


# --- what others on the machine may read


def modes(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """Return what is in a folder, with its type and mode."""
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place) / name for name in names)):
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat().st_mode
                yield path, stat.S_IFMT(found), stat.S_IMODE(found)


def test_nobody_else_may_read_what_is_kept(site: Site, tmp_path: Path) -> None:
    site.goes_on(tmp_path)
    site.submit(tmp_path)
    found = list(modes(site.region.data))
    most = {stat.S_IFDIR: 0o750, stat.S_IFREG: 0o640, stat.S_IFSOCK: 0o600}
    assert {kind for _, kind, _ in found} == set(most)
    assert [(str(path), oct(mode)) for path, kind, mode in found if mode & ~most[kind]] == []
    assert [(str(path), oct(mode)) for path, kind, mode in modes(site.region.data / "run")
            if kind == stat.S_IFDIR and mode & 0o077] == []


# --- lists

def instances(count: int) -> bytes:
    wanted = "".join(
        f"<x:DocumentRequest><x:RepositoryUniqueId>{OURS}</x:RepositoryUniqueId>"
        f"<x:DocumentUniqueId>2.999.7.{n}</x:DocumentUniqueId></x:DocumentRequest>" for n in range(count))
    return (
        f'<r:RetrieveImagingDocumentSetRequest xmlns:r="{RAD}" xmlns:x="{XDS}"><r:StudyRequest studyInstanceUID="2.999.7">'
        f'<r:SeriesRequest seriesInstanceUID="2.999.7.0">{wanted}</r:SeriesRequest></r:StudyRequest><r:TransferSyntaxUIDList>'
        "<r:TransferSyntaxUID>1.2.840.10008.1.2.1</r:TransferSyntaxUID></r:TransferSyntaxUIDList>"
        "</r:RetrieveImagingDocumentSetRequest>").encode()


def documents(count: int) -> bytes:
    wanted = "".join(
        f"<x:DocumentRequest><x:RepositoryUniqueId>{REPOSITORY}</x:RepositoryUniqueId>"
        f"<x:DocumentUniqueId>2.999.7.{n}</x:DocumentUniqueId></x:DocumentRequest>" for n in range(count))
    return f'<x:RetrieveDocumentSetRequest xmlns:x="{XDS}">{wanted}</x:RetrieveDocumentSetRequest>'.encode()


LISTS = {"RAD-69": ("/xds/imaging", instances, IMAGES), "ITI-43": ("/xds/repository", documents, RETRIEVE)}
MOST = int(LIMITS["max_listed"])


@pytest.mark.parametrize("kind", LISTS)
def test_a_request_lists_so_much_and_no_more(site: Site, kind: str) -> None:
    path, listing, action = LISTS[kind]
    for count, errors in ((MOST, ["XDSDocumentUniqueIdError"] * MOST), (MOST + 1, ["XDSRepositoryOutOfResources"])):
        message = MtomBody(site.envelope(listing(count), action))
        reply = site.post(path, message, message.content_type)
        found = list(reply.root().iter("{urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0}RegistryError"))
        assert [one.get("errorCode") for one in found] == errors
    assert f"server.max_listed = {MOST}" in str(found[0].get("codeContext"))


def test_a_submission_lists_so_much_and_no_more(site: Site) -> None:
    more = f'<Association xmlns="{RIM}" id="a" associationType="a" sourceObject="a" targetObject="a"/>'.encode() * MOST
    message = site.provide(site.objects(b"document"), b"document")
    body, count = re.subn(rb"</(?:\w+:)?RegistryObjectList>", lambda found: more + found.group(), b"".join(message))
    assert count == 1
    with site.unchanged():
        reply = site.post("/xds/repository", body, message.content_type)
    assert b"XDSRepositoryOutOfResources" in reply.body
    assert f"server.max_listed = {MOST}".encode() in reply.body


# --- one bad neighbour

SLOW = {
    "length": (head("/xds/registry", SOAP_TYPE, "Content-Length: 1000000"), b"x" * 600),
    "chunks": (head("/xds/registry", SOAP_TYPE, "Transfer-Encoding: chunked"), b"258\r\n" + b"x" * 600 + b"\r\n"),
    "small": (head("/pix", SOAP_TYPE, "Content-Length: 100000"), b"x" * 600),
}


@pytest.mark.parametrize("kind", SLOW)
def test_forty_eight_slow_bodies_leave_health_and_work_as_they_were(site: Site, tmp_path: Path, kind: str) -> None:
    """6 KB/s each, above the least rate, thrice as many as there are threads."""
    first, then = SLOW[kind]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        found = [stack.enter_context(site.http()) for _ in range(48)]
        for connection in found:
            connection.sendall(first)
        ended = False

        def drip() -> None:
            while not ended:
                for connection in found:
                    with contextlib.suppress(OSError):
                        connection.sendall(then)
                time.sleep(0.1)
        dripping = pool.submit(drip)
        try:
            for _ in range(3):
                assert site.region.health()["status"] == "ok"
                site.goes_on(tmp_path)
        finally:
            ended = True
        dripping.result()


def test_many_large_lists_leave_the_memory_as_it_was(site: Site) -> None:
    web = next(process for process in psutil.Process(site.region.pid).children() if process.name() == "broker-web")
    worker, = web.children()
    message = MtomBody(site.envelope(instances(MOST), IMAGES))
    data = b"".join(message)

    def ask(_: int) -> int:
        return site.post("/xds/imaging", data, message.content_type).status
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(8)))
        before = worker.memory_info().rss
        assert set(pool.map(ask, range(40))) <= {200, 503}
    assert worker.memory_info().rss - before < 30 << 20
