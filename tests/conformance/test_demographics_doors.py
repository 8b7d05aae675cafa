"""The same question through every door of the demographics supplier finds the same persons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.errors import Rejected
from broker.wire.hl7v2 import Header, parse
from broker.wire.hl7v2_pdq import read_pdq_answer, write_pdq_query
from broker.wire.hl7v3_pdq import read_candidates
from broker.wire.hl7v3_pdq import write_pdq_query as write_v3
from tests.helpers.demographics import fill
from tests.helpers.patients import HOSPA, HOSPC, OURS, XAD, Bench, region

Asked = list[tuple[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doors")


@pytest.fixture
def bench(database: Database, profile: Profile, folder: Path) -> Bench:
    return fill(Bench(database, region(profile), folder))


def _name(family: str, given: str = "") -> str:
    return f"<value><family>{family}</family>{f'<given>{given}</given>' if given else ''}</value>"


# v2 parameters (a wanted domain without a path), V3 parameters, FHIR query, and who is found.
QUESTIONS: dict[str, tuple[Asked, Asked, str, Sequence[set[str]]]] = {
    "family name and birth date": (
        [("PID.5.1", "张"), ("PID.7", "19790214")],
        [("livingSubjectName", _name("张")), ("livingSubjectBirthTime", '<value value="19790214"/>')],
        "family:exact=张&birthdate=1979-02-14", [{"A1", "B1", "B2", "C1"}]),
    "letters in other case": (
        [("PID.5.1", "zHANG"), ("PID.5.2", "wei")], [("livingSubjectName", _name("zHANG", "wei"))], "family=zHANG&given=wei",
        [{"A1", "B1", "B2", "C1"}]),
    "year of birth and sex": (
        [("PID.7", "1979"), ("PID.8", "M")],
        [("livingSubjectBirthTime", '<value value="1979"/>'), ("livingSubjectAdministrativeGender", '<value code="M"/>')],
        "birthdate=1979&gender=male", [{"A1", "B1", "B2", "C1"}, {"A2"}]),
    "an id": (
        [("PID.3.1", "B2"), ("PID.3.4.2", "2.999.3.1")], [("livingSubjectId", '<value root="2.999.3.1" extension="B2"/>')],
        "identifier=urn:oid:2.999.3.1|B2", [{"A1", "B1", "B2", "C1"}]),
    "a retired id": (
        [("PID.3.1", "A3"), ("PID.3.4.2", HOSPA)], [("livingSubjectId", f'<value root="{HOSPA}" extension="A3"/>')],
        f"identifier=urn:oid:{HOSPA}|A3", [{"A2"}]),
    "an id and another name": (
        [("PID.3.1", "A2"), ("PID.3.4.2", HOSPA), ("PID.5.1", "张")],
        [("livingSubjectId", f'<value root="{HOSPA}" extension="A2"/>'), ("livingSubjectName", _name("张"))],
        f"identifier=urn:oid:{HOSPA}|A2&family=张", []),
    "an address": (
        [("PID.11.5", "350001"), ("PID.11.3", "福州"), ("PID.11.6", "chn")],
        [("patientAddress", "<value><city>福州</city><postalCode>350001</postalCode><country>chn</country></value>")],
        "address-postalcode=350001&address-city=福州&address-country=chn", [{"A4"}]),
    "mother's maiden name": (
        [("PID.6.1", "葉")], [("mothersMaidenName", _name("葉"))], "mothersMaidenName=葉", [{"A4"}]),
    "telephone": (
        [("PID.13", "87654321")], [("patientTelecom", '<value value="tel:87654321"/>')], "telecom=87654321", [{"A4"}]),
    "a domain that is wanted": (
        [("PID.7", "1979"), ("", HOSPC)],
        [("livingSubjectBirthTime", '<value value="1979"/>'), ("otherIDsScopingOrganization", f'<value root="{HOSPC}"/>')],
        f"birthdate=1979&identifier=urn:oid:{HOSPC}|", [{"C1"}]),
    "nobody": (
        [("PID.5.1", "王")], [("livingSubjectName", _name("王"))], "family=王", []),
}


def by_v2(bench: Bench, asked: Asked) -> list[set[str]]:
    header = Header(sender=("VIEW", "CONS"), receiver=("BROKER", "REGION"), charset="GB 18030-2000")
    domains = [value for path, value in asked if not path]
    query = write_pdq_query(header, [pair for pair in asked if pair[0]], domains=domains)
    found = read_pdq_answer(parse(bench.mllp.answer(query, "10.0.0.7")))
    return [{one.value for one, _ in patient.ids if one.domain != XAD} for patient in found.patients]


def by_v3(bench: Bench, asked: Asked) -> list[set[str]]:
    found = read_candidates(bench.v3(write_v3(asked, sender="2.999.5.9", receiver=OURS)))
    return [{one.value for one, _ in patient.ids if one.domain != XAD} for patient in found.patients]


def by_fhir(bench: Bench, asked: str) -> list[set[str]]:
    answer = bench.fhir.get(f"/Patient?{asked}")
    assert answer.status == 200, answer.resource
    patients: list[dict[str, Any]] = [one["resource"] for one in answer.resource.get("entry", [])]
    return [{one["value"] for one in patient["identifier"] if one["system"] != f"urn:oid:{XAD}"} for patient in patients]


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_door_finds_the_same_persons(bench: Bench, question: str) -> None:
    v2, v3, fhir, persons = QUESTIONS[question]
    assert by_v2(bench, v2) == by_v3(bench, v3) == by_fhir(bench, fhir) == persons


def test_every_door_refuses_what_nearly_everybody_has(bench: Bench) -> None:
    with pytest.raises(Rejected, match="too little to search by"):
        by_v2(bench, [("PID.8", "M")])
    with pytest.raises(Rejected, match="too little to search by"):
        by_v3(bench, [("livingSubjectAdministrativeGender", '<value code="M"/>')])
    answer = bench.fhir.get("/Patient?gender=male")
    assert answer.status == 400
    assert "too little to search by" in answer.resource["issue"][0]["diagnostics"]
