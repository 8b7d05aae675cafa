"""SOAP figures: stored query and registration against a bare WSGI function, documents and pictures against cp and nginx."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from broker.app.whole import App
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.ids import PatientId
from broker.model.metadata import APPROVED, Author, RegistryObjects
from broker.registry import iti18_query
from broker.run import web
from broker.wire.ebxml_query import write_query_request
from broker.wire.envelope import write_request
from tests.bench import floor, scene
from tests.bench.harness import Figure, Notes, Round, rate
from tests.helpers import registry as made

_PATIENTS, _ENTRIES = 50, 10
_REGISTRY = "/xds/registry"
_QUERY = made.UUIDS["FindDocuments"]


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
def _iti18_http(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where:
        settings = scene.settings(where)
        with scene.parts(settings) as app:
            requests = queries(app, patients := _fill(app))
            file = _query_floor(app, patients[0], where)
        load = scene.Load(where, requests)
        with scene.web(settings) as pid, scene.served_floor(settings, file, where) as bare:
            yield lambda: (
                load.rate(settings.server.http_port, b"</s:Envelope>"), load.rate(bare.port, b"</s:Envelope>"))
            notes.add(f"worker's peak {scene.peak_memory(pid)}")


FIGURES: list[Figure] = [
    Figure("iti18.wsgi-floor", "bare WSGI function", "calls/s", 0.3, 0.5, _iti18, runs=9),
    Figure("iti18.http.wsgi-floor", "bare WSGI function", "requests/s", 0.4, 0.7, _iti18_http),
]
