"""Connections that ask for nothing, or never end asking; associations that do nothing; descriptors over 1023."""

import contextlib
import io
import os
import random
import resource
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.config.profile import Profile
from broker.config.settings import TlsSection
from broker.db import Database
from broker.edge.dimse import pdata, pending
from broker.wire import tags
from tests.helpers import dicom, dimse
from tests.helpers.dial import LINES, dial, over
from tests.helpers.dicom import CT, Broker
from tests.helpers.dimse import Parrot, store_request
from tests.helpers.pki import Authority
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.outside

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
ABORT, FULL = (7, b"\0\0\2\2"), (3, b"\0\2\3\2")
REQUEST = dimse.association(1, "PACSA", "BROKER", [(dimse.VERIFICATION, IMPLICIT), (CT, EXPLICIT)])
Start = Callable[..., Broker]


@pytest.fixture(params=LINES)
def start(request: pytest.FixtureRequest, tmp_path: Path, database: Database, profile: Profile) -> Iterator[Start]:
    pki = Authority(tmp_path / "pki") if request.param == "tls" else None
    port = pki.port(required=True) if pki else {}
    with over(pki.client("modality") if pki else None), ExitStack() as stack:
        def go(**server: object) -> Broker:
            settings = dicom.short_settings(**server).model_copy(update={"tls": TlsSection.model_validate({"dicom": port})})
            return stack.enter_context(
                dicom.broker(tmp_path, database, profile, dicom.Board(), settings=settings))

        yield go


def encoded(sop: str = "1.2.9", size: int = 16) -> bytes:
    file = io.BytesIO()
    dicom.ct_dataset("1.2", "1.2.1", sop, size=size).save_as(file, enforce_file_format=True)
    data = file.getvalue()
    return data[tags.read_meta(data).end:]


def associated(port: int) -> Parrot:
    peer = Parrot(port)
    assert peer.associate([(dimse.VERIFICATION, IMPLICIT), (CT, EXPLICIT)])[0] == 2
    return peer


def served(port: int) -> None:
    """Store an object."""
    with associated(port) as peer:
        peer.say(store_request(3, CT, "1.2.9", encoded()))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()


def silent(port: int, stack: ExitStack, count: int) -> list[Parrot]:
    return [stack.enter_context(Parrot(port)) for _ in range(count)]


def test_silent_connections_cost_no_thread_and_are_closed_in_time(start: Start) -> None:
    broker = start(io_timeout=1.0, waiting_connections=400)
    with ExitStack() as stack:
        guests = silent(broker.port, stack, 300)
        eventually(lambda: dimse.threads("association-") == 0)
        served(broker.port)
        assert {guest.hear()[0] for guest in guests} == {0}


def test_one_too_many_closes_the_one_that_waits_longest(start: Start) -> None:
    broker = start(waiting_connections=16)
    with ExitStack() as stack:
        guests = silent(broker.port, stack, 17)
        assert guests[0].hear()[0] == 0
        guests[-1].say(REQUEST)
        assert guests[-1].hear()[0] == 2


def test_half_requests_hold_so_much_memory_and_no_more(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "_HELD", 100_000)
    broker = start()
    more = dimse.item(0x99, b"a" * 60_000)      # an item that nobody knows
    large = REQUEST[:2] + struct.pack(">L", len(REQUEST) - 6 + len(more)) + REQUEST[6:] + more
    with ExitStack() as stack:
        first, second, third = silent(broker.port, stack, 3)
        first.say(large[:-1])
        second.say(large[:-1])
        assert first.hear()[0] == 0     # the one that began first makes room
        third.say(large[:-1])
        assert second.hear()[0] == 0
        third.say(large[-1:])
        assert third.hear()[0] == 2
        served(broker.port)


def test_the_address_with_most_waiting_connections_loses_one(start: Start) -> None:
    broker = start(waiting_connections=16)
    with ExitStack() as stack:
        early = stack.enter_context(Parrot(connection=dial(broker.port, source="127.0.0.2")))
        guests = silent(broker.port, stack, 30)
        assert guests[0].hear()[0] == 0
        early.say(REQUEST)
        assert early.hear()[0] == 2


def test_a_request_in_bits_is_one_request(start: Start) -> None:
    broker = start()
    with Parrot(broker.port) as peer:
        peer.say_in_bits(REQUEST, random.Random(1))
        assert peer.hear()[0] == 2
        peer.release()


@pytest.mark.parametrize("say", [
    b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\4\0\xff\xff\xff\xff", b"\1\0\xff\xff\xff\xff", b"\1\0\0\0\0\4\0\0\0\0",
])
def test_what_is_no_request_is_aborted_at_once(start: Start, say: bytes) -> None:
    broker = start()
    with Parrot(broker.port) as peer:
        peer.say(say)
        assert peer.hear() == ABORT
    served(broker.port)


def test_a_request_that_drips_is_given_up(start: Start) -> None:
    broker = start(io_timeout=1.0)
    with Parrot(broker.port) as peer:
        sent = 0
        with contextlib.suppress(OSError):
            for byte in REQUEST:
                peer.say(bytes([byte]))
                sent += 1
                time.sleep(0.05)
        assert sent < len(REQUEST)


def test_an_idle_association_makes_room(start: Start) -> None:
    broker = start(max_associations=3)
    with ExitStack() as stack:
        idle = [stack.enter_context(associated(broker.port)) for _ in range(3)]
        with Parrot(broker.port) as hasty:
            hasty.say(REQUEST)
            assert hasty.hear() == FULL
        time.sleep(1.1)
        idle[0].say(store_request(3, CT, "1.2.9", encoded()))
        assert idle[0].answer().number(pdata.STATUS) == 0
        served(broker.port)
        assert idle[1].hear()[0] == 7
        idle[2].release()
        idle[0].release()


def test_without_a_thread_an_association_is_refused_and_others_are_served(
        start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = start(max_associations=1)

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, Parrot(broker.port) as peer:
        patch.setattr(threading.Thread, "start", none_left)
        peer.say(REQUEST)
        assert peer.hear() == FULL
    served(broker.port)


def test_all_ae_titles_of_a_hospital_have_one_share(tmp_path: Path, database: Database, profile: Profile) -> None:
    named = profile.model_copy(update={"hospitals": tuple(
        one.model_copy(update={"aliases": ("CT1", "MR1")}) if one.key == "a" else one for one in profile.hospitals)})
    request = store_request(1, CT, "1.2.9", encoded())
    settings = dicom.short_settings(max_associations=4)
    with dicom.broker(tmp_path, database, named, dicom.Board(), settings=settings) as broker, ExitStack() as stack:
        def ask(calling: str) -> tuple[Parrot, int]:
            peer = stack.enter_context(Parrot(broker.port))
            return peer, peer.associate([(CT, EXPLICIT)], calling)[0]

        held = []
        for calling in ("PACSA", "CT1", "CT1", "MR1"):
            peer, kind = ask(calling)
            assert kind == 2
            peer.say(request[:-10])
            held.append(peer)
        others = [ask("PACSB") for _ in range(2)]
        assert [kind for _, kind in others] == [2, 2]
        for peer, _ in others:
            peer.say(request[:-10])
        assert [ask(calling)[1] for calling in ("MR1", "PACSA", "PACSB")] == [3, 3, 3]
        eventually(lambda: dimse.threads("association-") == 4)
        answers = []
        for peer in held:
            peer.socket.settimeout(0.5)
            try:
                answers.append(peer.hear()[0])
            except TimeoutError:
                peer.say(request[-10:])
                answers.append(peer.answer().number(pdata.STATUS))
        assert sorted(answers) == [0, 0, 7, 7]


def test_a_message_under_way_keeps_its_place(start: Start) -> None:
    broker = start(max_associations=2)
    request = store_request(3, CT, "1.2.9", encoded())
    with associated(broker.port) as first, associated(broker.port) as second, Parrot(broker.port) as third:
        for one in (first, second):
            one.say(request[:-10])
        time.sleep(1.1)
        third.say(REQUEST)
        assert third.hear() == FULL
        for one in (first, second):
            one.say(request[-10:])
            assert one.answer().number(pdata.STATUS) == 0
            one.release()


def test_an_object_that_drips_is_given_up(start: Start) -> None:
    broker = start(io_timeout=1.0, min_rate=1000)
    with associated(broker.port) as peer:
        peer.socket.settimeout(0.05)
        peer.say(store_request(3, CT, "1.2.9", encoded())[:300])
        with contextlib.suppress(OSError):
            while True:
                peer.say(b"x")
                with contextlib.suppress(TimeoutError):
                    assert peer.socket.recv(10) in {b"\7\0\0\0\0\4\0\0\0\0", b""}
                    break
    eventually(lambda: broker.files() == [])
    eventually(lambda: dimse.threads("association-") == 0)


def test_waiting_between_objects_is_not_dripping(start: Start) -> None:
    broker = start(io_timeout=0.5, min_rate=100_000)
    with associated(broker.port) as peer:
        for _ in range(3):
            time.sleep(0.7)
            peer.say(store_request(3, CT, "1.2.9", encoded()))
            assert peer.answer().number(pdata.STATUS) == 0
        peer.release()


def test_a_length_no_memory_holds_is_not_gathered(start: Start) -> None:
    broker = start(io_timeout=1.0)
    with associated(broker.port) as peer:
        peer.say(b"\4\0\xff\xff\xff\xf0" + struct.pack(">LBB", 0xFFFFFFEC, 3, 3) + b"\0" * 100_000)
        assert peer.hear()[0] in {0, 7}
    served(broker.port)


def test_descriptors_over_1023_are_served(start: Start) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 2048:
        pytest.skip("no so many descriptors are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
    broker = start()
    taken = [os.dup(0)]
    try:
        while taken[-1] < 1100:
            taken.append(os.dup(0))
        served(broker.port)
    finally:
        for handle in taken:
            os.close(handle)
