"""A scripted DICOM peer on a plain socket: it can send what no toolkit would send, in any fragments."""

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Self

from broker.edge.dimse import pdata
from broker.edge.dimse.pdata import CommandSet
from tests.helpers.dial import dial
from tests.helpers.waiting import PATIENCE

VERIFICATION = "1.2.840.10008.1.1"


def item(kind: int, body: bytes) -> bytes:
    """Return an item of an association PDU."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def association(kind: int, calling: str, called: str, contexts: Sequence[tuple[str, str]]) -> bytes:
    """Return an A-ASSOCIATE-RQ (kind 1) proposing (abstract syntax, transfer syntax) pairs with ids 1, 3, 5 …"""
    body = struct.pack(">HH", 1, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + b"\0" * 32
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, syntax) in enumerate(contexts):
        body += item(0x20, bytes((2 * number + 1, 0, 0, 0)) + item(0x30, abstract.encode()) + item(0x40, syntax.encode()))
    body += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3") + item(0x55, b"PARROT"))
    return struct.pack(">BBL", kind, 0, len(body)) + body


def fragments(context: int, control: int, data: bytes, dice: random.Random | None) -> list[bytes]:
    """Return presentation data values; with `dice` cut anywhere, empty ones among them."""
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(6))) if dice else []
    parts = [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]
    return [
        struct.pack(">LBB", len(part) + 2, context, control | (2 if number == len(parts) else 0)) + part
        for number, part in enumerate(parts, 1)
    ]


def pdus(values: list[bytes], dice: random.Random | None) -> bytes:
    """Put presentation data values into P-DATA-TF PDUs, several into one where `dice` says so."""
    found, group = b"", b""
    for number, value in enumerate(values):
        group += value
        if number == len(values) - 1 or dice is None or dice.random() < 0.5:
            found += struct.pack(">BBL", 4, 0, len(group)) + group
            group = b""
    return found


def store_request(context: int, sop_class: str, sop_uid: str, data: bytes, *, dice: random.Random | None = None,
                  message_id: int = 7) -> bytes:
    """Return all bytes of a C-STORE request."""
    command = pdata.write_command(context, [
        (pdata.CLASS, sop_class), (pdata.FIELD, pdata.C_STORE_RQ), (pdata.MESSAGE_ID, message_id), (pdata.PRIORITY, 0),
        (pdata.DATA_SET, 1), (pdata.INSTANCE, sop_uid)])[12:]
    return pdus(fragments(context, 1, command, dice) + fragments(context, 0, data, dice), dice)


class Parrot:
    """A connection that says what it is told and reads what comes."""

    def __init__(self, port: int = 0, connection: socket.socket | None = None) -> None:
        self.socket = connection or dial(port)
        self.socket.settimeout(PATIENCE)
        self.proposed: list[tuple[int, str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def say_in_bits(self, data: bytes, dice: random.Random) -> None:
        """Send bytes cut anywhere."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data:
            size = dice.choice((1, 2, 5, 7, 100, 4000, 70_000))
            self.socket.sendall(data[:size])
            data = data[size:]

    def hear(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; type 0 when the peer closed."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        return head[0], self._exactly(int.from_bytes(head[2:], "big"))

    def associate(self, contexts: Sequence[tuple[str, str]], calling: str = "PACSA", called: str = "BROKER") -> tuple[int, bytes]:
        """Ask for an association; return the answer."""
        self.say(association(1, calling, called, contexts))
        return self.hear()

    def answer(self) -> CommandSet:
        """Return the command set of the next response."""
        kind, body = self.hear()
        assert kind == 4, f"PDU of type {kind}"
        return CommandSet.read(body[6:])

    def release(self) -> None:
        """Ask for release and hear the answer."""
        self.say(b"\5\0\0\0\0\4\0\0\0\0")
        assert self.hear()[0] == 6

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = b""
            with contextlib.suppress(ConnectionResetError):
                more = self.socket.recv(count - len(data))
            if not more:
                break
            data += more
        return data


    def accept(self, refuse: Sequence[str] = ()) -> None:
        """Hear a request for an association and accept every context but those of these abstract syntaxes."""
        kind, body = self.hear()
        assert kind == 1
        results, at = b"", 68
        while at < len(body):
            length = int.from_bytes(body[at + 2:at + 4], "big")
            if body[at] == 0x20:
                number, parts = body[at + 4], body[at + 8:at + 4 + length]
                size = int.from_bytes(parts[2:4], "big")
                abstract, syntax = parts[4:4 + size].decode(), parts[8 + size:][:int.from_bytes(parts[6 + size:8 + size], "big")]
                self.proposed.append((number, abstract, syntax.decode()))
                results += item(0x21, bytes((number, 0, 3 if abstract in refuse else 0, 0)) + item(0x40, syntax))
            at += 4 + length
        roles = b"".join(
            item(0x54, struct.pack(">H", len(uid)) + uid.encode() + b"\0\1") for uid in {one[1] for one in self.proposed})
        answer = body[:68] + item(0x10, b"1.2.840.10008.3.1.1.1") + results
        answer += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3") + roles)
        self.say(struct.pack(">BBL", 2, 0, len(answer)) + answer)

    def context(self, sop_class: str) -> int:
        """Return the id of the first context proposed for a class."""
        return next(number for number, abstract, _ in self.proposed if abstract == sop_class)

    def request(self) -> tuple[CommandSet, bytes]:
        """Return the next request and its data set."""
        command = self.answer()
        data = b""
        while command.has_data_set:
            kind, body = self.hear()
            assert kind == 4
            data += body[6:]
            if body[5] & 2:
                break
        return command, data

    def respond(self, command: CommandSet, status: int, data: bytes = b"", changes: Mapping[int, int] | None = None) -> None:
        """Answer a request; `changes` replaces elements, -1 leaves one out."""
        context = self.context(command.text(pdata.CLASS))
        elements: dict[int, int | str] = {
            pdata.CLASS: command.text(pdata.CLASS), pdata.FIELD: command.number(pdata.FIELD) | pdata.RESPONSE,
            pdata.RESPONDED_TO: command.number(pdata.MESSAGE_ID), pdata.DATA_SET: 1 if data else pdata.NO_DATA_SET,
            pdata.STATUS: status, **(changes or {})}
        found = pdata.write_command(context, [(key, value) for key, value in sorted(elements.items()) if value != -1])
        self.say(found + (pdata.write_data_set(context, data, 0) if data else b""))


@contextlib.contextmanager
def pacs(*scripts: Callable[[Parrot], None]) -> Iterator[int]:
    """Run a PACS that follows one script for each connection it gets; gives its port, and fails when a script does."""
    failures: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)

        def run() -> None:
            try:
                for script in scripts:
                    with Parrot(connection=server.accept()[0]) as peer:
                        script(peer)
            except BaseException as error:  # noqa: BLE001 - told to the test below
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        yield server.getsockname()[1]
        thread.join()
    if failures:
        raise failures[0]


def threads(prefix: str) -> int:
    """Return how many threads with such a name live."""
    return sum(thread.name.startswith(prefix) for thread in threading.enumerate())
