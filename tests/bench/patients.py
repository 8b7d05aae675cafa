"""Figures of the patient index: among a million people against ten thousand, against a bare loop, beside idle connections."""

import contextlib
import itertools
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from broker.app.whole import App
from broker.config.settings import Settings
from broker.edge.mllp.server import MllpServer
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.wire import hl7v3, hl7v3_pdq
from broker.wire.envelope import write_request
from broker.wire.hl7v2 import Deframer, Header, frame
from broker.wire.hl7v2_pdq import write_pdq_query
from broker.wire.hl7v2_pix import write_adt, write_pix_query
from broker.wire.xml import HL7
from tests.bench import bare_index, people, scene
from tests.bench.harness import Figure, Notes, Round
from tests.bench.people import DOMAINS, Face

SMALL, LARGE = 10_000, 1_000_000
_ASKED = 2_000          # different questions
_SLICE = 20             # of them in turn
_SECONDS = 4.0
_IDLE = 5_000
_OURS = "2.999.1.4"
_NOTE = "SQLite, three ids each; a name and a birth date mean about one person on both sides"


class Mllp:
    """One kept MLLP connection: a message at a time."""

    def __init__(self, port: int) -> None:
        self._socket = _connected(port)
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


class Http:
    """One kept HTTP connection: a request at a time."""

    def __init__(self, port: int) -> None:
        self._socket = _connected(port)

    def ask(self, request: bytes) -> bytes:
        """Send a request; return the answer's body."""
        self._socket.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(1 << 16)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(1 << 16)
        return body

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _connected(port: int) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port), 60)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


@dataclass
class Side:
    """One of two brokers that are asked in turn, and how long its answers took."""

    peer: Mllp | Http
    messages: Iterator[bytes]
    expect: bytes
    took: float = 0.0

    def ask(self) -> None:
        """Have some messages answered."""
        started = time.perf_counter()
        for _ in range(_SLICE):
            answer = self.peer.ask(next(self.messages))
            assert self.expect in answer, answer
        self.took += time.perf_counter() - started


def in_turn(ours: Side, theirs: Side) -> tuple[float, float]:
    """Return the answers per second of both, asked a few times each in turn: what else the machine does meets both alike."""
    ours.took = theirs.took = 0.0
    count = 0
    while ours.took + theirs.took < _SECONDS:
        ours.ask()
        theirs.ask()
        count += _SLICE
    return count / ours.took, count / theirs.took


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


def _iti83(face: Face) -> dict[str, str]:
    return {"sourceIdentifier": f"urn:oid:{DOMAINS[0]}|{face.value(DOMAINS[0])}", "targetSystem": f"urn:oid:{DOMAINS[1]}"}


def _iti78(face: Face) -> dict[str, str]:
    born = face.person.birth_date
    return {"family": face.person.names[0].family, "birthdate": f"{born[:4]}-{born[4:6]}-{born[6:]}"}


def _soap(path: str, interaction: str, body: bytes) -> bytes:
    return scene.post(path, write_request(
        body, action=f"{HL7}:{interaction}", to=f"http://127.0.0.1{path}", message_id="urn:uuid:bench"))


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
def _broker(where: Path, count: int, role: "Role", server: str = "") -> Iterator[Settings]:
    """Run a role of a broker with so many people; `server` is a line of that section of its settings."""
    folder = where / str(count)
    folder.mkdir()
    made = scene.settings(folder)
    config = folder / "broker.toml"
    config.write_text(config.read_text("utf-8").replace("[server]\n", f"[server]\n{server}\n"), "utf-8")
    people.copy(count, made.data / "broker.db")
    with role(made):
        yield made


Setup = Callable[[Notes], contextlib.AbstractContextManager[Round]]
Role = Callable[[Settings], contextlib.AbstractContextManager[int]]


def _compared(
    notes: Notes, role: Role, side: Callable[[Settings, int], Side],
) -> contextlib.AbstractContextManager[Round]:
    """Compare one connection to a broker with a million people with one to a broker with ten thousand."""
    @contextlib.contextmanager
    def setup() -> Iterator[Round]:
        notes.add(_NOTE)
        with scene.folder() as where, contextlib.ExitStack() as stack:
            sides = []
            for count in (LARGE, SMALL):
                made = stack.enter_context(_broker(where, count, role))
                sides.append(side(made, count))
                stack.callback(sides[-1].peer.close)
            yield lambda: in_turn(*sides)
    return setup()


def _v2_queries(write: Callable[[Face], bytes], expect: bytes) -> Setup:
    def side(made: Settings, count: int) -> Side:
        messages = itertools.cycle([frame(write(face)) for face in _asked(count)])
        return Side(Mllp(made.server.mllp_port), messages, expect)
    return lambda notes: _compared(notes, mllp, side)


def _v3_queries(path: str, interaction: str, write: Callable[[Face], bytes]) -> Setup:
    def side(made: Settings, count: int) -> Side:
        messages = itertools.cycle([_soap(path, interaction, write(face)) for face in _asked(count)])
        return Side(Http(made.server.http_port), messages, b'"deliveredResponse"/><queryResponseCode code="OK"')
    return lambda notes: _compared(notes, scene.web, side)


def _fhir_queries(path: str, asked: Callable[[Face], dict[str, str]], expect: bytes) -> Setup:
    def side(made: Settings, count: int) -> Side:
        heads = (f"GET {path}?{urlencode(asked(face))} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" for face in _asked(count))
        return Side(Http(made.server.http_port), itertools.cycle([head.encode() for head in heads]), expect)
    return lambda notes: _compared(notes, scene.web, side)


def _bare_query(app: App) -> bare_index.Statements:
    """Return what a query runs, its domain and id marked."""
    face = people.face(7)
    with bare_index.recording(app.database.engine) as seen:
        _door(app).answer(_iti9(face), "127.0.0.1")
    return bare_index.marked(seen, "SELECT", [DOMAINS[0], face.value(DOMAINS[0])])


def _bare_feed(app: App) -> bare_index.Statements:
    """Return what a registration inserts: id, control id, affinity-domain id, and the keys of person and record marked."""
    door = _door(app)
    message = next(_feeds("RECORDED"))
    with bare_index.recording(app.database.engine) as seen:
        assert b"MSA|AA" in door.answer(message, "127.0.0.1")
    with app.database.read() as unit:
        newest = "SELECT value, id, (SELECT max(id) FROM patient_identity) FROM patient_group ORDER BY id DESC LIMIT 1"
        affinity, group, record = unit.connection.exec_driver_sql(newest).one()
    return bare_index.marked(seen, "INSERT", ["RECORDED-00000001", "RECORDED1", affinity, group, record])


def _door(app: App) -> MllpServer:
    rows = [one for one in app.served if one.row.code in {"ITI-8", "ITI-9"}]
    return MllpServer(rows, app.gate, app.settings, ("BROKER", "REGION"))


def _against_bare(
    record: Callable[[App], bare_index.Statements], messages: Callable[[str], Iterator[bytes]], expect: bytes,
) -> Setup:
    """Compare the broker with a bare loop that runs the same SQL, each with ten thousand people of its own."""
    @contextlib.contextmanager
    def setup(notes: Notes) -> Iterator[Round]:
        notes.add("SQLite, 10 000 people, one connection each")
        with scene.folder() as where, contextlib.ExitStack() as stack:
            made = stack.enter_context(_broker(where, SMALL, mllp))
            folder = where / "bare"
            folder.mkdir()
            bare = scene.settings(folder)
            people.copy(SMALL, bare.data / "broker.db")
            with scene.parts(bare) as app:
                bare_index.write(bare_index.Recorded(str(bare.data / "broker.db"), record(app)), folder / "bare.json")
            command = [sys.executable, "-m", "tests.bench.bare_index", str(bare.server.mllp_port), str(folder / "bare.json")]
            stack.enter_context(scene.process(command, bare.server.mllp_port, folder / "bare.log"))
            sides = [Side(Mllp(one.server.mllp_port), messages(name), expect) for name, one in (("U", made), ("V", bare))]
            for one in sides:
                stack.callback(one.peer.close)
            yield lambda: in_turn(*sides)
    return setup


def _idle(notes: Notes) -> contextlib.AbstractContextManager[Round]:
    """Queries/s of a broker that holds many idle connections against those of one that holds none."""
    @contextlib.contextmanager
    def setup() -> Iterator[Round]:
        notes.add(f"{_IDLE} connections, SQLite, 10 000 people")
        with scene.folder() as where, contextlib.ExitStack() as stack:
            sides = []
            for number, idle in enumerate((_IDLE, 0)):
                (where / str(number)).mkdir()
                made = stack.enter_context(_broker(where / str(number), SMALL, mllp, f"mllp_connections = {_IDLE + 16}"))
                for _ in range(idle):
                    stack.callback(socket.create_connection(("127.0.0.1", made.server.mllp_port), 60).close)
                messages = itertools.cycle([frame(_iti9(face)) for face in _asked(SMALL)])
                sides.append(Side(Mllp(made.server.mllp_port), messages, b"|OK\r"))
                stack.callback(sides[-1].peer.close)
            yield lambda: in_turn(*sides)
    return setup()


def _inserts(notes: Notes) -> contextlib.AbstractContextManager[Round]:
    def side(made: Settings, count: int) -> Side:
        return Side(Mllp(made.server.mllp_port), map(frame, _feeds(f"N{count}")), b"MSA|AA")
    notes.add("every feed is a new person, durable before its answer")
    return _compared(notes, mllp, side)


def _figure(name: str, unit: str, setup: Setup) -> Figure:
    return Figure(f"{name}.1m.10k", "among 10 000 people", unit, 0.8, 1.0, setup, large=True)


FIGURES = [
    _figure("iti21", "queries/s", _v2_queries(_iti21, b"|OK|")),
    _figure("iti47", "queries/s", _v3_queries("/pdq", hl7v3_pdq.QUERY, _iti47)),
    _figure("iti78", "queries/s", _fhir_queries("/fhir/Patient", _iti78, b'"mode":"match"')),
    _figure("iti9", "queries/s", _v2_queries(_iti9, b"|OK\r")),
    _figure("iti45", "queries/s", _v3_queries("/pix", hl7v3.QUERY, _iti45)),
    _figure("iti83", "queries/s", _fhir_queries("/fhir/Patient/$ihe-pix", _iti83, b'"targetIdentifier"')),
    _figure("iti8.insert", "feeds/s", _inserts),
    Figure("iti9.sqlite3-floor", "bare loop", "queries/s", 0.4, 0.7, _against_bare(
        _bare_query, lambda _name: itertools.cycle([frame(_iti9(face)) for face in _asked(SMALL)]), b"|OK\r")),
    Figure("iti8.insert.fsync", "bare loop", "feeds/s", 0.3, 0.6, _against_bare(
        _bare_feed, lambda name: map(frame, _feeds(name)), b"MSA|AA")),
    Figure("mllp.idle", "none idle", "queries/s", 0.8, 1.0, _idle),
]
