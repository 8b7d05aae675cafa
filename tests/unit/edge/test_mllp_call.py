"""The initiating side of MLLP: one connection, kept; what is sent again and what is not."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from broker.config.settings import OutboundSection
from broker.edge.mllp.call import MllpCall
from broker.model.errors import Unavailable
from tests.helpers.waiting import PATIENCE

ANSWER = b"\x0bMSH|^~\\&|A|B|C|D|1||ACK|1|P|2.5\rMSA|AA|1\r\x1c\r"
Script = list[list[bytes | None]]


class Peer:
    """Answers each message of its n-th connection as the script says, and closes it behind None or a part of an answer."""

    def __init__(self, script: Script) -> None:
        self.pause = 0.0        # seconds between two bytes of an answer
        self.heard: list[bytes] = []
        self.connections = 0
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for answers in self._script:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection, contextlib.suppress(ConnectionError):
                connection.settimeout(PATIENCE)
                self._converse(connection, answers)

    def _converse(self, connection: socket.socket, answers: list[bytes | None]) -> None:
        for answer in answers:
            data = b""
            while not data.endswith(b"\x1c\r"):
                piece = connection.recv(4096)
                if not piece:
                    return
                data += piece
            self.heard.append(data)
            if answer is None:
                return
            for piece in [bytes([one]) for one in answer] if self.pause else [answer]:
                connection.sendall(piece)
                time.sleep(self.pause)
            if not answer.endswith(b"\x1c\r"):
                return
        connection.recv(1)      # until the other side ends

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def call() -> Iterator[Callable[..., tuple[Peer, MllpCall]]]:
    made: list[tuple[Peer, MllpCall]] = []

    def make(*script: list[bytes | None], **settings: float) -> tuple[Peer, MllpCall]:
        peer = Peer(list(script))
        made.append((peer, MllpCall("127.0.0.1", peer.port, OutboundSection(**{"silence": PATIENCE, **settings}))))
        return made[-1]
    yield make
    for peer, one in made:
        one.close()
        peer.close()


Make = Callable[..., tuple[Peer, MllpCall]]


def test_messages_go_over_one_connection(call: Make) -> None:
    peer, send = call([ANSWER, ANSWER])
    assert send(b"one\r") == send(b"two\r") == ANSWER[1:-2]
    assert (peer.heard, peer.connections) == ([b"\x0bone\r\x1c\r", b"\x0btwo\r\x1c\r"], 1)


def test_a_connection_that_the_peer_has_closed_is_opened_anew_and_the_message_sent_again(call: Make) -> None:
    peer, send = call([ANSWER, None], [ANSWER])
    assert send(b"one\r") == ANSWER[1:-2]
    assert send(b"two\r") == ANSWER[1:-2]
    assert (peer.heard, peer.connections) == ([b"\x0bone\r\x1c\r", b"\x0btwo\r\x1c\r", b"\x0btwo\r\x1c\r"], 2)


def test_a_first_message_without_an_answer_is_not_sent_twice(call: Make) -> None:
    peer, send = call([None], [ANSWER])
    with pytest.raises(Unavailable):
        send(b"one\r")
    assert peer.heard == [b"\x0bone\r\x1c\r"]


def test_a_message_whose_answer_has_begun_is_not_sent_twice(call: Make) -> None:
    peer, send = call([ANSWER, ANSWER[:20]], [ANSWER])
    send(b"one\r")
    with pytest.raises(Unavailable, match="in the middle of its answer"):
        send(b"two\r")
    assert peer.heard == [b"\x0bone\r\x1c\r", b"\x0btwo\r\x1c\r"]


def test_a_second_answer_is_not_taken_for_that_to_the_next_message(call: Make) -> None:
    """What lies between the two makes the first read end before the second."""
    peer, send = call([ANSWER + b"-" * 100_000 + b"\x0bSTALE\r\x1c\r"], [ANSWER])
    assert send(b"one\r") == send(b"two\r") == ANSWER[1:-2]
    assert (peer.heard, peer.connections) == ([b"\x0bone\r\x1c\r", b"\x0btwo\r\x1c\r"], 2)


def test_an_answer_that_comes_byte_by_byte_has_no_more_time_than_any(call: Make) -> None:
    peer, send = call([ANSWER], silence=0.5)
    peer.pause = 0.1
    with pytest.raises(Unavailable, match="TimeoutError"):
        send(b"one\r")


def test_who_is_not_there_or_answers_without_end_is_unavailable(call: Make) -> None:
    _, send = call([b"\x0b" + b"x" * 5000], max_answer=1024)
    with pytest.raises(Unavailable, match="1024"):
        send(b"one\r")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable, match="ConnectionRefusedError"):
        MllpCall("127.0.0.1", port, OutboundSection())(b"one\r")
