"""The least a patient index could do: one loop that parses HL7 v2, runs the product's own SQL by sqlite3, and answers.

`python -m tests.bench.bare_index PORT FILE` serves one connection after the other. FILE is what `record` saw the product do.
"""

import json
import secrets
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.bench import floor

_START, _END = b"\x0b", b"\x1c\r"
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
Statements = list[tuple[str, list[list[Any]]]]


@dataclass
class Recorded:
    """What is run: SQL with its rows of values, in which `@0`, `@1`, … stand for what a message says, and for keys."""

    database: str
    statements: Statements


@contextmanager
def recording(engine: sa.Engine) -> Iterator[Statements]:
    """Write down every statement that is run meanwhile, prepared or not, in order."""
    seen: Statements = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool) -> None:
        seen.append((statement, [list(row) for row in parameters] if many else [list(parameters)]))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        with floor.Recorder() as recorder:
            recorder.seen = seen       # one list for both, in order
            yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def marked(statements: Statements, start: str, said: list[Any]) -> Statements:
    """Return the statements that begin with a word; in their values what was `said` is named by its place."""
    def mark(value: Any) -> Any:
        if isinstance(value, bytes | memoryview):
            value = bytes(value).decode("utf-8")
        if isinstance(value, int) and not isinstance(value, bool) and value in said:
            return f"@{said.index(value)}"
        if isinstance(value, str):
            for place, text in enumerate(said):
                value = value.replace(text, f"@{place}") if isinstance(text, str) else value
        return value

    return [(sql, [[mark(value) for value in row] for row in rows]) for sql, rows in statements if sql.lstrip().startswith(start)]


def write(recorded: Recorded, file: Path) -> None:
    """Write it down for the loop."""
    file.write_text(json.dumps(asdict(recorded), ensure_ascii=False), "utf-8")


def _filled(value: Any, said: list[Any]) -> Any:
    if not isinstance(value, str) or "@" not in value:
        return value
    if value[1:].isdecimal():
        return said[int(value[1:])]
    for place, text in enumerate(said):
        value = value.replace(f"@{place}", str(text))
    return value


class _Index:
    def __init__(self, recorded: dict[str, Any]) -> None:
        self._connection = floor.connection(recorded["database"])
        self._statements = recorded["statements"]

    def answer(self, message: bytes) -> bytes:
        lines = message.decode("utf-8").split("\r")
        msh = lines[0].split("|")
        head = f"MSH|^~\\&|BROKER|REGION|{msh[2]}|{msh[3]}|20260301103001||"
        if msh[8].startswith("QBP"):
            return self._found(head, msh, next(line for line in lines if line.startswith("QPD")))
        pid = next(line for line in lines if line.startswith("PID")).split("|")
        self._insert(pid[3].split("^")[0], msh[9])
        return f"{head}ACK^A04^ACK|1|P|2.3.1\rMSA|AA|{msh[9]}\r".encode()

    def _found(self, head: str, msh: list[str], qpd: str) -> bytes:
        fields = qpd.split("|")
        cx = fields[3].split("^")
        domain, wanted = cx[3].split("&")[1], fields[4].split("^")[3].split("&")[1]
        ((sql, (row,)),) = self._statements
        rows = self._connection.execute(sql, [_filled(value, [domain, cx[0]]) for value in row]).fetchall()
        ids = "~".join(f"{value}^^^&{oid}&ISO" for _, oid, value in rows if oid == wanted)
        return (f"{head}RSP^K23^RSP_K23|1|P|2.5\rMSA|AA|{msh[9]}\rQAK|{fields[2]}|OK\r{qpd}\r"
                f"PID|||{ids}||~^^^^^^S\r").encode()

    def _insert(self, value: str, control_id: str) -> None:
        said: list[Any] = [value, control_id, "".join(secrets.choice(_LETTERS) for _ in range(15))]
        self._connection.execute("BEGIN IMMEDIATE")
        for sql, rows in self._statements:
            for row in rows:
                values = [_filled(one, said) for one in row]
                if "RETURNING" in sql and "patient_message" not in sql:     # the group's key, then the record's
                    said.append(self._connection.execute(sql, values).fetchone()[0])
                else:
                    self._connection.execute(sql, values).fetchall()
        self._connection.execute("COMMIT")


def serve(port: int, file: Path) -> None:
    """Answer until killed."""
    index = _Index(json.loads(file.read_text("utf-8")))
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            _converse(listener.accept()[0], index.answer)


def _converse(peer: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    with peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = b""
        while data := peer.recv(1 << 16):
            buffer += data
            while (end := buffer.find(_END)) >= 0:
                peer.sendall(_START + answer(buffer[buffer.find(_START) + 1:end]) + _END)
                buffer = buffer[end + len(_END):]


if __name__ == "__main__":
    try:
        serve(int(sys.argv[1]), Path(sys.argv[2]))
    except sqlite3.Error as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
