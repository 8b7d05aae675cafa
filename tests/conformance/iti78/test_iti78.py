import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.people import PersonName
from broker.patients import demographics
from tests.helpers.demographics import JING, LEI, fill
from tests.helpers.fhir import BASE, Answer, patient
from tests.helpers.patients import HOSPA, WEI, Bench, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    described = region(profile)
    domains = [domain.model_copy(update={"aliases": ("http://hospital-a.example/mrn",)}) if domain.oid == HOSPA else domain
               for domain in described.domains]
    return fill(Bench(database, described.model_copy(update={"domains": tuple(domains)}), tmp_path))


def entries(answer: Answer) -> list[dict[str, Any]]:
    assert (answer.resource["resourceType"], answer.resource["type"]) == ("Bundle", "searchset")
    return [one for one in answer.resource.get("entry", []) if one["search"]["mode"] == "match"]


def shown(answer: Answer) -> list[str]:
    """Return the values of the identifiers of each Patient, the affinity-domain id written XAD."""
    found = []
    for entry in entries(answer):
        patient = entry["resource"]
        assert (entry["fullUrl"], patient["active"]) == (f"{BASE}/Patient/{patient['id']}", True)
        ids = [one["value"] for one in patient.get("identifier", [])]
        found.append(" ".join("XAD" if value == patient["id"] else value for value in ids))
    return found


def link(answer: Answer, relation: str) -> str:
    """Return an address of the Bundle below the endpoint; empty where there is none of this relation."""
    return next((one["url"].removeprefix(BASE) for one in answer.resource["link"] if one["relation"] == relation), "")


def judge(bench: Bench, case: dict[str, Any], answer: Answer) -> None:
    assert answer.status == case.get("status", 200)
    if "issue" in case:
        assert answer.issue == case["issue"]
    else:
        assert shown(answer) == case["patients"]
        assert answer.resource["total"] == len(case["patients"])
        assert case.get("score", 1.0) in {1.0, *(entry["search"]["score"] for entry in entries(answer))}
        assert case.get("self", "") in link(answer, "self")
        assert link(answer, "next") == ""
    records = bench.audited()
    assert {(one["event"], one["type"], one["action"]) for one in records[-max(1, len(case.get("patients", []))):]} == {
        ("110112", "ITI-78", "E")}
    assert records[-1]["outcome"] == ("0" if answer.status == 200 else "4")


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any], form: str, bench: Bench) -> None:
    query = case["query"].replace("XAD", bench.affinity("A1"))
    judge(bench, case, bench.fhir.get(f"/Patient?{query}", form))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case_as_a_form(case: dict[str, Any], bench: Bench) -> None:
    query = case["query"].replace("XAD", bench.affinity("A1"))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    judge(bench, case, bench.fhir.ask("POST", "/Patient/_search", query.encode(), headers=headers))


def test_the_other_parameters_are_refused_where_strictness_is_asked_for(bench: Bench) -> None:
    answer = bench.fhir.get("/Patient?family=张&organization=x", headers={"Prefer": "handling=strict"})
    assert (answer.status, answer.issue) == (400, ["error", "invalid", "the parameter organization is not known"])
    assert bench.fhir.get("/Patient?family=张&_sort=family", headers={"Prefer": "handling=strict"}).status == 200


@pytest.mark.parametrize("query", ["family=" + ",".join(["张"] * 101), "&".join(["family=张"] * 101)])
def test_there_may_be_a_hundred_conditions_and_alternatives(query: str, bench: Bench) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = bench.fhir.ask("POST", "/Patient/_search", query.encode(), headers=headers)
    assert (answer.status, answer.issue[1]) == (422, "too-long")


# --- pages


def many(bench: Bench, count: int) -> None:
    for number in range(count):
        bench.feed("A04", f"M{number}", replace(LEI, names=(PersonName("王", f"某{number}"),)))


@pytest.mark.parametrize("form", ["json", "xml"])
def test_pages_follow_each_other_and_do_not_shift(form: str, bench: Bench) -> None:
    many(bench, 5)
    first = bench.fhir.get("/Patient?family=王&_count=2", form)
    bench.feed("A04", "LATER", replace(LEI, names=(PersonName("王", "后来"),)))
    second = bench.fhir.get(link(first, "next"), form)
    third = bench.fhir.get(link(second, "next"), form)
    assert [shown(one) for one in (first, second, third)] == [["XAD M0", "XAD M1"], ["XAD M2", "XAD M3"], ["XAD M4"]]
    assert [one.resource["total"] for one in (first, second, third)] == [5, 5, 5]
    assert link(third, "next") == ""
    assert bench.fhir.get(link(second, "self"), form).resource == second.resource


def test_a_page_is_its_askers_and_is_kept_for_a_while(bench: Bench) -> None:
    many(bench, 3)
    following = link(bench.fhir.get("/Patient?family=王&_count=2"), "next")
    other = bench.fhir.get(following, address="10.9.9.9")
    assert (other.status, other.issue) == (
        404, ["error", "not-found", "this page is not of a search of yours, or is kept no longer"])
    assert bench.fhir.get(following).status == 200
    bench.now += demographics.KEPT_SECONDS + 1
    assert bench.fhir.get(following).status == 404


@pytest.mark.parametrize("page", ["x", "1", "-1.x", "9999999999.x", "", "٣.x"])
def test_a_page_that_is_none_is_refused(page: str, bench: Bench) -> None:
    assert bench.fhir.get(f"/Patient?_page={page}").status in {400, 404}


def test_count_is_how_many_there_are_when_it_is_nought(bench: Bench) -> None:
    many(bench, 3)
    answer = bench.fhir.get("/Patient?family=王&_count=0")
    assert (answer.resource["total"], entries(answer), link(answer, "next")) == (3, [], "")
    assert bench.audited()[-1]["patient"] == ""


def test_a_search_by_another_body_is_refused(bench: Bench) -> None:
    answer = bench.fhir.ask("POST", "/Patient/_search", b'{"resourceType": "Parameters"}')
    assert (answer.status, answer.issue[2]) == (415, "the body of a search must be application/x-www-form-urlencoded")


@pytest.mark.parametrize("count", ["x", "-1", "1.5", "99999999999", "٣"])
def test_a_count_that_is_none_is_refused(count: str, bench: Bench) -> None:
    answer = bench.fhir.get(f"/Patient?family=张&_count={count}")
    assert (answer.status, answer.issue) == (400, ["error", "value", "_count is no number"])


def test_more_than_was_looked_at_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demographics, "MOST_RECORDS", 2)
    many(bench, 4)
    answer = bench.fhir.get("/Patient?family=王")
    assert (len(entries(answer)), answer.resource["entry"][-1]["search"]["mode"]) == (2, "outcome")
    [issue] = answer.resource["entry"][-1]["resource"]["issue"]
    assert (issue["severity"], issue["code"]) == ("warning", "incomplete")


# --- what is shown


@pytest.mark.parametrize("form", ["json", "xml"])
def test_what_is_known_of_a_person(form: str, bench: Bench) -> None:
    affinity = bench.affinity("A4")
    answer = bench.fhir.get(f"/Patient/{affinity}", form)
    assert (answer.status, answer.resource) == (200, {
        "resourceType": "Patient", "id": affinity,
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName", "valueString": "葉 瑋"}],
        "identifier": [{"system": "urn:oid:2.999.1.1", "value": affinity}, {"system": "urn:oid:2.999.2.1", "value": "A4"}],
        "active": True, "name": [{"family": "欧阳", "given": ["静", "如"]}, {"family": "OUYANG", "given": ["Jing Ru"]}],
        "telecom": [{"system": "phone", "value": "+86-591-8765-4321"}], "gender": "female", "birthDate": "1985-06-12",
        "address": [{"line": ["鼓楼路 12"], "city": "福州", "state": "福建", "postalCode": "350001", "country": "CHN"}]})
    assert [bench.audited()[-1][key] for key in ("type", "outcome", "patient")] == ["ITI-78", "0", f"{affinity}^^^&2.999.1.1&ISO"]


def test_no_such_patient(bench: Bench) -> None:
    bench.fhir.put("urn:oid:2.999.2.1|A5", patient("urn:oid:2.999.2.1|A5", "urn:oid:2.999.1.1|NOBODY"))
    for path in ("/Patient/NOBODY", "/Patient/A1", "/Patient/_search"):
        answer = bench.fhir.get(path)
        assert (answer.status, answer.issue) == (404, ["error", "not-found", "there is no Patient with this id"])


def test_who_lives_on_under_another_logical_id_is_inactive(bench: Bench) -> None:
    bench.add("B9", LEI)                        # found to be A2
    bench.feed("A04", "A9", replace(JING, names=(PersonName("林", "美"),)))
    joined = bench.affinity("A9")
    bench.feed("A08", "A9", WEI)                # and now A1's person
    assert bench.affinity("A9") == bench.affinity("A1") != joined
    answer = bench.fhir.get(f"/Patient/{joined}")
    assert (answer.status, answer.resource) == (200, {
        "resourceType": "Patient", "id": joined, "active": False,
        "link": [{"other": {"reference": f"Patient/{bench.affinity('A1')}"}, "type": "replaced-by"}]})


def test_the_request_is_audited(bench: Bench) -> None:
    bench.fhir.ask("POST", "/Patient/_search?family=张", b"gender=male", headers={
        "Content-Type": "application/x-www-form-urlencoded", "X-Request-Id": "r-1"})
    assert bench.audited()[-1]["query"].endswith(b"\ngender=male")
    assert bench.audited()[-1]["query"].startswith(b"POST /fhir/Patient/_search?family=")


def test_the_self_link_names_what_counted(bench: Bench) -> None:
    answer = bench.fhir.get("/Patient?family:exact=张&_format=json&birthdate=ge1970&x=y")
    assert parse_qsl(urlsplit(link(answer, "self")).query) == [("family:exact", "张"), ("birthdate", "ge1970"), ("_count", "50")]
