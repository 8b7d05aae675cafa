"""ITI-42 figures: registrations against a bare WSGI function that runs the same INSERTs, and how many share a durable flush."""

import contextlib
import mmap
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from broker.app.whole import App
from broker.config.settings import Settings
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.ids import PatientId
from broker.registry import iti42_register
from broker.wire import ebxml
from broker.wire.envelope import write_request
from broker.wire.xml import parse
from tests.bench import commits, floor, scene
from tests.bench.harness import Figure, Notes, Round
from tests.bench.scene import Load, Served
from tests.helpers import postgresql
from tests.helpers import registry as made

_REGISTRY = "/xds/registry"
_SUCCESS = b"ResponseStatusType:Success"
_MARK = "@@@@@@@@"
_CLIENTS, _PATIENTS = 8, 64
_TABLES = {"registry_object", "registry_entry", "registry_submission", "registry_association", "registry_code", "registry_author"}
# PostgreSQL's own count of how often it had its log written to the disk, since version 18 in another view.
_SYNCS = "SELECT wal_sync FROM pg_stat_wal"
_SYNCS_18 = "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"


def _submit(patient: PatientId) -> str:
    """Return the registration of one manifest as an HTTP request; its uniqueIds end with the mark that becomes a number."""
    document = made.document(patient=patient, unique_id=f"2.999.5.{_MARK}")
    objects = made.bundle([document], patient=patient, unique_id=f"2.999.6.{_MARK}")
    return write_request(
        ebxml.submit_request(objects), action=iti42_register.ACTION, to="http://127.0.0.1/xds/registry",
        message_id="urn:uuid:bench").decode()


def _recorded(app: App, request: str, database: str) -> floor.Recorded:
    """Return what a registration inserts, for the bare function, which does the same in `database`."""
    number = "19999999"
    body = parse(request.replace(_MARK, number).encode())[1][0]
    with floor.Recorder() as recorder:
        app.registry.register(ebxml.read_submission(body), Call(caller=ANONYMOUS, facts=AuditFacts()))
    statements = recorder.only("INSERT")
    assert {statement.split()[2] for statement, _ in statements} == _TABLES
    with app.database.read() as unit:
        rows = unit.connection.exec_driver_sql(
            "SELECT id, uuid FROM registry_object WHERE id > (SELECT max(id) - 3 FROM registry_object) ORDER BY id").all()
    keys = {key: n for n, (key, _) in enumerate(rows)}
    uuids = {uuid for _, uuid in rows}

    def meaning(column: str, value: Any) -> list[Any]:
        if column.startswith("object_id") and value in keys:
            return ["key", keys[value]]
        if isinstance(value, bytes | memoryview):
            return ["body", value]
        if value in uuids:
            return ["uuid", value]
        return ["text", value.replace(number, _MARK)] if isinstance(value, str) else ["is", value]

    def told(statement: str, row: Any) -> Any:
        if isinstance(row, dict):
            return {name: meaning(name, value) for name, value in row.items()}
        columns = statement.partition("(")[2].partition(")")[0].split(", ")     # of one row; the values are those of all rows
        return [meaning(columns[number % len(columns)], value) for number, value in enumerate(row)]

    return floor.Recorded(
        "register", database, [(statement, [told(statement, row) for row in rows]) for statement, rows in statements])


class _Side:
    """One of the two registries under load, and what its process needed for it."""

    def __init__(self, load: Load, server: Served) -> None:
        self._load, self._port, self._process = load, server.port, psutil.Process(server.pid)
        self.spent: list[float] = []        # milliseconds of processor time for a request

    def rate(self) -> float:
        """Return registrations/s."""
        before = self._processor()
        found = self._load.rate(self._port, _SUCCESS)
        self.spent.append((self._processor() - before) / self._load.answered * 1000)
        return found

    def _processor(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


@dataclass(frozen=True)
class _Scene:
    """Settings of our registry, requests for it, and what the bare one needs."""

    settings: Settings
    load: Load
    floor_file: Path


@contextlib.contextmanager
def _prepared(where: Path, clients: int, server_url: str = "") -> Iterator[_Scene]:
    """Prepare both sides in SQLite, or in fresh databases of the PostgreSQL server at this URL."""
    settings = scene.settings(where, postgresql.fresh(server_url) if server_url else "")
    other = postgresql.fresh(server_url).replace("+psycopg", "") if server_url else str(settings.data / "floor.db")
    with scene.parts(settings) as app:
        requests = [_submit(scene.admit(app, number)) for number in range(1 if clients == 1 else _PATIENTS)]
        file = where / "floor.json"
        floor.write(_recorded(app, requests[0], other), file)
    if not server_url:
        shutil.copy(settings.data / "broker.db", other)
    yield _Scene(settings, Load(where, [scene.post(_REGISTRY, one.encode()).decode() for one in requests],
                                connections=clients), file)


@contextlib.contextmanager
def _http(notes: Notes, clients: int = 1) -> Iterator[Round]:
    with scene.folder() as where, _prepared(where, clients) as ready, _against_bare(notes, ready, where, clients) as both:
        yield both


@contextlib.contextmanager
def _http_postgresql(notes: Notes) -> Iterator[Round]:
    with postgresql.Postgres(durable=True) as server, scene.folder() as where, _prepared(
            where, _CLIENTS, server.url) as ready, _against_bare(notes, ready, where, _CLIENTS) as both:
        yield both


@contextlib.contextmanager
def _against_bare(notes: Notes, ready: _Scene, where: Path, clients: int) -> Iterator[Round]:
    notes.add(f"one manifest: SubmissionSet, DocumentEntry, HasMember; {clients} connection(s), the bare function commits each")
    settings = ready.settings
    with scene.web(settings) as pid, scene.served_floor(settings, ready.floor_file, where) as bare:
        ours, peer = _Side(ready.load, Served(settings.server.http_port, pid)), _Side(ready.load, bare)
        yield lambda: (ours.rate(), peer.rate())
        spent = " and ".join(f"{statistics.median(side.spent):.2f}" for side in (ours, peer))
        notes.add(f"{spent} ms processor time per request of the web processes; worker's peak {scene.peak_memory(pid)}")


@contextlib.contextmanager
def _flush(notes: Notes) -> Iterator[Round]:
    notes.add(f"{_CLIENTS} connections, counted by SQLite's trace of its COMMITs")
    with scene.folder() as where, _prepared(where, _CLIENTS) as ready:
        counted = where / "commits"
        counted.write_bytes(bytes(commits.SIZE))
        config, port = where / "broker.toml", ready.settings.server.http_port
        command = [sys.executable, "-m", "tests.bench.commits", str(config), str(counted)]
        with counted.open("r+b") as file, mmap.mmap(file.fileno(), commits.SIZE) as count, scene.process(
                command, port, where / "web.log"):
            yield partial(_per_flush, ready.load, port, lambda: commits.read(count))


@contextlib.contextmanager
def _flush_postgresql(notes: Notes) -> Iterator[Round]:
    notes.add(f"{_CLIENTS} connections, counted by pg_stat_wal or pg_stat_io")
    with postgresql.Postgres(durable=True) as server, scene.folder() as where, _prepared(
            where, _CLIENTS, server.url) as ready, scene.web(ready.settings):
        yield partial(_per_flush, ready.load, ready.settings.server.http_port, partial(_syncs, server.url))


def _per_flush(load: Load, port: int, flushes: Callable[[], int]) -> tuple[float, float]:
    """Return registrations per flush, and beside it the one of who commits each."""
    before = flushes()
    load.rate(port, _SUCCESS)
    return load.answered / (flushes() - before), 1.0


def _syncs(server_url: str) -> int:
    """Return how often the server had its log written; its processes tell what they did when they end."""
    with psycopg.connect(server_url.replace("+psycopg", ""), autocommit=True) as connection:
        others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        while connection.execute(f"SELECT 1 {others}").fetchall():
            time.sleep(0.01)
        row = connection.execute(_SYNCS_18 if connection.info.server_version >= 180000 else _SYNCS).fetchone()
    assert row is not None
    return int(row[0])


FIGURES: list[Figure] = [
    Figure("iti42.http.wsgi-floor", "bare WSGI function", "requests/s", 0.7, 0.85, _http),
    Figure("iti42.8.http.wsgi-floor", "bare WSGI function", "requests/s", 0.7, 1.5, partial(_http, clients=_CLIENTS)),
    Figure("iti42.8.flush", "a commit each", "registrations/flush", 3, 6, _flush),
    Figure("iti42.8.flush.postgres", "a commit each", "registrations/flush", 2, 4, _flush_postgresql),
    Figure("iti42.8.postgres.wsgi-floor", "bare WSGI function", "requests/s", 0.6, 1.0, _http_postgresql),
]
