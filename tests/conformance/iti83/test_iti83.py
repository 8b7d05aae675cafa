import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.people import PersonName
from broker.wire import fhir
from tests.helpers.fhir import BASE, TYPES, Answer
from tests.helpers.patients import HOSPA, HOSPB, HOSPC, WEI, Bench, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
ALIASES = {HOSPA: ("http://hospital-a.example/mrn",), HOSPB: ("http://hospital-b.example/mrn",)}
A1 = "sourceIdentifier=urn:oid:2.999.2.1|A1"


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    described = region(profile)
    domains = [domain.model_copy(update={"aliases": ALIASES.get(domain.oid, ())}) for domain in described.domains]
    built = Bench(database, described.model_copy(update={"domains": tuple(domains)}), tmp_path)
    built.feed("A04", "A1")
    built.add("B2")
    built.add("B1")
    built.add("C1", domain=HOSPC)
    built.feed("A04", "A2", replace(WEI, names=(PersonName("李", "雷"),)))
    built.feed("A40", "A2", retired="A3")
    return built


def ids(answer: Answer, *affinity: str) -> list[str]:
    """Return targetId and targetIdentifier in order, with XAD for these affinity-domain ids."""
    found = []
    for parameter in answer.resource.get("parameter", []):
        identifier = parameter.get("valueIdentifier", {})
        values = {"targetId": parameter.get("valueReference", {}).get("reference", ""),
                  "targetIdentifier": f"{identifier.get('system')}|{identifier.get('value')}"}
        found.append(values[parameter["name"]])
    for value in affinity:
        found = [one.replace(value, "XAD") for one in found]
    return found


def judge(bench: Bench, case: dict[str, Any], answer: Answer) -> None:
    assert answer.status == case["status"]
    if "issue" in case:
        assert answer.issue == case["issue"]
    else:
        assert answer.resource["resourceType"] == "Parameters"
        assert ids(answer, bench.affinity("A1"), bench.affinity("A2")) == case["ids"]
    record = bench.audited()[-1]
    assert (record["event"], record["type"], record["action"]) == ("110112", "ITI-83", "E")
    assert record["outcome"] == ("0" if case["status"] == 200 else "4")
    assert (record["patient"], record["nodes"]) == (case.get("patient", ""), ["127.0.0.1", BASE])


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any], form: str, bench: Bench) -> None:
    before = len(bench.audited())
    judge(bench, case, bench.fhir.get(f"/Patient/$ihe-pix?{case['query']}", form))
    assert len(bench.audited()) == before + 1


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case_as_a_form(case: dict[str, Any], bench: Bench) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    judge(bench, case, bench.fhir.ask("POST", "/Patient/$ihe-pix", case["query"].encode(), headers=headers))


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("source", [
    {"valueString": "urn:oid:2.999.2.1|A1"}, {"valueIdentifier": {"system": "urn:oid:2.999.2.1", "value": "A1"}}])
@pytest.mark.parametrize("kind", ["valueString", "valueUri"])
def test_parameters_of_the_guide(source: dict[str, Any], kind: str, form: str, bench: Bench) -> None:
    body = {"resourceType": "Parameters", "parameter": [
        {"name": "sourceIdentifier", **source}, {"name": "targetSystem", kind: "urn:oid:2.999.4.1"},
        {"name": "_format", "valueString": TYPES[form]}]}
    answer = bench.fhir.ask("POST", "/Patient/$ihe-pix", fhir.write(body, form), form)
    assert (answer.status, ids(answer)) == (200, ["urn:oid:2.999.4.1|C1"])


def test_a_parameter_of_another_type_is_refused(bench: Bench) -> None:
    body = {"resourceType": "Parameters", "parameter": [{"name": "sourceIdentifier", "valueInteger": 1}]}
    answer = bench.fhir.ask("POST", "/Patient/$ihe-pix", json.dumps(body).encode())
    assert (answer.status, answer.issue) == (
        400, ["error", "value", "sourceIdentifier must have valueString or valueIdentifier"])


def test_a_logical_id_of_ours_can_be_asked_about(bench: Bench) -> None:
    affinity = bench.affinity("A1")
    answer = bench.fhir.get(f"/Patient/$ihe-pix?sourceIdentifier={BASE}|Patient/{affinity}&targetSystem=urn:oid:2.999.2.1")
    assert (answer.status, ids(answer)) == (200, ["urn:oid:2.999.2.1|A1"])
    answer = bench.fhir.get(f"/Patient/$ihe-pix?sourceIdentifier={BASE}/|Patient/NEVER")
    assert (answer.status, answer.issue[1]) == (404, "not-found")


def test_the_first_line_of_the_request_is_audited(bench: Bench) -> None:
    bench.fhir.get(f"/Patient/$ihe-pix?{A1}&targetSystem=urn:oid:2.999.4.1", headers={"X-Request-Id": "r-1"})
    record = bench.audited()[-1]
    assert record["query"] == f"GET /fhir/Patient/$ihe-pix?{A1}&targetSystem=urn:oid:2.999.4.1".encode()


@pytest.mark.parametrize("accept", [
    "application/fhir+xml", "text/xml", "application/xml;q=0.9, application/pdf",
    "text/html, application/fhir+xml;fhirVersion=4.0"])
def test_accept_decides_the_format(accept: str, bench: Bench) -> None:
    reply = bench.fhir.send("GET", f"/Patient/$ihe-pix?{A1}", headers={"Accept": accept})
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/fhir+xml; charset=utf-8")


@pytest.mark.parametrize("wanted", ["xml", "application/fhir+xml", "application/fhir%2Bxml", "text/xml"])
def test_format_goes_before_accept(wanted: str, bench: Bench) -> None:
    reply = bench.fhir.send("GET", f"/Patient/$ihe-pix?{A1}&_format={wanted}", headers={"Accept": "application/json"})
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/fhir+xml; charset=utf-8")


@pytest.mark.parametrize("accept", ["", "*/*", "application/*", "application/json", "application/fhir+json; charset=utf-8"])
def test_json_is_the_usual_format(accept: str, bench: Bench) -> None:
    reply = bench.fhir.send("GET", f"/Patient/$ihe-pix?{A1}", headers={"Accept": accept})
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/fhir+json; charset=utf-8")


@pytest.mark.parametrize(("query", "accept"), [
    (A1, "text/html"), (f"{A1}&_format=turtle", "*/*"), (A1, "application/fhir+turtle")])
def test_another_format_is_refused(query: str, accept: str, bench: Bench) -> None:
    answer = bench.fhir.get(f"/Patient/$ihe-pix?{query}", headers={"Accept": accept})
    assert (answer.status, answer.issue) == (
        406, ["error", "not-supported", "answers are application/fhir+json and application/fhir+xml"])
