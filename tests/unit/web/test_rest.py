"""The REST endpoints beside their transactions: what HTTP itself refuses, media types, the CapabilityStatement, bugs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from broker.audit.spool import AuditLog
from broker.config.settings import Server, Settings
from broker.model.errors import TooLarge, Unavailable
from broker.model.transaction import NOBODY, NOTHING_TO_FILTER, AuditEvent, Message, ServedTransaction, Wire
from broker.patients import iti83_query, iti104_feed
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire.fhir_capability import FhirTransaction
from broker.wire.fhir_outcome import refused, reply
from tests.helpers.fhir import TYPES, Fhir


def failing(error: Exception) -> FhirTransaction[Any, Any, Any]:
    def handle(_actor: object, _request: object, _call: object) -> NoReturn:
        raise error
    return FhirTransaction(
        code="TEST-1", name="Test", wire=Wire.HTTP, messages=(Message(name="GET /Test/<id>"), Message(name="PUT /Test/<id>")),
        audit=AuditEvent(event_code="110112", event_text="Query", action="E"), read=lambda raw, _facts: raw, subject=NOBODY,
        handle=handle, filtered=NOTHING_TO_FILTER, write=lambda raw, _result: reply({"resourceType": "Parameters"}, "json"),
        refuse=lambda raw, error: refused(error, raw.answer_format), actor="http://test.example")


@pytest.fixture
def fhir(tmp_path: Path) -> Fhir:
    return client(tmp_path, ZeroDivisionError("张伟"))


def client(folder: Path, error: Exception) -> Fhir:
    rows = (iti83_query.row("2.999.1.1"), iti104_feed.ROW, failing(error))
    gate = Gate(Open(), AuditLog(folder / "audit", "broker", "demo"))
    return Fhir([ServedTransaction(row, None) for row in rows], gate, Settings(server=Server(max_request=1024)))


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize(("method", "path", "status", "code", "allowed"), [
    ("GET", "/Nothing", 404, "not-found", None),
    ("GET", "", 404, "not-found", None),
    ("GET", "//Patient/$ihe-pix", 404, "not-found", None),
    ("PATCH", "/Patient", 405, "not-supported", {"DELETE", "OPTIONS", "PUT"}),
    ("DELETE", "/metadata", 405, "not-supported", {"GET", "HEAD", "OPTIONS"}),
])
def test_what_is_not_served(
    method: str, path: str, status: int, code: str, allowed: set[str] | None, form: str, fhir: Fhir,
) -> None:
    answer = fhir.ask(method, path, None, form)
    assert (answer.status, answer.issue[:2]) == (status, ["error", code])
    assert (set(answer.headers["Allow"].split(", ")) if allowed else answer.headers.get("Allow")) == allowed


def test_head_has_the_head_of_get_and_no_body(fhir: Fhir) -> None:
    got, head = fhir.send("GET", "/metadata"), fhir.send("HEAD", "/metadata")
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", str(len(got.data)))
    assert got.headers["Cache-Control"] == "no-store"


def test_options_tells_the_methods(fhir: Fhir) -> None:
    reply = fhir.send("OPTIONS", "/Patient/$ihe-pix")
    assert (reply.status_code, set(reply.headers["Allow"].split(", "))) == (200, {"GET", "HEAD", "OPTIONS", "POST"})


@pytest.mark.parametrize("form", ["json", "xml"])
def test_the_capability_statement_is_made_of_the_rows(form: str, fhir: Fhir) -> None:
    answer = fhir.get("/metadata", form)
    assert (answer.status, answer.resource["fhirVersion"], answer.resource["kind"]) == (200, "4.0.1", "instance")
    assert answer.resource["format"] == [*TYPES.values()]
    assert answer.resource["implementation"]["url"] == "http://127.0.0.1:8080/fhir"
    assert answer.resource["instantiates"] == [
        "https://profiles.ihe.net/ITI/PIXm/CapabilityStatement/IHE.PIXm.Manager", "http://test.example"]
    [patient] = [one for one in answer.resource["rest"][0]["resource"] if one["type"] == "Patient"]
    assert (patient["conditionalUpdate"], {"code": "update"} in patient["interaction"]) == (True, True)
    assert {"name": "ihe-pix", "definition": "https://profiles.ihe.net/ITI/PIXm/OperationDefinition/IHE.PIXm.pix"} in (
        patient["operation"])


@pytest.mark.parametrize(("path", "status"), [("/metadata?_format=text/html", 406), ("/metadata?_format=xml", 200)])
def test_the_capability_statement_has_two_formats(path: str, status: int, fhir: Fhir) -> None:
    assert fhir.get(path).status == status


@pytest.mark.parametrize(("headers", "status", "text"), [
    ({"Content-Type": "text/plain"}, 415, "application/fhir+json and application/fhir+xml in UTF-8 are taken"),
    ({"Content-Type": "application/fhir+json; charset=gb18030"}, 415,
     "application/fhir+json and application/fhir+xml in UTF-8 are taken"),
    ({"Content-Type": ""}, 415, "a body needs its Content-Type: application/fhir+json and application/fhir+xml are taken"),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415,
     "the body must be application/fhir+json or application/fhir+xml"),
])
def test_bodies_of_other_types_are_refused(headers: Mapping[str, str], status: int, text: str, fhir: Fhir) -> None:
    answer = fhir.ask("PUT", "/Patient?identifier=urn:oid:2.999.2.1|A1", b"_x", headers=headers)
    assert (answer.status, answer.issue) == (status, ["error", "not-supported", text])


def test_the_type_of_a_body_that_is_not_there_says_nothing(fhir: Fhir) -> None:
    for kind in ("application/fhir+json", "text/plain"):
        assert fhir.get("/metadata", headers={"Content-Type": kind}).status == 200
        assert fhir.get("/Patient/$ihe-pix", headers={"Content-Type": kind}).issue[1] == "required"


def test_a_refused_body_ends_the_connection_whatever_the_method(fhir: Fhir) -> None:
    for method, path in (("GET", "/Patient/$ihe-pix"), ("GET", "/none"), ("DELETE", "/none")):
        assert fhir.ask(method, path, b"x", headers={"Content-Type": "text/plain"}).headers["Connection"] == "close"
        assert "Connection" not in fhir.ask(method, path).headers


def test_a_feed_without_a_body_is_refused(fhir: Fhir) -> None:
    answer = fhir.ask("PUT", "/Patient?identifier=urn:oid:2.999.2.1|A1")
    assert (answer.status, answer.issue[1]) == (415, "not-supported")


@pytest.mark.parametrize("body", [b"sourceIdentifier=%ff", b"\xff", b"&a" * 500 + b"&"])
def test_a_form_is_read_or_refused(body: bytes, fhir: Fhir) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert fhir.ask("POST", "/Patient/$ihe-pix", body, headers=headers).status == 400


@pytest.mark.parametrize("path", [
    "/Patient/$ihe-pix?sourceIdentifier=urn:oid:2.999.2.1|A%00", "/Patient/$ihe-pix?a%0Ab=1", "/Test/%00", "/Test/%7F"])
def test_control_characters_of_an_address_are_refused(path: str, fhir: Fhir) -> None:
    answer = fhir.get(path)
    assert (answer.status, answer.issue) == (400, ["error", "invalid", "a parameter holds control characters"])


def test_a_body_over_the_limit_is_refused(fhir: Fhir) -> None:
    answer = fhir.ask("PUT", "/Patient?identifier=urn:oid:2.999.2.1|A1", b" " * 1025)
    assert (answer.status, answer.issue[1], answer.headers["Connection"]) == (413, "too-long", "close")


@pytest.mark.parametrize("form", ["json", "xml"])
def test_a_bug_is_answered_and_logged_once_without_the_peers_words(form: str, fhir: Fhir) -> None:
    with capture_logs() as logs:
        answer = fhir.get("/Test/1", form)
    assert (answer.status, answer.issue) == (500, ["error", "exception", "internal error"])
    assert [(line["event"], line["error"]) for line in logs] == [("bug", "ZeroDivisionError")]
    assert "张伟" not in json.dumps(logs, ensure_ascii=False)


@pytest.mark.parametrize(("error", "status", "code", "headers"), [
    (Unavailable("database", 7), 503, "transient", {"Retry-After": "7"}), (TooLarge("server.x = 1"), 413, "too-long", {})])
def test_errors_that_are_nobodys_fault(
    error: Exception, status: int, code: str, headers: Mapping[str, str], tmp_path: Path,
) -> None:
    answer = client(tmp_path, error).get("/Test/1")
    assert (answer.status, answer.issue) == (status, ["error", code, str(error)])
    assert answer.headers.items() >= headers.items()
