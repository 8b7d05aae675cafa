import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.people import PersonName
from broker.wire import fhir
from tests.helpers.demographics import LEI, fill
from tests.helpers.fhir import BASE, Answer, patient
from tests.helpers.patients import Bench, region

GRADE = "http://hl7.org/fhir/StructureDefinition/match-grade"
JING: dict[str, Any] = {"name": [{"family": "欧阳", "given": ["静", "如"]}], "gender": "female", "birthDate": "1985-06-12"}


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    return fill(Bench(database, region(profile), tmp_path))


def match(bench: Bench, who: dict[str, Any], form: str = "json", **more: Any) -> Answer:
    parameters = [{"name": "resource", "resource": who},
                  *({"name": name, f"value{'Boolean' if value is True else 'Integer'}": value} for name, value in more.items())]
    body = {"resourceType": "Parameters", "parameter": parameters}
    return bench.fhir.ask("POST", "/Patient/$match", fhir.write(body, form), form)


def told(answer: Answer) -> list[tuple[str, float, str]]:
    """Return grade, score and the id in hospital A of each entry."""
    assert (answer.status, answer.resource["resourceType"], answer.resource["type"]) == (200, "Bundle", "searchset")
    found = []
    for entry in answer.resource.get("entry", []):
        assert entry["fullUrl"] == f"{BASE}/Patient/{entry['resource']['id']}"
        [extension] = entry["search"]["extension"]
        assert (extension["url"], entry["search"]["mode"]) == (GRADE, "match")
        ids = {one["system"]: one["value"] for one in entry["resource"]["identifier"]}
        found.append((extension["valueCode"], entry["search"]["score"], ids["urn:oid:2.999.2.1"]))
    return found


def known_as(*identifiers: str) -> dict[str, Any]:
    """Return a Patient of whom nothing but ids is told."""
    made = patient(*identifiers)
    return {key: made[key] for key in ("resourceType", "identifier")}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, float, str]]]] = {
    "one, as the index would link it (case 1)": (patient(**JING), {}, [("certain", 1.0, "A4")]),
    "by an id alone (case 1)": (known_as("urn:oid:2.999.4.1|C1"), {}, [("certain", 1.0, "A1")]),
    "a name and a birth date without a sex are not enough to be certain": (
        patient(**{**JING, "gender": "unknown"}), {}, [("probable", 0.8, "A4")]),
    "a name alone": (
        {"resourceType": "Patient", "name": [{"family": "李", "given": ["雷"]}]}, {}, [("possible", 0.5, "A2")]),
    "several, the surest first (case 2)": (
        {**known_as("urn:oid:2.999.2.1|A4"), "birthDate": "1979-02-14"}, {},
        [("possible", 0.5, "A4"), ("possible", 0.5, "A1"), ("possible", 0.5, "A2")]),
    "a certain one only (case 3)": (patient(**JING), {"onlyCertainMatches": True}, [("certain", 1.0, "A4")]),
    "one that is not certain (case 4)": (
        {"resourceType": "Patient", "name": [{"family": "李", "given": ["雷"]}]}, {"onlyCertainMatches": True}, []),
    "several certain ones (case 5)": (
        known_as("urn:oid:2.999.2.1|A1", "urn:oid:2.999.2.1|A2"), {"onlyCertainMatches": True}, []),
    "so many (case 6)": (
        {"resourceType": "Patient", "birthDate": "1979-02-14"}, {"count": 1}, [("possible", 0.5, "A1")]),
    "nobody (case 7)": (patient(name=[{"family": "无", "given": ["此"]}], birthDate="2001-01-02"), {}, []),
    "an id whose data contradict": (
        patient("urn:oid:2.999.2.1|A4", birthDate="1950-01-02", name=[{"family": "赵"}]), {}, [("possible", 0.5, "A4")]),
    "whoever contradicts is not told": (patient(**{**JING, "gender": "male"}), {}, []),
    "a retired id leads to its survivor (case 8)": (
        known_as("urn:oid:2.999.2.1|A3"), {}, [("certain", 1.0, "A2")]),
    "an id of an unknown system beside data": (
        patient("http://nobody.example|A1", **JING), {}, [("certain", 1.0, "A4")]),
}


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(case: tuple[dict[str, Any], dict[str, Any], list[tuple[str, float, str]]], form: str, bench: Bench) -> None:
    who, more, expected = case
    before = len(bench.audited())
    answer = match(bench, who, form, **more)
    assert told(answer) == expected
    records = bench.audited()[before:]
    assert {(one["event"], one["type"], one["action"], one["outcome"]) for one in records} == {("110112", "ITI-119", "E", "0")}
    assert len(records) == max(1, len(expected))


def test_a_patient_may_come_alone(bench: Bench) -> None:
    answer = bench.fhir.ask("POST", "/Patient/$match", json.dumps(patient(**JING)).encode())
    assert told(answer) == [("certain", 1.0, "A4")]


def test_the_surest_come_first(bench: Bench) -> None:
    bench.feed("A04", "A8", replace(LEI, names=(PersonName("欧阳", "静如"),), birth_date="19850612", sex=""))
    who = patient(name=[{"family": "欧阳", "given": ["静如"]}, {"family": "OUYANG", "given": ["Jing Ru"]}], gender="female",
                  birthDate="1985-06-12")
    assert [grade for grade, _, _ in told(match(bench, who))] == ["certain", "probable"]


@pytest.mark.parametrize(("body", "status", "issue"), [
    ({"resourceType": "Parameters"}, 400, ["required", "the parameter resource must hold a Patient"]),
    ({"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": {"resourceType": "Group"}}]}, 400,
     ["required", "the parameter resource must hold a Patient"]),
    ({"resourceType": "Parameters", "parameter": [{"name": "resource", "valueString": "x"}]}, 400,
     ["value", "resource must have resource"]),
    ({"resourceType": "Parameters", "parameter": [
        {"name": "resource", "resource": patient(**JING)}, {"name": "count", "valueInteger": 0}]}, 400,
     ["value", "count must be 1 or more"]),
    ({"resourceType": "Patient", "gender": "male"}, 400,
     ["required", "too little to match by: give an identifier, a name or a birth date"]),
    ({"resourceType": "Bundle", "type": "batch"}, 400,
     ["structure", "the body must be Parameters or Patient, and it is Bundle"]),
    ({"resourceType": "Patient", "birthDate": "x"}, 400, ["value", "Patient.birthDate is no date"]),
])
def test_what_is_refused(body: dict[str, Any], status: int, issue: list[str], bench: Bench) -> None:
    answer = bench.fhir.ask("POST", "/Patient/$match", json.dumps(body).encode())
    assert (answer.status, answer.issue) == (status, ["error", *issue])
