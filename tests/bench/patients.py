"""Figures of the patient index: questions and feeds among a million people against the same among ten thousand."""

import contextlib
import itertools
import random
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from broker.config.settings import Settings
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.wire import hl7v3, hl7v3_pdq
from broker.wire.envelope import write_request
from broker.wire.hl7v2 import Deframer, Header, frame
from broker.wire.hl7v2_pdq import write_pdq_query
from broker.wire.hl7v2_pix import write_adt, write_pix_query
from broker.wire.xml import HL7
from tests.bench import people, scene
from tests.bench.harness import Figure, Notes, Round, rate
from tests.bench.people import DOMAINS, Face

SMALL, LARGE = 10_000, 1_000_000
_ASKED = 2_000          # different questions
_SECONDS = 2.0
_OURS = "2.999.1.4"
_NOTE = "SQLite, three ids each; a name and a birth date mean about one person on both sides"


class Peer:
    """One kept MLLP connection: a message at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._frames = Deframer(4 << 20)

    def ask(self, block: bytes) -> bytes:
        """Send a block; return the answer."""
        self._socket.sendall(block)
        while (answer := self._frames.take()) is None:
            self._frames.feed(self._socket.recv(1 << 16))
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _asked(count: int) -> list[Face]:
    """Return some of so many people, in no order."""
    return [people.face(number) for number in random.Random(9).sample(range(1, count + 1), _ASKED)]


def _header() -> Header:
    return Header(sender=("VIEW", "CONS"), receiver=("BROKER", "REGION"), charset="UNICODE UTF-8", message_id=MessageId.now())


def _iti21(face: Face) -> bytes:
    asked = [("PID.5.1", face.person.names[0].family), ("PID.7", face.person.birth_date)]
    return write_pdq_query(_header(), asked)


def _iti9(face: Face) -> bytes:
    return write_pix_query(_header(), PatientId(DOMAINS[0], face.value(DOMAINS[0])), DOMAINS[1:2])


def _iti47(face: Face) -> bytes:
    return hl7v3_pdq.write_pdq_query([
        ("livingSubjectName", f"<value><family>{face.person.names[0].family}</family></value>"),
        ("livingSubjectBirthTime", f'<value value="{face.person.birth_date}"/>')], sender="2.999.5.9", receiver=_OURS)


def _iti45(face: Face) -> bytes:
    patient = PatientId(DOMAINS[0], face.value(DOMAINS[0]))
    return hl7v3.write_pix_query(patient, DOMAINS[1:2], sender="2.999.5.9", receiver=_OURS)


def _soap(path: str, interaction: str, body: bytes) -> str:
    return scene.post(path, write_request(
        body, action=f"{HL7}:{interaction}", to=f"http://127.0.0.1{path}", message_id="urn:uuid:bench")).decode()


def _feeds(prefix: str) -> Iterator[bytes]:
    """Yield the registrations of new people, one after the other."""
    for number in itertools.count(1):
        face = people.face(1 << 40 | number)
        header = Header(
            sender=("HIS-A", "HOSPA"), receiver=("BROKER", "REGION"), charset="UNICODE UTF-8", version="2.3.1",
            message_id=MessageId("20260301101500+0800", f"{prefix}{number}"))
        patient = PatientId(DOMAINS[0], f"{prefix}-{number:08d}")
        yield write_adt(header, "A04", patient, face.person, namespace="HOSPA")


@contextlib.contextmanager
def mllp(made: Settings) -> Iterator[int]:
    """Run the broker's mllp role as `broker serve` does; return its pid."""
    command = [sys.executable, "-m", "broker", "serve", "--role", "mllp", "--config", str(made.data.parent / "broker.toml")]
    with scene.process(command, made.server.mllp_port, made.data.parent / "mllp.log") as pid:
        yield pid


@contextlib.contextmanager
def _broker(where: Path, count: int, role: Callable[[Settings], contextlib.AbstractContextManager[int]]) -> Iterator[Settings]:
    """Run a role of a broker with so many people."""
    folder = where / str(count)
    folder.mkdir()
    made = scene.settings(folder)
    people.copy(count, made.data / "broker.db")
    with role(made):
        yield made


@contextlib.contextmanager
def _v2(notes: Notes, blocks: Callable[[int], Iterator[bytes]], expect: bytes) -> Iterator[Round]:
    """Messages per second over one connection each: ours among a million, the peer's among ten thousand."""
    notes.add(_NOTE)
    with scene.folder() as where, contextlib.ExitStack() as stack:
        sides = []
        for count in (LARGE, SMALL):
            made = stack.enter_context(_broker(where, count, mllp))
            peer = stack.enter_context(contextlib.closing(Peer(made.server.mllp_port)))
            sides.append((peer, blocks(count)))

        def speed(peer: Peer, messages: Iterator[bytes]) -> float:
            def once() -> None:
                answer = peer.ask(next(messages))
                assert expect in answer, answer
            return rate(once, _SECONDS)

        yield lambda: (speed(*sides[0]), speed(*sides[1]))


def _questions(write: Callable[[Face], bytes]) -> Callable[[int], Iterator[bytes]]:
    return lambda count: itertools.cycle([frame(write(face)) for face in _asked(count)])


def _queries(write: Callable[[Face], bytes], expect: bytes) -> Callable[[Notes], contextlib.AbstractContextManager[Round]]:
    return lambda notes: _v2(notes, _questions(write), expect)


def _inserts(notes: Notes) -> contextlib.AbstractContextManager[Round]:
    notes.add("every feed is a new person, durable before its answer")
    return _v2(notes, lambda count: map(frame, _feeds(f"N{count}")), b"MSA|AA")


def _v3(
    path: str, interaction: str, write: Callable[[Face], bytes],
) -> Callable[[Notes], contextlib.AbstractContextManager[Round]]:
    @contextlib.contextmanager
    def setup(notes: Notes) -> Iterator[Round]:
        notes.add(_NOTE)
        with scene.folder() as where, contextlib.ExitStack() as stack:
            sides = []
            for count in (LARGE, SMALL):
                made = stack.enter_context(_broker(where, count, scene.web))
                requests: Sequence[str] = [_soap(path, interaction, write(face)) for face in _asked(count)]
                sides.append((scene.Load(where / str(count), [*requests], _SECONDS, 1), made.server.http_port))
            (large, here), (small, there) = sides
            yield lambda: (large.rate(here, b"deliveredResponse"), small.rate(there, b"deliveredResponse"))
    return setup


def _figure(name: str, unit: str, setup: Callable[[Notes], contextlib.AbstractContextManager[Round]]) -> Figure:
    return Figure(f"{name}.1m.10k", "among 10 000 people", unit, 0.8, 1.0, setup, large=True)


FIGURES = [
    _figure("iti21", "queries/s", _queries(_iti21, b"|OK|")),
    _figure("iti47", "queries/s", _v3("/pdq", hl7v3_pdq.QUERY, _iti47)),
    _figure("iti9", "queries/s", _queries(_iti9, b"|OK\r")),
    _figure("iti45", "queries/s", _v3("/pix", hl7v3.QUERY, _iti45)),
    _figure("iti8.insert", "feeds/s", _inserts),
]
