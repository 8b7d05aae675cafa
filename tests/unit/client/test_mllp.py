import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from broker.client.mllp import feed_v2
from broker.model.errors import TooLarge, Unavailable
from tests.helpers.waiting import PATIENCE

pytestmark = pytest.mark.outside

MESSAGE = "MSH|^~\\&|HIS-A|HOSPA|||20260301||ADT^A04|1|P|2.3.1||||||GB 18030-2000\rPID|||1||葉^曉東\r".encode("gb18030")
ANSWER = b"MSH|^~\\&|||||||ACK|2|P|2.3.1\rMSA|AA|1\r"


@contextmanager
def receiver(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                behave(connection)
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def took(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\x1c\r"):
        data += connection.recv(4096)
    return data


def test_a_message_is_framed_and_the_answer_unframed_however_it_arrives() -> None:
    got: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        got.append(took(connection))
        for byte in b"\n\x0b" + ANSWER + b"\x1c\r":
            connection.sendall(bytes([byte]))
    with receiver(behave) as port:
        assert feed_v2("127.0.0.1", port, MESSAGE) == ANSWER
    assert got == [b"\x0b" + MESSAGE + b"\x1c\r"]


@pytest.mark.parametrize("sent", [b"", b"\x0bMSH|"])
def test_a_receiver_that_leaves_without_an_answer_is_unavailable(sent: bytes) -> None:
    def behave(connection: socket.socket) -> None:
        took(connection)
        connection.sendall(sent)
    with receiver(behave) as port, pytest.raises(Unavailable):
        feed_v2("127.0.0.1", port, MESSAGE)


def test_a_silent_receiver_is_given_up() -> None:
    done = threading.Event()

    def behave(_connection: socket.socket) -> None:
        done.wait(PATIENCE)
    with receiver(behave) as port:
        with pytest.raises(Unavailable):
            feed_v2("127.0.0.1", port, MESSAGE, silence=0.2)
        done.set()


def test_an_endless_answer_is_cut_at_the_limit() -> None:
    def behave(connection: socket.socket) -> None:
        took(connection)
        connection.sendall(b"\x0b" + b"x" * 5000)
    with receiver(behave) as port, pytest.raises(TooLarge):
        feed_v2("127.0.0.1", port, MESSAGE, limit=1000)


def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Unavailable):
        feed_v2("127.0.0.1", port, MESSAGE)
