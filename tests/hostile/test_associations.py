"""Requests for an association that are odd, broken or meant to hurt, and neighbours that want every place for themselves."""

import contextlib
import io
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from broker.edge.dimse import pdata
from broker.model.ids import new_oid
from broker.wire import tags
from tests.helpers import dicom
from tests.helpers.dicom import CT
from tests.helpers.dimse import VERIFICATION, Parrot, item, store_request
from tests.helpers.site import LIMITS, A, Site, ref
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk")]

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
SOON = 1.5                  # seconds a peer waits for an answer here: less than the broker's io_timeout
PLACES = int(LIMITS["max_associations"])
APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
LENGTH, CLASS = item(0x51, struct.pack(">L", 16384)), item(0x52, b"1.2.3")
USER = item(0x50, LENGTH + CLASS)
ABSTRACT, SYNTAX = item(0x30, VERIFICATION.encode()), item(0x40, IMPLICIT.encode())
INVALID, UNEXPECTED = (7, b"\0\0\2\6"), (7, b"\0\0\2\2")


def context(number: int, *parts: bytes) -> bytes:
    return item(0x20, bytes((number, 0, 0, 0)) + b"".join(parts or (ABSTRACT, SYNTAX)))


def request(*items: bytes, calling: bytes = b"PACSA", called: bytes = b"BROKER", version: int = 1) -> bytes:
    """Return an A-ASSOCIATE-RQ with these items."""
    body = struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + b"\0" * 32 + b"".join(items)
    return struct.pack(">BBL", 1, 0, len(body)) + body


def results(accept: bytes) -> dict[int, int]:
    """Return the result of each context of an A-ASSOCIATE-AC; a context that is answered twice fails."""
    found: dict[int, int] = {}
    at = 68
    while at < len(accept):
        if accept[at] == 0x21:
            assert accept[at + 4] not in found
            found[accept[at + 4]] = accept[at + 6]
        at += 4 + int.from_bytes(accept[at + 2:at + 4], "big")
    return found


def echo(number: int) -> bytes:
    return pdata.write_command(number, [
        (pdata.CLASS, VERIFICATION), (pdata.FIELD, pdata.C_ECHO_RQ), (pdata.MESSAGE_ID, 3), (pdata.DATA_SET, pdata.NO_DATA_SET)])


def answered(peer: Parrot, number: int, longest: int) -> pdata.CommandSet:
    """Return the command set of the next response in a context: a peer that takes short PDUs gets it in pieces."""
    message, last = b"", False
    while not last:
        kind, body = peer.hear()
        assert (kind, body[4]) == (4, number)
        assert len(body) <= longest
        message, last = message + body[6:], bool(body[5] & 2)
    return pdata.CommandSet.read(message)


@contextlib.contextmanager
def asking(site: Site, data: bytes) -> Iterator[Parrot]:
    with Parrot(site.region.dicom_port) as peer:
        peer.socket.settimeout(SOON)
        with contextlib.suppress(ConnectionError):      # it may be refused before it was all sent
            peer.say(data)
        yield peer


ODD: dict[str, tuple[bytes, dict[int, int]]] = {
    "ids 1 and 2": (request(APPLICATION, context(1), context(2), USER), {1: 0, 2: 0}),
    "an even id": (request(APPLICATION, context(2), USER), {2: 0}),
    "id 0": (request(APPLICATION, context(0), USER), {0: 0}),
    "id 255": (request(APPLICATION, context(255), USER), {255: 0}),
    "one id twice": (request(APPLICATION, context(1), context(1, item(0x30, CT.encode()), SYNTAX), USER), {1: 0}),
    "128 contexts": (request(APPLICATION, *(context(number) for number in range(128)), USER), dict.fromkeys(range(128), 0)),
    "no abstract syntax": (request(APPLICATION, context(1), context(3, SYNTAX), USER), {1: 0, 3: 2}),
    "an empty abstract syntax": (request(APPLICATION, context(1), context(3, item(0x30, b""), SYNTAX), USER), {1: 0, 3: 2}),
    "an abstract syntax that is no UID": (
        request(APPLICATION, context(1), context(3, item(0x30, b"\xff" * 200), SYNTAX), USER), {1: 0, 3: 3}),
    "no transfer syntax": (request(APPLICATION, context(1), context(3, ABSTRACT), USER), {1: 0, 3: 4}),
    "a transfer syntax that is no UID": (
        request(APPLICATION, context(1), context(3, ABSTRACT, item(0x40, b"\xe8\0\xff")), USER), {1: 0, 3: 4}),
    "an empty transfer syntax": (request(APPLICATION, context(1), context(3, ABSTRACT, item(0x40, b"")), USER), {1: 0, 3: 4}),
    "UIDs padded with NUL and blank": (
        request(item(0x10, b"1.2.840.10008.3.1.1.1\0"), context(1, item(0x30, VERIFICATION.encode() + b"\0"),
                                                               item(0x40, IMPLICIT.encode() + b" ")), USER), {1: 0}),
    "syntaxes before the abstract syntax": (request(APPLICATION, context(1, SYNTAX, ABSTRACT), USER), {1: 0}),
    "the user information first": (request(USER, context(1), APPLICATION), {1: 0}),
    "no contexts": (request(APPLICATION, USER), {}),
    "no user information": (request(APPLICATION, context(1)), {1: 0}),
    "user information without a length": (request(APPLICATION, context(1), item(0x50, CLASS)), {1: 0}),
    "user information of one byte": (request(APPLICATION, context(1), item(0x50, item(0x51, b"\1"))), {1: 0}),
    "PDUs of any length": (request(APPLICATION, context(1), item(0x50, item(0x51, b"\0\0\0\0") + CLASS)), {1: 0}),
    "PDUs of an odd length": (request(APPLICATION, context(1), item(0x50, item(0x51, b"\0\0\0\x51") + CLASS)), {1: 0}),
    "PDUs of 7 bytes": (request(APPLICATION, context(1), item(0x50, item(0x51, b"\0\0\0\7") + CLASS)), {1: 0}),
    "PDUs of 1 byte": (request(APPLICATION, context(1), item(0x50, item(0x51, b"\0\0\0\1") + CLASS)), {1: 0}),
    "unknown items": (request(item(0x99, b"?"), APPLICATION, context(1), item(0x50, item(0x99, b"?") + LENGTH + CLASS)), {1: 0}),
    "broken roles, identities and negotiations": (
        request(APPLICATION, context(1), item(0x50, LENGTH + CLASS + b"".join(
            item(kind, value) for kind in (0x53, 0x54, 0x56, 0x57, 0x58) for value in (b"", b"\xff\xff", b"\1\1\xff\xff\xff"))),
        ), {1: 0}),
    "names that are no text": (
        request(APPLICATION, context(1), item(0x50, LENGTH + item(0x52, b"\xff\0") + item(0x55, b"\x1b[2J" * 9))), {1: 0}),
    "further versions": (request(APPLICATION, context(1), USER, version=0xFFFF), {1: 0}),
    "AE titles padded with NUL": (request(APPLICATION, context(1), USER, calling=b"PACSA\0\0", called=b" BROKER\0"), {1: 0}),
}


SHORT = {"PDUs of an odd length": 81, "PDUs of 7 bytes": 7}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_is_answered_at_once_and_what_is_usable_is_taken(site: Site, name: str) -> None:
    data, expected = ODD[name]
    with asking(site, data) as peer:
        kind, body = peer.hear()
        assert kind == 2
        assert results(body) == expected
        for number in (number for number, result in expected.items() if result == 0):
            peer.say(echo(number))
            assert answered(peer, number, SHORT.get(name, 16384)).number(pdata.STATUS) == 0
        peer.release()
    assert "Traceback" not in site.region.logs()


BROKEN: dict[str, tuple[bytes, tuple[int, bytes]]] = {
    "an item cut short": (request(APPLICATION, context(1), b"\x20\0"), INVALID),
    "an item longer than the request": (request(APPLICATION, context(1), b"\x20\0\xff\xff"), INVALID),
    "a context without its fixed part": (request(APPLICATION, item(0x20, b"\1\0"), USER), INVALID),
    "a syntax longer than its context": (request(APPLICATION, context(1, ABSTRACT, b"\x40\0\xff\xff1.2"), USER), INVALID),
    "user information with a broken length": (request(APPLICATION, context(1), item(0x50, b"\x51\0\0\7\0")), INVALID),
    "129 contexts": (request(APPLICATION, *(context(number & 255) for number in range(129)), USER), INVALID),
    "30 000 empty contexts": (request(APPLICATION, item(0x20, b"") * 30_000, USER), INVALID),
    "30 000 contexts": (request(APPLICATION, context(1, b"") * 30_000, USER), INVALID),
    "879 KB of syntaxes": (request(APPLICATION, context(1, ABSTRACT, SYNTAX * 1000) * 41, USER), UNEXPECTED),
    "no application context": (request(context(1), USER), (3, b"\0\1\1\2")),
    "another application context": (request(item(0x10, b"1.2.3"), context(1), USER), (3, b"\0\1\1\2")),
    "version 0": (request(APPLICATION, context(1), USER, version=0), (3, b"\0\1\2\2")),
    "version 2 only": (request(APPLICATION, context(1), USER, version=2), (3, b"\0\1\2\2")),
    "an AE title nobody knows": (request(APPLICATION, context(2), USER, calling=b"STRANGER"), (3, b"\0\1\1\3")),
    "an AE title in lower case": (request(APPLICATION, context(1), USER, calling=b"pacsa"), (3, b"\0\1\1\3")),
    "no AE title": (request(APPLICATION, context(1), USER, calling=b""), (3, b"\0\1\1\3")),
    "an AE title that is no text": (request(APPLICATION, USER, calling=b"\xff\x1b[2J\0\r\n"), (3, b"\0\1\1\3")),
    "another called AE title": (request(APPLICATION, context(1), USER, called=b"OTHER"), (3, b"\0\1\1\7")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_request_is_refused_at_once_and_keeps_no_place(site: Site, tmp_path: Path, name: str) -> None:
    """More of them than there are places, all still connected: real senders do not notice."""
    data, answer = BROKEN[name]
    with contextlib.ExitStack() as stack:
        for _ in range(PLACES + 2):
            assert stack.enter_context(asking(site, data)).hear() == answer
        site.store(tmp_path)
    logged = site.region.logs()
    assert "Traceback" not in logged
    assert "\x1b[2J" not in logged


@pytest.mark.parametrize("size", [200_000, 68])
def test_a_stranger_is_refused_by_the_first_bytes_of_its_request(site: Site, size: int) -> None:
    """No more of it is waited for; what comes is not looked at."""
    begin = struct.pack(">BBL", 1, 0, size) + request(calling=b"STRANGER")[6:74]
    with asking(site, begin) as peer:
        assert peer.hear() == (3, b"\0\1\1\3")


def encoded(sop: str, size: int = 16) -> bytes:
    file = io.BytesIO()
    dicom.ct_dataset(new_oid(), new_oid(), sop, size=size, patient=dicom.Patient(id=A.value)).save_as(
        file, enforce_file_format=True)
    return file.getvalue()[tags.read_meta(file.getvalue()).end:]


class Crowd:
    """Associations of one AE title that fill every place, each in the middle of an object that never ends."""

    def __init__(self, site: Site, calling: str, *, drips: bool) -> None:
        self.peers: list[Parrot] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._drip if drips else self._over.wait)
        self._site, self._calling = site, calling

    def __enter__(self) -> Self:
        for _ in range(PLACES):
            peer = Parrot(self._site.region.dicom_port)
            self.peers.append(peer)
            assert peer.associate([(CT, EXPLICIT)], self._calling)[0] == 2
            sop = new_oid()
            peer.say(store_request(1, CT, sop, encoded(sop, 600))[:2000])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for peer in self.peers:
            peer.socket.close()

    def _drip(self) -> None:
        """5 KB/s each, as if it were the rest of the object."""
        while not self._over.wait(0.1):
            for peer in self.peers:
                with contextlib.suppress(OSError):
                    peer.socket.send(b"\0" * 500, socket.MSG_DONTWAIT)


@pytest.mark.parametrize("drips", [True, False], ids=["at 5 KB/s", "half and silent"])
def test_a_hospital_that_takes_every_place_leaves_room_for_the_others(site: Site, tmp_path: Path, drips: bool) -> None:
    with Crowd(site, "PACSA", drips=drips) as crowd:
        (one,) = site.store(tmp_path, calling="PACSB")
        with contextlib.ExitStack() as stack:
            for _ in range(PLACES // 2):        # its whole share at once
                peer = stack.enter_context(Parrot(site.region.dicom_port))
                assert peer.associate([(VERIFICATION, IMPLICIT)], "PACSB")[0] == 2
            refused = stack.enter_context(Parrot(site.region.dicom_port))
            if drips:       # the silent ones are given up by and by
                assert refused.associate([(VERIFICATION, IMPLICIT)], "PACSA") == (3, b"\0\2\3\2")
        heard = []
        for peer in crowd.peers:
            peer.socket.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                heard.append(peer.hear()[0])
        assert len(heard) >= PLACES // 2
        assert set(heard) <= {7, 0}
    eventually(lambda: site.known(ref(one).sop_uid))
    assert "another association needs the place" in site.region.logs()
    site.goes_on(tmp_path)


def test_strangers_that_ask_and_stay_take_no_place(site: Site, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3 * PLACES):
            peer = stack.enter_context(Parrot(site.region.dicom_port))
            assert peer.associate([(CT, EXPLICIT)], "STRANGER")[0] == 3
        site.goes_on(tmp_path)
    assert "calling AE title 'STRANGER' belongs to no hospital" in site.region.logs()
