"""Connections that say nothing, half a thing, or one byte at a time, on the real server."""

import contextlib
import inspect
import os
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gunicorn
import psutil
import pytest
from gunicorn import glogging
from gunicorn.http import wsgi
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.parser import Parser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread

from broker.config.settings import Server, TlsSection
from broker.edge.door.rate import MinimumRate
from broker.edge.door.tls import NOT_NOW
from broker.edge.door.waiting import port_of
from broker.edge.http.answer import Answer, HandedOver, SlowAnswers
from broker.edge.http.connection import GATHERED, Chunks, Connection, Incoming, Refused, Unreader
from tests.helpers.dial import LINES, dial, over
from tests.helpers.pki import Authority
from tests.helpers.soap import NS, Served, ask, envelope, mtom, served
from tests.helpers.waiting import PATIENCE, eventually, spoken_to

pytestmark = pytest.mark.outside

PING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module", params=LINES)
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsSection]:
    """Have the tests of a server run on a plain port, and on one with TLS; these are its settings."""
    if request.param == "plain":
        yield TlsSection()
        return
    pki = Authority(tmp_path_factory.mktemp("pki"))
    with over(pki.client("client", maximum=ssl.TLSVersion.TLSv1_2)):
        yield TlsSection.model_validate({"http": pki.port(required=True)})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, line: TlsSection) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("web"), line, threads=2, retrieve_slots=1, io_timeout=1.0, idle_timeout=2.5,
                waiting_connections=40, min_rate=2000) as running:
        yield running


def connect(server: Served) -> socket.socket:
    return dial(server.port, PATIENCE)


@contextlib.contextmanager
def many(server: Served, count: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(connect(server)))
            found[-1].sendall(say)
        yield found


def pong(connection: socket.socket) -> None:
    connection.sendall(PING)
    data = b""
    while not data.endswith(b"ok"):
        piece = connection.recv(4096)
        assert piece, data
        data += piece
    assert data.startswith(b"HTTP/1.1 200 ")


def answered(server: Served) -> None:
    """Serve a healthy client; the connection's patience is shorter than the deadlines of `small`."""
    with connect(server) as connection:
        pong(connection)


def rest(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            data += piece
    return data


def _is_socket(link: str) -> bool:
    try:
        return "socket:" in os.readlink(link)
    except FileNotFoundError:       # closed since it was listed
        return False


def open_sockets(server: Served) -> int:
    pid = server.process.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return sum(_is_socket(f"/proc/{worker}/fd/{name}") for name in os.listdir(f"/proc/{worker}/fd"))


def test_the_inside_of_gunicorn_is_what_we_rely_on() -> None:
    assert gunicorn.__version__.startswith("27.")
    worker = gthread.ThreadWorker
    assert list(inspect.signature(worker.finish_request).parameters) == ["self", "conn", "fs"]
    assert list(inspect.signature(worker.accept).parameters) == ["self", "listener"]
    run = inspect.getsource(worker.run)
    for name in ("murder_keepalived(force=True)", "murder_pending()", "_cap_keepalive(", "nr_conns < self.worker_connections"):
        assert name in run
    assert "conn.data_ready" in inspect.getsource(worker.handle)
    assert "self.tpool.submit(self.handle, conn)" in inspect.getsource(worker.enqueue_req)
    assert "self.tpool = self.get_thread_pool()" in inspect.getsource(worker.init_process)
    assert "self.unreader" in inspect.getsource(Parser.__init__)
    assert list(inspect.signature(SocketUnreader.chunk).parameters) == ["self", "size_hint"]
    assert callable(SocketUnreader.take_buffered)
    assert "response_class(req, sock, cfg, *response_args)" in inspect.getsource(wsgi.create)
    assert "req._expected_100_continue" in inspect.getsource(wsgi.create)
    assert "self._emit_body(arg)" in inspect.getsource(wsgi.Response.write)
    assert "self.must_close = True" in inspect.getsource(wsgi.Response.force_close)
    assert list(inspect.signature(gthread.PollableMethodQueue.defer).parameters) == ["self", "callback", "args"]
    assert "self.parser = None" in inspect.getsource(ChunkedReader.read)
    assert "self._access_log_enabled" in inspect.getsource(glogging.Logger.setup)
    assert vars(LengthReader(None, 5)) == {"unreader": None, "length": 5}
    assert {"reader", "buf", "failed"} <= vars(Body(None)).keys()


@pytest.mark.parametrize("say", [b"", b"POST /ask HTTP/1.1\r\nHost:", b"\r\n\r\n", b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n"])
def test_idle_connections_hold_no_thread(small: Served, say: bytes) -> None:
    with many(small, 30, say):
        answered(small)
        answered(small)


def test_a_connection_beyond_the_limit_makes_the_oldest_go(server: Served) -> None:
    with many(server, 60) as idle:
        answered(server)
        assert rest(idle[0]) == b""
        pong(idle[-1])


def test_idle_connections_are_closed_in_time_and_leave_nothing(server: Served) -> None:
    eventually(lambda: open_sockets(server) < 10)
    before = open_sockets(server)
    with many(server, 10) as idle:
        assert spoken_to(idle[-1:], 0.2) == []      # not at once
        assert rest(idle[-1]) == b""
    eventually(lambda: open_sockets(server) <= before)


def test_half_a_head_is_refused_in_time(server: Served) -> None:
    with connect(server) as connection:
        for byte in PING[:20]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
        assert rest(connection).startswith(b"HTTP/1.1 408 ")


def test_a_head_without_an_end_is_refused(server: Served) -> None:
    with connect(server) as connection:
        connection.sendall(PING[:-2] + b"X-Long: " + b"x" * 70_000)
        assert rest(connection).startswith(b"HTTP/1.1 431 ")


def test_a_head_cut_at_every_byte_is_one_request(server: Served) -> None:
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(PING)):
            connection.sendall(b"\r\n" + PING[:cut])
            time.sleep(0.002)
            connection.sendall(PING[cut:])
            data = b""
            while not data.endswith(b"ok"):
                data += connection.recv(4096)
            assert data.count(b"HTTP/1.1 200 ") == 1


def test_requests_sent_in_one_go_are_answered_in_order(server: Served) -> None:
    with connect(server) as connection:
        connection.sendall(PING * 5 + PING[:10])
        data = b""
        while data.count(b"HTTP/1.1 200 ") < 5 or not data.endswith(b"ok"):
            data += connection.recv(65536)
        connection.sendall(PING[10:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_bodies_sent_in_one_go_are_their_own_requests(server: Served) -> None:
    body = envelope(ask("hello"), "urn:test:Ask")
    post = (
        f"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/soap+xml\r\nContent-Length: {len(body)}\r\n\r\n").encode()
    with connect(server) as connection:
        connection.sendall((post + body) * 3 + PING)
        data = b""
        while not data.endswith(b"ok"):
            data += connection.recv(65536)
        assert (data.count(b"HTTP/1.1 200 "), data.count(b"hello")) == (4, 3)


def test_requests_behind_a_long_body_are_answered_in_order(server: Served) -> None:
    """What a thread has read of them comes before what the connection still has, over TLS too."""
    large = mtom(f'<Keep xmlns="{NS}"/>'.encode(), "urn:test:Keep", ("a", b"x" * 600_000))
    body = b"".join(large)
    with connect(server) as connection:
        connection.sendall(head("/keep", large.content_type, f"Content-Length: {len(body)}") + body + PING * 500)
        data = b""
        while data.count(b"HTTP/1.1 200 ") < 501 or not data.endswith(b"ok"):
            piece = connection.recv(65536)
            assert piece, data[-1000:]
            data += piece


def test_chunked_bodies_sent_in_one_go_are_their_own_requests(server: Served) -> None:
    body = envelope(ask("hello"), "urn:test:Ask")
    post = (head("/ask", "application/soap+xml", "Transfer-Encoding: chunked")
            + b"%x\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:]))
    with connect(server) as connection:
        connection.sendall(post * 3 + PING)
        data = b""
        while not data.endswith(b"ok"):
            data += connection.recv(65536)
        assert (data.count(b"HTTP/1.1 200 "), data.count(b"hello")) == (4, 3)


def test_a_dripping_body_frees_its_thread(server: Served) -> None:
    head = b"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Type: application/soap+xml\r\nContent-Length: 100000\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(head)
        connection.settimeout(0.1)
        data = b""
        while not data:
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                data = connection.recv(4096)
        assert data.startswith(b"HTTP/1.1 408 ")


# --- slow peers, many of them

SOAP = "application/soap+xml"
PIECE = b"x" * 600
PART = (b"--b\r\nContent-Type: application/xop+xml\r\nContent-ID: <root@x>\r\n\r\n<x/>\r\n--b\r\nContent-ID: <a>\r\n\r\n")
MULTIPART = 'multipart/related; type="application/xop+xml"; start="<root@x>"; start-info="application/soap+xml"; boundary="b"'


def head(path: str, kind: str, more: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{more}\r\n\r\n".encode()


# What a slow peer sends first, and then every tenth of a second: 6 KB/s, thrice the least rate.
SLOW = {
    "a body that fits": (head("/ask", SOAP, "Content-Length: 200000"), PIECE),
    "a long body": (head("/ask", SOAP, "Content-Length: 10000000"), PIECE),
    "a long body, quick at first": (head("/keep", MULTIPART, "Content-Length: 90000000") + PART + b"x" * GATHERED, PIECE),
    "a body that waits to be asked": (head("/ask", SOAP, "Content-Length: 10000000\r\nExpect: 100-continue"), PIECE),
    "chunks": (head("/ask", SOAP, "Transfer-Encoding: chunked"), b"258\r\n" + PIECE + b"\r\n"),
    "many chunks": (head("/keep", MULTIPART, "Transfer-Encoding: chunked")
                    + b"%x\r\n%b\r\n" % (len(PART) + GATHERED, PART + b"x" * GATHERED), b"258\r\n" + PIECE + b"\r\n"),
    "a part": (head("/keep", MULTIPART, "Content-Length: 90000000") + PART, PIECE),
    "a body nobody asked for": (head("/nothing", SOAP, "Content-Length: 10000000"), PIECE),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, line: TlsSection) -> Iterator[Served]:
    """A server of two threads whose deadlines no test lives to see."""
    with served(tmp_path_factory.mktemp("small"), line, threads=2, retrieve_slots=1, uploads=6, io_timeout=60.0, min_rate=2000,
                waiting_connections=800) as running:
        yield running


@contextlib.contextmanager
def slowly(server: Served, count: int, first: bytes, then: bytes, peer: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """So many connections that send slowly while the block runs; those the server ends begin again."""
    stop = threading.Event()
    connections: list[socket.socket] = []

    def attack() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), dial(server.port, PATIENCE, peer) as connection:
                connections.append(connection)
                connection.sendall(first)
                while not stop.wait(0.1):
                    connection.sendall(then)

    threads = [threading.Thread(target=attack) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(connections) >= count)
        yield connections
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def post(server: Served, path: str, body: bytes, kind: str = SOAP) -> bytes:
    """Return the answer's first line; fails when it does not come."""
    with connect(server) as connection:
        connection.sendall(head(path, kind, f"Content-Length: {len(body)}") + body)
        return connection.recv(100).partition(b"\r\n")[0]


def small_and_large(server: Served) -> list[bytes]:
    large = mtom(f'<Keep xmlns="{NS}"/>'.encode(), "urn:test:Keep", ("a", b"x" * 600_000))
    answers = [post(server, "/ask", envelope(ask("hello"), "urn:test:Ask")),
               post(server, "/keep", b"".join(large), large.content_type)]
    with connect(server) as connection:
        pong(connection)
    return answers


@pytest.mark.parametrize("kind", SLOW)
def test_slow_bodies_hold_nobody_up(small: Served, kind: str) -> None:
    """Health, a query and a long submission are answered, each before any deadline ends a slow one."""
    with slowly(small, 12, *SLOW[kind]):
        for _ in range(3):
            assert small_and_large(small) == [b"HTTP/1.1 200 OK"] * 2
            time.sleep(0.3)


def test_slow_bodies_of_many_peers_hold_nobody_up(small: Served) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(2, 14):
            stack.enter_context(slowly(small, 1, *SLOW["a long body, quick at first"], peer=f"127.0.0.{number}"))
        for _ in range(3):
            assert small_and_large(small) == [b"HTTP/1.1 200 OK"] * 2


def test_a_peer_that_has_all_uploads_makes_room_for_another_however_quick_it_is(small: Served) -> None:
    quick = b"x" * 20_000        # 200 KB/s are no crawl
    with slowly(small, 10, head("/keep", MULTIPART, "Content-Length: 90000000") + PART + b"x" * GATHERED, quick, "127.0.0.2"):
        time.sleep(0.5)
        assert small_and_large(small) == [b"HTTP/1.1 200 OK"] * 2


def test_a_body_that_has_to_give_way_is_told_so(small: Served) -> None:
    large = mtom(f'<Keep xmlns="{NS}"/>'.encode(), "urn:test:Keep", ("a", b"x" * 600_000))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(small)) for _ in range(6)]
        for connection in slow:
            connection.sendall(head("/keep", MULTIPART, "Content-Length: 90000000") + PART + b"x" * GATHERED)
        time.sleep(0.3)
        assert post(small, "/keep", b"".join(large), large.content_type) == b"HTTP/1.1 200 OK"
        ended = spoken_to(slow, 8)
        assert len(ended) == 1
        assert ended[0].recv(100).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("length", [GATHERED, 90_000_000], ids=["gathered", "queued"])
def test_bodies_in_memory_are_bounded(small: Served, length: int) -> None:
    worker, = psutil.Process(small.process.pid).children()
    before = worker.memory_info().rss
    almost = head("/keep", MULTIPART, f"Content-Length: {length}") + PART + b"x" * (GATHERED - len(PART) - (length == GATHERED))
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(600):                                  # 150 MB
            found.append(stack.enter_context(
                dial(small.port, PATIENCE, "127.0.0.2")))
            with contextlib.suppress(ConnectionError):
                found[-1].sendall(almost)
        ended = spoken_to(found, 8)
        assert ended
        assert small_and_large(small) == [b"HTTP/1.1 200 OK"] * 2
        assert worker.memory_info().rss - before < 120 << 20


GIVE = mtom(f'<Give xmlns="{NS}">1</Give>'.encode(), "urn:test:Give")
ASK_MUCH = envelope(ask("much " * 50_000), "urn:test:Ask")
TAKEN_SLOWLY = {
    "a retrieve": head("/give", GIVE.content_type, f"Content-Length: {GIVE.length}") + b"".join(GIVE),
    "answers to many requests": (head("/ask", SOAP, f"Content-Length: {len(ASK_MUCH)}") + ASK_MUCH) * 40,
}


def push(connection: socket.socket, data: bytes) -> None:
    """Send until no more goes out; over TLS a record at a time does."""
    rest = memoryview(data)
    while rest:
        rest = rest[connection.send(rest):]


@pytest.mark.parametrize("kind", TAKEN_SLOWLY)
def test_slow_readers_hold_nobody_up(small: Served, kind: str) -> None:
    """Their answers go on without a thread; neither threads nor slots are missing to others."""
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(connect(small)) for _ in range(8)]
        for reader in readers:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.setblocking(False)
            with contextlib.suppress(*NOT_NOW):
                push(reader, TAKEN_SLOWLY[kind])

        def trickle() -> bool:
            for reader in readers:
                with contextlib.suppress(*NOT_NOW):
                    reader.recv(1000)
            return post(small, "/give", b"".join(GIVE), GIVE.content_type) == b"HTTP/1.1 200 OK"
        eventually(trickle)
        for _ in range(3):
            trickle()
            assert small_and_large(small) == [b"HTTP/1.1 200 OK"] * 2


def test_a_slow_reader_gets_all_of_its_answer_and_may_ask_again(small: Served) -> None:
    with connect(small) as connection:
        connection.sendall(TAKEN_SLOWLY["a retrieve"])
        time.sleep(2.5)     # longer than a thread waits; the answer is more than sockets hold
        answer = connection.recv(65536)
        length = int(re.findall(rb"Content-Length: (\d+)", answer)[0])
        left = length - len(answer.partition(b"\r\n\r\n")[2])
        while left:
            piece = connection.recv(min(left, 1 << 20))
            assert piece, f"{left} bytes are missing"
            left -= len(piece)
        pong(connection)


_REQUEST = SimpleNamespace(method="POST", version=(1, 1), must_close=False, should_close=lambda: False)


def test_a_reader_that_takes_a_long_piece_steadily_is_not_silent(line: TlsSection) -> None:
    """The piece takes longer than a peer may take nothing; OpenSSL alone says only at its end that something was taken."""
    piece, ended = memoryview(bytes(1 << 20)), queue.SimpleQueue[bool]()
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        dialled = pool.submit(dial, listener.getsockname()[1])
        sock, _ = listener.accept()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
        port = port_of("tls.http", line.http, 5.0)
        if port is not None:
            sock = port.context.wrap_socket(sock, server_side=True)
        with sock, dialled.result() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
            sock.setblocking(False)
            answers, answer = SlowAnswers(1, 1.0), Answer(_REQUEST, sock, SimpleNamespace(protocol="http"), 1.0, lambda: False)
            answers.start()
            answers.take(answer, "peer", piece, iter(()), ended.put)
            got = 0
            while got < len(piece) and ended.empty():
                got += len(reader.recv(8192))
                time.sleep(0.02)
            assert ended.get(timeout=PATIENCE)


@pytest.mark.parametrize("size", [1000, 200_000])
def test_an_answer_is_handed_over_whole_when_not_even_its_head_can_be_sent(size: int) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                left.send(b"x" * 65536)
        answer = Answer(_REQUEST, left, SimpleNamespace(protocol="http"), 5.0, lambda: False)
        answer.start_response("200 OK", [("Content-Length", str(size))])
        with pytest.raises(HandedOver) as over:
            answer.write(b"y" * size)
        assert bytes(over.value.rest).startswith(b"HTTP/1.1 200 OK\r\n")
        assert bytes(over.value.rest).endswith(b"\r\n\r\n" + b"y" * size)


def test_a_hoarder_of_connections_makes_its_own_go(server: Served) -> None:
    with connect(server) as mine, contextlib.ExitStack() as stack:
        pong(mine)
        hoard = []
        for number in range(80):
            hoard.append(stack.enter_context(dial(server.port, PATIENCE, "127.0.0.2")))
            if number % 10 == 0:
                pong(mine)
        eventually(lambda: bool(spoken_to(hoard, 0)))
        assert rest(hoard[0]) == b""
        pong(mine)


@pytest.mark.parametrize(("pieces", "whole"), [
    ([b"5\r\nhello\r\n0\r\n\r\n"], True), ([b"5\r\nhello\r\n0\r\n"], False), ([b"5\r\nhello\r\n0\r\nX: y\r\n"], False),
    ([b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"], True), ([b"9\r\n0\r\n\r\n0\r\n\r\n"], False),
    ([b"5;x=y\r\nhello\r\n0;z\r\n\r\n"], True), ([b"5\r\nhe"], False),
    ([b"zz\r\n"], True), ([b"-1\r\n"], True), ([b"0x5\r\n"], True), ([b"\r\n"], True), ([b"1" * 9000], True),
])
def test_the_end_of_a_chunked_body_is_found_however_it_is_cut(pieces: list[bytes], whole: bool) -> None:
    chunks, single = Chunks(), Chunks()
    assert [chunks.feed(piece) for piece in pieces][-1] is whole
    for byte in b"".join(pieces):
        single.feed(bytes([byte]))
    assert single.whole is whole


def test_empty_lines_before_a_request_have_an_end() -> None:
    left, right = socket.socketpair()
    with left, right:
        connection = Connection(Server(), None, left, None, None)
        assert not connection.take(b"\r\n" * 8)
        with pytest.raises(Refused):
            connection.take(b"\r\n")


def test_clients_that_do_not_close_hold_nobody_up(server: Served) -> None:
    with many(server, 10, PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as closing:
        answered(server)
        assert rest(closing[0]).startswith(b"HTTP/1.1 200 ")
    eventually(lambda: open_sockets(server) < 10)


def threads_of(server: Served) -> set[int]:
    worker, = psutil.Process(server.process.pid).children()
    return {thread.id for thread in worker.threads()} - {worker.pid}


def test_threads_are_replaced_before_they_have_learnt_too_many_names(server: Served) -> None:
    with connect(server) as first, connect(server) as second:
        pong(first)
        before = threads_of(server)
        for _ in range(1000):
            pong(first)
            pong(second)
        pong(first)
        eventually(lambda: len(threads_of(server) & before) <= 2)
        after = threads_of(server)
        assert len(after & before) == 2         # those that look after the master and after slow answers
        assert 2 < len(after) <= 4
        pong(first)


def test_a_worker_that_stops_closes_those_that_wait(tmp_path: Path, line: TlsSection) -> None:
    with served(tmp_path, line, threads=2, retrieve_slots=1) as server, connect(server) as idle, connect(server) as used:
        pong(used)
        server.process.terminate()
        assert rest(idle) == b""
        assert server.process.wait(PATIENCE) == 0


def test_a_head_is_complete_at_its_empty_line_and_empty_lines_before_it_do_not_count() -> None:
    left, right = socket.socketpair()
    with left, right:
        connection = Connection(Server(), None, left, None, None)
        assert [connection.take(piece) for piece in (b"\r\n", b"GET / HTTP/1.1\r\n\r", b"\n")] == [False, False, True]
        assert connection.head == b"GET / HTTP/1.1\r\n\r\n"


def test_a_body_is_given_as_it_comes_and_what_follows_it_is_the_next_request() -> None:
    left, right = socket.socketpair()
    with left, right:
        right.sendall(b"0123456789GET / HTTP")
        unreader = Unreader(left, MinimumRate(1, 1.0))
        unreader.unread(b"abcd")
        body = Incoming(LengthReader(unreader, 14))
        assert [body.read(3), body.read(100), body.read(4), body.read(100), body.read(100)] == [
            b"abc", b"d", b"0123", b"456789", b""]
        assert unreader.take_buffered() == b"GET / HTTP"


def test_a_body_that_ends_early_ends() -> None:
    left, right = socket.socketpair()
    with left:
        with right:
            right.sendall(b"0123")
        body = Incoming(LengthReader(Unreader(left, MinimumRate(1, 1.0)), 10))
        assert [body.read(100), body.read(100), body.read()] == [b"0123", b"", b""]


def test_a_body_that_fails_is_known_to_have_failed() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(0.01)
        body = Incoming(LengthReader(Unreader(left, MinimumRate(1, 1.0)), 10))
        with pytest.raises(TimeoutError):
            body.read(100)
        assert body.failed


def test_only_waiting_for_the_peer_counts_as_slow() -> None:
    rate = MinimumRate(100, 2.0)
    for _ in range(10):
        rate.received(0.1, 1)
    rate.received(1.0, 190)
    rate.received(1.9, 0)
    with pytest.raises(TimeoutError):
        rate.received(0.2, 0)
    rate.begin()
    rate.received(1.9, 0)
