import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from broker.audit.spool import AuditLog
from broker.config.settings import Server, Settings, TlsSection
from broker.edge.mllp.server import MllpServer
from broker.model.caller import Call
from broker.model.errors import BrokerError
from broker.model.message_id import MessageId
from broker.model.transaction import NOBODY, NOTHING_TO_FILTER, AuditEvent, ServedTransaction, Transaction, Wire
from broker.model.transaction import Message as Row
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire.hl7v2 import Message, write_ack
from tests.helpers.dial import LINES, dial, over
from tests.helpers.pki import Authority
from tests.helpers.waiting import PATIENCE, eventually, spoken_to

pytestmark = pytest.mark.outside

NODE = ("BROKER", "REGION")
TRAPS = "葉^區瑋錦誠"


PORT: dict[str, Any] = {}      # TLS of the server, while a test of it runs


@pytest.fixture(autouse=True, params=LINES)
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Have each test run on a plain port, and on one with TLS."""
    if request.param == "plain":
        yield
        return
    pki = Authority(tmp_path / "pki")
    PORT.update(pki.port(required=True))
    with over(pki.client("his", maximum=ssl.TLSVersion.TLSv1_2)):
        yield
    PORT.clear()


class Actor:
    """Remembers the names it was told and the callers; says `boom` when asked to."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.callers: list[tuple[str, str, str]] = []
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def told(self, count: int) -> Callable[[], bool]:
        """Return what says whether so many names were told."""
        return lambda: len(self.names) == count

    def take(self, message: Message, call: Call) -> bytes:
        name = message.need("PID").field(5)
        self.names.append(name)
        self.callers.append((call.caller.node, call.caller.local_node, call.caller.address))
        self.entered.set()
        assert self.go_on.wait(PATIENCE)
        if name == "boom":
            raise ValueError(name)
        return write_ack(message, MessageId.now())


def refuse(message: Message, error: BrokerError) -> bytes:
    return write_ack(message, MessageId.now(), error)


ROW = Transaction(
    code="ITI-8", name="feed", wire=Wire.HL7V2, endpoint="mllp", messages=(Row(name="ADT^A04"),),
    audit=AuditEvent(event_code="110110", event_text="Patient Record", action="C"),
    read=lambda message, _facts: message, subject=NOBODY, handle=Actor.take, filtered=NOTHING_TO_FILTER,
    write=lambda _request, reply: reply, refuse=refuse)


def message(control: str, name: str = "LI", kind: str = "ADT^A04") -> bytes:
    text = f"MSH|^~\\&|HIS|HOSP|BROKER|REGION|1||{kind}|{control}|P|2.3.1||||||GB 18030-2000\rPID|||1||{name}\r"
    return b"\x0b" + text.encode("gb18030") + b"\x1c\r"


@contextmanager
def serving(folder: Path, actor: Actor, **settings: Any) -> Iterator[int]:
    limits = {"mllp_port": 0, "io_timeout": 5.0, "idle_timeout": 10.0, **settings}
    gate = Gate(Open(), AuditLog(folder / "audit", "broker", "demo"))
    tls = TlsSection.model_validate({"mllp": PORT})
    server = MllpServer([ServedTransaction(ROW, actor)], gate, Settings(server=Server(**limits), tls=tls), NODE)
    port, stop = server.listen(), threading.Event()
    thread = threading.Thread(target=server.serve, args=(stop,))
    thread.start()
    try:
        yield port
    finally:
        actor.go_on.set()
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def actor() -> Actor:
    return Actor()


@pytest.fixture
def port(tmp_path: Path, actor: Actor) -> Iterator[int]:
    with serving(tmp_path, actor) as number:
        yield number


@contextmanager
def connected(port: int, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    with dial(port, source=source) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def replies(connection: socket.socket, count: int) -> list[list[str]]:
    """Return MSA-1 and MSA-2 of the next answers."""
    data = b""
    while data.count(b"\x1c\r") < count:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    texts = data.decode("gb18030").replace("\x0b", "").split("\x1c\r")[:-1]
    return [text.split("\r")[1].split("|")[1:3] for text in texts]


def ends(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def refused(port: int, source: str = "127.0.0.1") -> bool:
    """Say whether a new connection is closed at once, over TLS before its handshake."""
    try:
        with connected(port, source) as connection:
            return ends(connection)
    except (ConnectionResetError, ssl.SSLEOFError):
        return True


def threads() -> int:
    return sum(thread.name == "mllp" for thread in threading.enumerate())


def test_a_frame_split_at_every_byte_is_one_message(port: int, actor: Actor) -> None:
    data = message("m1", TRAPS)
    with connected(port) as connection:
        for cut in range(1, len(data)):
            connection.sendall(data[:cut])
            time.sleep(0.001)
            connection.sendall(data[cut:])
            assert replies(connection, 1) == [["AA", "m1"]]
    assert actor.names == [TRAPS] * (len(data) - 1)


def test_a_frame_sent_byte_by_byte_is_one_message(port: int, actor: Actor) -> None:
    with connected(port) as connection:
        for byte in message("m1", TRAPS):
            connection.sendall(bytes([byte]))
            time.sleep(0.0005)
        assert replies(connection, 1) == [["AA", "m1"]]
    assert actor.names == [TRAPS]


def test_messages_that_come_together_are_answered_in_order(port: int, actor: Actor) -> None:
    with connected(port) as connection:
        connection.sendall(b"\n\0".join(message(f"m{n}", f"N{n}") for n in range(20)) + b"\r\n")
        assert replies(connection, 20) == [["AA", f"m{n}"] for n in range(20)]
    assert actor.names == [f"N{n}" for n in range(20)]
    assert set(actor.callers) == {("HOSP|HIS", "REGION|BROKER", "127.0.0.1")}


def test_the_answer_leaves_in_one_piece_and_in_the_senders_character_set(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(message("葉1"))
        answer = connection.recv(65536)
    assert (answer[:1], answer[-2:]) == (b"\x0b", b"\x1c\r")
    assert "MSA|AA|葉1\r".encode("gb18030") in answer


@pytest.mark.parametrize(("data", "answer"), [
    (b"\x0bgarbage\x1c\r", ["AR", ""]), (b"\x0b\x1c\r", ["AR", ""]), (message("m1", kind="ORU^R01"), ["AR", "m1"]),
    (message("m1", kind="ADT^A99"), ["AR", "m1"]), (message("m1").replace(b"|P|", b"|X|"), ["AR", "m1"]),
    (message("m1").replace(b"2.3.1", b"9"), ["AR", "m1"]), (message(""), ["AE", ""]), (message("m1", "boom"), ["AE", "m1"]),
    (message("m1").replace(b"GB 18030-2000", b"8859/99"), ["AE", "m1"]),
    (message("m1").replace(b"LI", b"\xff\xff"), ["AE", "m1"]),
    (message("m1").replace(b"ADT^A04", b"~" * 3000 + b"ADT^A04"), ["AR", "m1"]),
    (message("m1").replace(b"2.3.1", b"~" * 3000 + b"2.3.1"), ["AR", "m1"]),
    (message("~" * 3000), ["AE", ""]),
])
def test_a_bad_message_is_answered_and_the_connection_lives_on(port: int, data: bytes, answer: list[str]) -> None:
    with connected(port) as connection:
        connection.sendall(data + message("m2"))
        assert replies(connection, 2) == [answer, ["AA", "m2"]]


def test_an_acknowledgement_is_not_answered(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(message("m1", kind="ACK") + message("m2", kind="ACK^A04") + message("m3"))
        assert replies(connection, 1) == [["AA", "m3"]]


def test_a_bug_is_logged_once_without_content(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with connected(port) as connection:
        connection.sendall(message("m1", "boom"))
        assert replies(connection, 1) == [["AE", "m1"]]
    logged = [line for line in capsys.readouterr().out.splitlines() if "internal error" in line]
    assert len(logged) == 1
    assert "ValueError" in logged[0]
    assert "boom" not in logged[0]


def test_a_frame_without_an_end_is_given_up(tmp_path: Path, actor: Actor) -> None:
    with serving(tmp_path, actor, io_timeout=0.2) as port, connected(port) as connection:
        connection.sendall(message("m1")[:-2])
        assert ends(connection)
    assert actor.names == []


def lost(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "message lost" in line]


@pytest.mark.parametrize("end", [b"\x1c", b"\x1c\n", b"\x1c\x1c", b"\x1c \r"])
def test_a_block_that_ends_with_fs_alone_is_given_up_and_the_log_says_why(
    tmp_path: Path, actor: Actor, capsys: pytest.CaptureFixture[str], end: bytes,
) -> None:
    with serving(tmp_path, actor, io_timeout=0.2) as port, connected(port) as connection:
        connection.sendall(message("m1")[:-2] + end)
        assert ends(connection)
    assert actor.names == []
    (line,) = lost(capsys)
    assert "ends with FS, without the CR behind it" in line
    assert "127.0.0.1" in line


@pytest.mark.parametrize(("sent", "why"), [
    (message("m1")[:-2] + b"\x1c", "ends with FS, without the CR behind it"), (message("m1")[:-2], "has no end"),
])
def test_a_peer_that_leaves_in_a_block_is_logged(
    port: int, capsys: pytest.CaptureFixture[str], sent: bytes, why: str,
) -> None:
    with connected(port) as connection:
        connection.sendall(sent)
        socket.socket.shutdown(connection, socket.SHUT_WR)      # over TLS without close_notify, as a peer that dies does
        assert ends(connection)
    eventually(lambda: threads() == 0)
    (line,) = lost(capsys)
    assert why in line


@pytest.mark.parametrize("end", [b"", b"\x1c"])
def test_a_block_that_the_next_one_cut_off_is_logged(
    port: int, actor: Actor, capsys: pytest.CaptureFixture[str], end: bytes,
) -> None:
    with connected(port) as connection:
        connection.sendall(message("m1", "A")[:-2] + end + message("m2", "B"))
        assert replies(connection, 1) == [["AA", "m2"]]
    assert actor.names == ["B"]
    (line,) = lost(capsys)
    assert "the next block began" in line


@pytest.mark.parametrize(("encoding", "doubtful"), [("utf-8", True), ("gb18030", False)])
def test_utf8_labelled_gb18030_is_taken_as_labelled_and_logged_with_its_control_id(
    port: int, actor: Actor, capsys: pytest.CaptureFixture[str], encoding: str, doubtful: bool,
) -> None:
    text = message("m7", "张伟").decode("gb18030")
    with connected(port) as connection:
        connection.sendall(text.encode(encoding))
        assert replies(connection, 1) == [["AA", "m7"]]
    assert actor.names == ["张伟".encode(encoding).decode("gb18030")]
    lines = [line for line in capsys.readouterr().out.splitlines() if "doubtful character set" in line]
    assert len(lines) == doubtful
    assert all("m7" in line and "GB 18030-2000" in line and "张" not in line and actor.names[0] not in line for line in lines)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("framed", [True, False])
def test_utf16_is_answered_with_a_reason_and_the_connection_lives_on(
    port: int, actor: Actor, codec: str, framed: bool,
) -> None:
    text = message("m1", "张").decode("gb18030")
    data = text.encode(codec) if framed else b"\x0b" + text[1:-2].encode(codec) + b"\x1c\r"
    with connected(port) as connection:
        connection.sendall(data + message("m2"))
        assert replies(connection, 2) == [["AE", "m1"], ["AA", "m2"]]
    assert actor.names == ["LI"]


def test_a_frame_that_drips_is_given_up(tmp_path: Path, actor: Actor) -> None:
    with serving(tmp_path, actor, io_timeout=5, idle_timeout=0.4) as port, connected(port) as connection:
        connection.settimeout(0.02)
        ended = False
        while not ended:
            try:
                connection.sendall(b"\x0bMSH")
                ended = connection.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True


def test_a_connection_without_messages_is_closed_and_one_with_messages_is_not(tmp_path: Path, actor: Actor) -> None:
    with serving(tmp_path, actor, idle_timeout=2) as port, connected(port) as idle, connected(port) as busy:
        while not spoken_to([idle], 0.1):
            busy.sendall(message("m1"))
            assert replies(busy, 1) == [["AA", "m1"]]
        assert ends(idle)
        busy.sendall(message("m2"))
        assert replies(busy, 1) == [["AA", "m2"]]


@pytest.mark.parametrize("ended", [True, False])
def test_a_message_over_the_limit_is_answered_and_the_connection_closed(tmp_path: Path, actor: Actor, ended: bool) -> None:
    data = message("m9", "X" * 2000)
    with serving(tmp_path, actor, max_message=1024) as port, connected(port) as connection:
        connection.sendall(message("m1") + (data if ended else data[:1500]))
        assert replies(connection, 2) == [["AA", "m1"], ["AR", "m9"]]
        assert ends(connection)
    assert actor.names == ["LI"]


def test_the_answer_to_a_message_over_the_limit_arrives_while_the_sender_still_sends(tmp_path: Path, actor: Actor) -> None:
    with serving(tmp_path, actor, max_message=1024) as port, connected(port) as connection:
        connection.sendall(message("m9", "X" * 2_000_000))
        assert replies(connection, 1) == [["AR", "m9"]]
        assert ends(connection)


def test_a_connection_over_the_limit_takes_the_place_of_the_one_idle_longest(tmp_path: Path, actor: Actor) -> None:
    with serving(tmp_path, actor, mllp_connections=2) as port, ExitStack() as stack:
        first, second, third = (stack.enter_context(connected(port)) for _ in range(3))
        assert ends(first)
        assert threads() == 0       # those that wait have none
        for one in (second, third):
            one.sendall(message("m1"))
            assert replies(one, 1) == [["AA", "m1"]]
        eventually(lambda: threads() == 0)


def test_one_that_was_served_outlives_those_that_say_nothing(tmp_path: Path, actor: Actor) -> None:
    with serving(tmp_path, actor, mllp_connections=4) as port, connected(port) as known:
        known.sendall(message("m1"))
        assert replies(known, 1) == [["AA", "m1"]]
        with ExitStack() as stack:
            half = [stack.enter_context(connected(port)) for _ in range(30)]
            for one in half[10:]:
                with suppress(OSError):
                    one.sendall(message("m1")[:20])
            assert ends(half[0])
            known.sendall(message("m2"))
            assert replies(known, 1) == [["AA", "m2"]]


def test_a_message_at_work_is_not_given_up_for_a_new_connection(tmp_path: Path, actor: Actor) -> None:
    actor.go_on.clear()
    with serving(tmp_path, actor, mllp_connections=1) as port, connected(port) as first:
        first.sendall(message("m1"))
        assert actor.entered.wait(PATIENCE)
        assert refused(port)
        actor.go_on.set()
        assert replies(first, 1) == [["AA", "m1"]]


def test_where_all_are_at_work_the_address_with_most_gives_one_back(tmp_path: Path, actor: Actor) -> None:
    actor.go_on.clear()
    with serving(tmp_path, actor, mllp_connections=4) as port, ExitStack() as stack:
        crowd = [stack.enter_context(connected(port)) for _ in range(4)]
        for number, one in enumerate(crowd):
            one.sendall(message(f"m{number}"))
        eventually(actor.told(4))
        for number, loser in enumerate(crowd[:3]):
            other = stack.enter_context(connected(port, f"127.0.0.{number + 2}"))
            assert ends(loser)
            other.sendall(message(f"o{number}"))
            eventually(actor.told(5 + number))
        assert refused(port, "127.0.0.9")       # each has one now
        actor.go_on.set()
        assert replies(crowd[3], 1) == [["AA", "m3"]]
        assert replies(other, 1) == [["AA", "o2"]]


def test_a_stop_lets_the_message_at_work_be_answered(tmp_path: Path, actor: Actor) -> None:
    actor.go_on.clear()
    with serving(tmp_path, actor) as port:
        connection = dial(port)
        connection.sendall(message("m1"))
        assert actor.entered.wait(PATIENCE)
    with connection:
        assert replies(connection, 1) == [["AA", "m1"]]
        assert ends(connection)


def test_what_an_answer_costs_us_does_not_make_the_peer_slow(tmp_path: Path, actor: Actor) -> None:
    """The next message has begun already while this one is at work for longer than a peer may be slow."""
    actor.go_on.clear()
    with serving(tmp_path, actor, io_timeout=1.0, min_rate=4096) as port, connected(port) as connection:
        second = message("m2")
        connection.sendall(message("m1") + second[:20])
        assert actor.entered.wait(PATIENCE)
        time.sleep(1.2)
        actor.go_on.set()
        assert replies(connection, 1) == [["AA", "m1"]]
        connection.sendall(second[20:60])
        time.sleep(0.1)
        connection.sendall(second[60:])
        assert replies(connection, 1) == [["AA", "m2"]]


def test_a_slow_peer_does_not_hold_up_another(port: int, actor: Actor) -> None:
    actor.go_on.clear()
    with connected(port) as slow, connected(port) as quick:
        slow.sendall(message("m1")[:20])
        quick.sendall(message("m2"))
        assert actor.entered.wait(PATIENCE)
        actor.go_on.set()
        assert replies(quick, 1) == [["AA", "m2"]]
        slow.sendall(message("m1")[20:])
        assert replies(slow, 1) == [["AA", "m1"]]


def test_a_taken_port_is_told_at_once(tmp_path: Path, actor: Actor, port: int) -> None:
    gate = Gate(Open(), AuditLog(tmp_path / "audit", "broker", "demo"))
    with pytest.raises(OSError, match="in use"):
        MllpServer([ServedTransaction(ROW, actor)], gate, Settings(server=Server(mllp_port=port)), NODE).listen()
