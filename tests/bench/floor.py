"""The least a registry could do: WSGI functions that parse, run the product's own SQL by the driver, and join bytes.

`python -m tests.bench.floor SETTINGS FILE` serves one of them with the product's own server. FILE is what `Recorder`
saw the product do.
"""

import contextlib
import json
import sqlite3
import sys
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg
from lxml import etree

from broker.config.settings import Settings
from broker.db import SqlUnit
from broker.edge.http import routes
from broker.edge.http.server import serve
from broker.wire.ebxml_vocabulary import SUBMISSION_SET, UNIQUE_ID

_SET_UNIQUE_ID = SUBMISSION_SET.identifiers[UNIQUE_ID]
RIM = "{urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0}"
_MARK = "@@@@@@@@"
_ENVELOPE = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"'
    b' xmlns:wsa="http://www.w3.org/2005/08/addressing"><s:Header><wsa:Action s:mustUnderstand="true">%s</wsa:Action>'
    b"<wsa:MessageID>urn:uuid:%s</wsa:MessageID></s:Header><s:Body>%s")
_END = b"</s:Body></s:Envelope>"
_FOUND = (
    b'<query:AdhocQueryResponse xmlns:query="urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0"'
    b' status="urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success">'
    b'<rim:RegistryObjectList xmlns:rim="urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0">')
_FOUND_END = b"</rim:RegistryObjectList></query:AdhocQueryResponse>"
_DONE = (b'<rs:RegistryResponse xmlns:rs="urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"'
         b' status="urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success"/>')


@dataclass
class Recorded:
    """Statements with their rows of values, which are listed (SQLite) or named (PostgreSQL) as the driver takes them.

    A value is [kind, text]: `is` itself, `slot` of the query, `uuid`, `key`, `body` or `text`. `database` is SQLite's file or a
    URL of PostgreSQL.
    """

    kind: str
    database: str
    statements: list[tuple[str, list[Any]]] = field(default_factory=list)


class Recorder:
    """Writes down the prepared statements that are run while it is in use."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[Any]]] = []
        self._driver: property = vars(SqlUnit)["driver"]

    def __enter__(self) -> Self:
        fget = self._driver.fget
        assert fget is not None
        type.__setattr__(SqlUnit, "driver", property(lambda unit: _Spy(fget(unit), self._note)))
        return self

    def __exit__(self, *_: object) -> None:
        type.__setattr__(SqlUnit, "driver", self._driver)

    def _note(self, statement: str, rows: list[Any]) -> None:
        self.seen.append((statement, rows))

    def only(self, start: str) -> list[tuple[str, list[Any]]]:
        """Return the statements that begin with this word."""
        return [(statement, rows) for statement, rows in self.seen if statement.lstrip().upper().startswith(start)]


class _Spy:
    """A driver's connection that tells what it is asked."""

    def __init__(self, driver: Any, note: Callable[[str, list[Any]], None]) -> None:
        self._driver, self._note = driver, note

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        """Run one statement."""
        self._note(statement, [values])
        return self._driver.execute(statement, values)

    def pipeline(self) -> Any:
        """Send statements before their answers are read."""
        return self._driver.pipeline()


def connection(database: str) -> sqlite3.Connection:
    """Open the store with the product's own pragmas."""
    made = sqlite3.connect(database, isolation_level=None, check_same_thread=False, timeout=30)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "cache_size=-65536"):
        made.execute(f"PRAGMA {pragma}")
    return made


class _Connections(threading.local):
    def __init__(self, database: str) -> None:
        is_url = database.startswith("postgresql:")
        self.connection: Any = psycopg.connect(database, autocommit=True) if is_url else connection(database)


def query(recorded: Recorded) -> routes.Application:
    """Return the floor of ITI-18."""
    threads = _Connections(recorded.database)
    (statement, (template,)), = recorded.statements
    body = next(n for n, column in enumerate(statement.partition("FROM")[0].split(",")) if column.endswith("body"))

    def application(environ: dict[str, Any], start_response: routes.StartResponse) -> Iterable[bytes]:
        root = etree.fromstring(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        slots = {
            slot.get("name"): (slot.findtext(f"{RIM}ValueList/{RIM}Value") or "").strip("()'")
            for slot in root.iter(f"{RIM}Slot")}
        values = [slots[text] if kind == "slot" else text for kind, text in template]
        rows = threads.connection.execute(statement, values).fetchall()
        head = _ENVELOPE % (b"urn:ihe:iti:2007:RegistryStoredQueryResponse", str(uuid.uuid4()).encode(), _FOUND)
        return _answer(start_response, b"".join((head, *(row[body] for row in rows), _FOUND_END, _END)))
    return application


def register(recorded: Recorded) -> routes.Application:
    """Return the floor of ITI-42: the same INSERTs in one durable transaction; ids and uniqueIds are new.

    SQLite has one writer at a time: threads take turns, because its own way of waiting sleeps too long.
    """
    lite = not recorded.database.startswith("postgresql:")
    turn = threading.Lock() if lite else contextlib.nullcontext()
    begin = "BEGIN IMMEDIATE" if lite else "BEGIN"
    threads = _Connections(recorded.database)

    def application(environ: dict[str, Any], start_response: routes.StartResponse) -> Iterable[bytes]:
        root = etree.fromstring(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        identifiers = root.iter(f"{RIM}ExternalIdentifier")
        number = next(one.get("value", "") for one in identifiers if one.get("identificationScheme") == _SET_UNIQUE_ID)[-8:]
        store = threads.connection
        with turn:
            store.execute(begin)
            _insert(store, recorded.statements, number)
            store.execute("COMMIT")
        head = _ENVELOPE % (b"urn:ihe:iti:2007:RegisterDocumentSet-bResponse", str(uuid.uuid4()).encode(), _DONE)
        return _answer(start_response, head + _END)
    return application


def _insert(store: Any, statements: list[tuple[str, list[Any]]], number: str) -> None:
    fresh: dict[str, str] = {}
    keys: list[int] = []
    meaning: dict[str, Callable[[Any], Any]] = {
        "is": lambda value: value,
        "body": lambda value: value,
        "uuid": lambda value: fresh.get(value) or fresh.setdefault(value, f"urn:uuid:{uuid.uuid4()}"),
        "text": lambda value: value.replace(_MARK, number),
        "key": lambda value: keys[value],
    }
    for statement, rows in statements:
        (row,) = rows
        done = store.execute(statement, mapped(row, lambda kind, value: meaning[kind](value)))
        if "RETURNING" in statement:
            keys += sorted(key for _, key in done.fetchall())


def mapped(row: Any, change: Callable[[Any, Any], Any]) -> Any:
    """Return a row of pairs with each pair changed, listed or named as before."""
    if isinstance(row, dict):
        return {name: change(*pair) for name, pair in row.items()}
    return [change(*pair) for pair in row]


def _answer(start_response: routes.StartResponse, body: bytes) -> Iterable[bytes]:
    start_response("200 OK", [
        ("Content-Type", "application/soap+xml; charset=utf-8"), ("Content-Length", str(len(body)))])
    return (body,)


KINDS = {"query": query, "register": register}


def write(recorded: Recorded, file: Path) -> None:
    """Keep what was recorded for the process that serves it."""
    file.write_text(json.dumps(vars(recorded), default=lambda data: bytes(data).decode()), "utf-8")


def read(file: Path) -> routes.Application:
    """Return the floor that was written."""
    recorded = Recorded(**json.loads(file.read_text("utf-8")))
    recorded.statements = [
        (statement, [mapped(row, lambda kind, value: [kind, value.encode() if kind == "body" else value]) for row in rows])
        for statement, rows in recorded.statements]
    return KINDS[recorded.kind](recorded)


if __name__ == "__main__":
    serve(lambda: read(Path(sys.argv[2])), Settings.model_validate_json(Path(sys.argv[1]).read_text("utf-8")))
