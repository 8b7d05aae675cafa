"""SOAP figures: stored query and registration against a bare WSGI function, documents and pictures against cp and nginx."""

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from broker.app.whole import App
from broker.config.settings import Settings
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.ids import PatientId
from broker.model.metadata import APPROVED, Author, RegistryObjects
from broker.registry import iti18_query, iti42_register
from broker.run import web
from broker.wire import ebxml
from broker.wire.ebxml_query import write_query_request
from broker.wire.envelope import write_request
from broker.wire.xml import parse
from tests.bench import floor, scene
from tests.bench.harness import Figure, Notes, Round, rate
from tests.helpers import registry as made
from tests.helpers.ports import free_port

_PATIENTS, _ENTRIES = 50, 10
_REGISTRY = "/xds/registry"
_QUERY = made.UUIDS["FindDocuments"]
_MARK = "@@@@@@@@"
_TABLES = {"registry_object", "registry_entry", "registry_submission", "registry_association", "registry_code", "registry_author"}


def _entries(patient: PatientId) -> RegistryObjects:
    """Return a submission of entries of about 7.5 KB each, as long as those with many authors and codes are."""
    authors = tuple(
        Author(person=f"{n}^李^明^^^主任医师", institutions=(f"第一人民医院放射科^^^^^&2.999.2.{n}&ISO^^^^2.999.2.{n}",),
               roles=("Attending",), specialties=("Radiology",)) for n in range(1, 5))
    documents = [
        made.document(f"Doc{n}", patient, authors=authors, comments="胸部平扫与增强扫描" * 20) for n in range(_ENTRIES)]
    return made.bundle(documents, patient=patient)


def _fill(app: App) -> list[PatientId]:
    patients = [scene.admit(app, number) for number in range(_PATIENTS)]
    for patient in patients:
        app.registry.register(made.submission(_entries(patient)), Call(caller=ANONYMOUS, facts=AuditFacts()))
    return patients


def _ask(patient: PatientId) -> bytes:
    body = write_query_request(
        _QUERY, {"$XDSDocumentEntryPatientId": str(patient), "$XDSDocumentEntryStatus": [APPROVED]})
    return write_request(body, action=iti18_query.ACTION, to="http://127.0.0.1/xds/registry", message_id="urn:uuid:bench")


def queries(app: App, patients: Sequence[PatientId] = ()) -> list[str]:
    """Return stored queries as HTTP requests, of these patients, else of some that are registered for them."""
    return [scene.post(_REGISTRY, _ask(patient)).decode() for patient in patients or _fill(app)]


def _query_floor(app: App, patient: PatientId, where: Path) -> Path:
    """Write down what a query runs, for the bare function; return the file."""
    with floor.Recorder() as recorder:
        made.ask(app.registry, "FindDocuments", {
            "$XDSDocumentEntryPatientId": str(patient), "$XDSDocumentEntryStatus": [APPROVED]})
    slots = {str(patient): "$XDSDocumentEntryPatientId", APPROVED: "$XDSDocumentEntryStatus"}
    statements = [
        (statement, [[["slot", slots[value]] if value in slots else ["is", value] for value in row] for row in rows])
        for statement, rows in recorder.only("SELECT")]
    file = where / "floor.json"
    floor.write(floor.Recorded("query", str(app.settings.data / "broker.db"), statements), file)
    return file


@contextlib.contextmanager
def _iti18(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where, scene.parts(scene.settings(where)) as app:
        patients = _fill(app)
        bodies = [_ask(patient) for patient in patients]
        ours, bare = web.application(app), floor.read(_query_floor(app, patients[0], where))
        notes.add(f"{_ENTRIES} entries, {len(b''.join(_call(ours, bodies[0]))) // 1000} KB an answer")
        assert b"".join(_call(bare, bodies[0])).count(b"<rim:ExtrinsicObject") == b"".join(_call(ours, bodies[0])).count(
            b"<rim:ExtrinsicObject")
        turn = iter(range(1 << 40))

        def run(application: Any) -> float:
            return rate(lambda: b"".join(_call(application, bodies[next(turn) % len(bodies)])))
        yield lambda: (run(ours), run(bare))


def _call(application: Any, body: bytes) -> list[bytes]:
    status: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": _REGISTRY, "QUERY_STRING": "", "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/soap+xml; charset=utf-8", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    answer = application(environ, lambda code, _headers: status.append(code))
    try:
        pieces = list(answer)
    finally:
        if hasattr(answer, "close"):
            answer.close()
    assert status == ["200 OK"]
    return pieces


@contextlib.contextmanager
def _served_floor(made_settings: Settings, file: Path, where: Path) -> Iterator[int]:
    """Serve the bare function with the product's own server on another port; return the port."""
    port = free_port()
    server = made_settings.server.model_copy(update={"http_port": port})
    own = where / "floor-settings.json"
    own.write_text(replace_server(made_settings, server), "utf-8")
    with scene.process([sys.executable, "-m", "tests.bench.floor", str(own), str(file)], port, where / "floor.log"):
        yield port


def replace_server(settings: Settings, server: Any) -> str:
    return settings.model_copy(update={"server": server}).model_dump_json()


@contextlib.contextmanager
def _iti18_http(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where:
        settings = scene.settings(where)
        with scene.parts(settings) as app:
            requests = queries(app, patients := _fill(app))
            file = _query_floor(app, patients[0], where)
        load = scene.Load(where, requests)
        with scene.web(settings) as pid, _served_floor(settings, file, where) as port:
            yield lambda: (
                load.rate(settings.server.http_port, b"</s:Envelope>"), load.rate(port, b"</s:Envelope>"))
            notes.add(f"worker's peak {scene.peak_memory(pid)}")


def _submit(patient: PatientId) -> str:
    """Return the registration of one manifest as an HTTP request; its uniqueIds end with the mark that becomes a number."""
    document = made.document(patient=patient, unique_id=f"2.999.5.{_MARK}")
    objects = made.bundle([document], patient=patient, unique_id=f"2.999.6.{_MARK}")
    return write_request(
        ebxml.submit_request(objects), action=iti42_register.ACTION, to="http://127.0.0.1/xds/registry",
        message_id="urn:uuid:bench").decode()


def _register_floor(app: App, request: bytes, where: Path) -> Path:
    """Write down what a registration inserts, for the bare function; return the file."""
    number = "19999999"
    body = parse(request.replace(_MARK.encode(), number.encode()))[1][0]
    with floor.Recorder() as recorder:
        app.registry.register(ebxml.read_submission(body), Call(caller=ANONYMOUS, facts=AuditFacts()))
    statements = recorder.only("INSERT")
    assert {statement.split()[2] for statement, _ in statements} == _TABLES
    with app.database.read() as unit:
        rows = unit.connection.exec_driver_sql(
            "SELECT id, uuid FROM registry_object WHERE id > (SELECT max(id) - 3 FROM registry_object) ORDER BY id").all()
    keys = {key: n for n, (key, _) in enumerate(rows)}
    uuids = {uuid for _, uuid in rows}

    def meaning(column: int, value: Any) -> list[Any]:
        if column == 0 and value in keys:
            return ["key", keys[value]]
        if isinstance(value, bytes | memoryview):
            return ["body", value]
        if value in uuids:
            return ["uuid", value]
        return ["text", value.replace(number, _MARK)] if isinstance(value, str) else ["is", value]

    file = where / "floor.json"
    floor.write(floor.Recorded("register", str(app.settings.data / "floor.db"), [
        (statement, [[meaning(*pair) for pair in enumerate(row)] for row in rows]) for statement, rows in statements]), file)
    return file


@contextlib.contextmanager
def _iti42_http(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where:
        settings = scene.settings(where)
        with scene.parts(settings) as app:
            patient = scene.admit(app, 0)
            request = _submit(patient)
            file = _register_floor(app, request.encode(), where)
        shutil.copy(settings.data / "broker.db", settings.data / "floor.db")
        load = scene.Load(where, [scene.post(_REGISTRY, request.encode()).decode()])
        notes.add(f"one manifest: SubmissionSet, DocumentEntry, HasMember; {len(request)} bytes, one fsync each")
        with scene.web(settings) as pid, _served_floor(settings, file, where) as port:
            yield lambda: (
                load.rate(settings.server.http_port, b"ResponseStatusType:Success"),
                load.rate(port, b"ResponseStatusType:Success"))
            notes.add(f"worker's peak {scene.peak_memory(pid)}")


FIGURES: list[Figure] = [
    Figure("iti18.wsgi-floor", "bare WSGI function", "calls/s", 0.25, 0.5, _iti18, runs=9),
    Figure("iti42.http.wsgi-floor", "bare WSGI function", "requests/s", 0.4, 0.7, _iti42_http),
    Figure("iti18.http.wsgi-floor", "bare WSGI function", "requests/s", 0.4, 0.7, _iti18_http),
]
