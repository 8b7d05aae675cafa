import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Feeder, Profile
from broker.config.settings import SecuritySection, Settings
from broker.db import Database
from broker.model.caller import Certificate
from broker.model.ids import PatientId
from broker.model.people import Address, Demographics, PersonName
from broker.model.transaction import ServedTransaction
from broker.patients import iti104_feed
from broker.patients.events import Fed, Merged
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire import fhir
from broker.wire.fhir_patient import MOTHER
from tests.helpers.fhir import BASE, TYPES, Fhir, merged, patient
from tests.helpers.patients import HOSPA, HOSPB, WEI, XAD, Bench, events, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
A7 = f"urn:oid:{HOSPA}|A7"


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    described = region(profile)
    domains = [domain.model_copy(update={"aliases": ("http://hospital-a.example/mrn",)}) if domain.oid == HOSPA else domain
               for domain in described.domains]
    built = Bench(database, described.model_copy(update={"domains": tuple(domains)}), tmp_path)
    built.feed("A04", "A1")
    built.feed("A04", "A2", replace(WEI, names=(PersonName("李", "雷"),)))
    built.feed("A40", "A2", retired="A3")
    return built


def noted(bench: Bench, value: str) -> list[str]:
    """Return what happened to an id of hospital A, but links found by comparison."""
    with bench.database.read() as unit:
        found = [one.event for one in events(unit, PatientId(HOSPA, value))]
    words = [(one.kind, one.trigger if isinstance(one, Fed) else one.survivor.value if isinstance(one, Merged) else "")
             for one in found if one.kind not in {"linked", "stated"}]
    return [" ".join(filter(None, pair)) for pair in words]


def person(bench: Bench, value: str, domain: str = HOSPA) -> Demographics | None:
    with bench.database.read() as unit:
        return bench.manager.demographics(unit, PatientId(domain, value))


def resource(case: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the condition and the Patient of a case."""
    key = case["put"] + "x" * 250 if case.get("long") else case["put"]
    if "survivor" in case:
        return key, merged(key, case["survivor"], **case.get("body", {}))
    return key, patient(*case.get("identifiers", [key]), **case.get("body", {}))


@pytest.mark.parametrize(("case", "form"), [
    pytest.param(case, form, id=f"{case['id']} ({form})") for case in CASES for form in ("json", "xml")
    if case.get("only", form) == form])
def test_case(case: dict[str, Any], form: str, bench: Bench) -> None:
    before, stored = len(bench.audited()), noted(bench, "A1")
    key, body = resource(case)
    answer = bench.fhir.put(key, body, form) if key else bench.fhir.ask("PUT", "/Patient", fhir.write(body, form), form)
    assert (answer.status, answer.issue) == (case["status"], case["issue"])
    value = case.get("key") or key.rpartition("|")[2]
    if "events" in case:
        assert noted(bench, value) == case["events"]
        location = f"{BASE}/Patient/{bench.affinity(value)}" if case["status"] == 201 else None
        assert answer.headers.get("Location") == location
    else:
        assert noted(bench, "A1") == stored
    records = bench.audited()[before:]
    assert {(record["event"], record["type"], record["outcome"]) for record in records} == {
        ("110110", "ITI-104", "0" if case["status"] < 300 else "4")}
    if "audit" in case:
        assert [[record["action"], record["patient"]] for record in records] == case["audit"]


@pytest.mark.parametrize("form", ["json", "xml"])
def test_everything_that_a_patient_says_is_kept(form: str, bench: Bench) -> None:
    mother = {"url": MOTHER, "valueString": "林"}
    said = patient(A7, "urn:oid:2.999.6.1|K7", "http://unknown.example|Q", extension=[mother], name=[
        {"use": "official", "family": "欧阳", "given": ["静", "雅"], "prefix": ["Dr"], "suffix": ["Jr"]},
        {"use": "maiden", "family": "陈"}, {"text": "王小明"}],
        telecom=[{"system": "phone", "value": "+86 591 1"}, {"system": "email", "value": "a@b.example"},
                 {"system": "url", "value": "http://x.example"}],
        gender="other", birthDate="1979-02", address=[
            {"line": ["12 鼓楼路", "3楼"], "city": "福州", "state": "福建", "postalCode": "350001", "country": "CHN"},
            {"text": "somewhere"}])
    said["identifier"].append({
        "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "NNCHN"}]}, "value": "N-1"})
    assert bench.fhir.put(A7, said, form).status == 201
    assert person(bench, "A7") == Demographics(
        names=(PersonName("欧阳", "静", "雅", "Jr", "Dr", "L"), PersonName("陈", use="M"), PersonName("王小明")),
        birth_date="197902", sex="O", mother=PersonName("林"),
        addresses=(Address("12 鼓楼路 3楼", "福州", "福建", "350001", "CHN"), Address("somewhere")),
        phones=("+86 591 1", "mailto:a@b.example"), other_ids=(("2.999.6.1", "K7"), ("", "N-1")))


def test_a_revision_tells_everything_anew(bench: Bench) -> None:
    bench.fhir.put(A7, patient(A7, address=[{"city": "福州"}]))
    bench.fhir.put(A7, patient(A7, gender="female"))
    assert person(bench, "A7") == replace(WEI, sex="F")


@pytest.mark.parametrize(("gender", "sex"), [("male", "M"), ("female", "F"), ("other", "O"), ("unknown", "U")])
def test_gender(gender: str, sex: str, bench: Bench) -> None:
    bench.fhir.put(A7, patient(A7, gender=gender))
    found = person(bench, "A7")
    assert found is not None
    assert found.sex == sex


def test_remove_patient_is_not_supported(bench: Bench) -> None:
    answer = bench.fhir.ask("DELETE", "/Patient?identifier=urn:oid:2.999.2.1|A1")
    assert (answer.status, answer.issue) == (400, ["error", "not-supported", "Remove Patient is not supported"])
    assert bench.affinity("A1")


def test_the_message_is_known_by_its_request_id(bench: Bench) -> None:
    bench.fhir.put(A7, patient(A7), headers={"X-Request-Id": "request-1", "Content-Type": TYPES["json"]})
    assert bench.audited()[-1]["message"] == "request-1"
    assert b'ParticipantObjectDetail type="X-Request-Id"' in b"".join(file.read_bytes() for file in bench.folder.glob("audit/*"))
    with bench.database.read() as unit:
        fed = events(unit, PatientId(HOSPA, "A7"))[0]
    assert (fed.sender, fed.message_id) == ("FHIR|127.0.0.1", "request-1")


# --- who may feed


def test_from_another_machine_nothing_is_fed_while_security_is_off(bench: Bench) -> None:
    answer = bench.fhir.put(A7, patient(A7), address="10.1.2.3")
    text = "ITI-104 is taken from this machine only while security is off (security.open_writes)"
    assert (answer.status, answer.issue) == (403, ["error", "forbidden", text])
    assert bench.affinity("A7") == ""
    assert [bench.audited()[-1][key] for key in ("outcome", "patient")] == ["4", "A7^^^&2.999.2.1&ISO"]
    assert bench.fhir.get("/Patient/$ihe-pix?sourceIdentifier=urn:oid:2.999.2.1|A1", address="10.1.2.3").status == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_addresses_of_this_machine(address: str, bench: Bench) -> None:
    assert bench.fhir.put(A7, patient(A7), address=address).issue[1] in {"informational", "forbidden"}
    assert "security" not in bench.fhir.put(A7, patient(A7), address=address).issue[2]


def test_a_setting_opens_feeds_to_the_addresses_of_the_profile(
    bench: Bench, database: Database, profile: Profile, tmp_path: Path,
) -> None:
    described = region(profile)
    net = described.domains[1].feeders[0].model_copy(update={"address": "10.1.0.0/16"})
    domains = [one.model_copy(update={"feeders": (net,)}) if one.oid == HOSPA else one for one in described.domains]
    built = Bench(database, described.model_copy(update={"domains": tuple(domains)}), tmp_path / "open")
    settings = Settings(security=SecuritySection(open_writes=True))
    client = Fhir([ServedTransaction(iti104_feed.ROW, built.manager)], Gate(Open(open_writes=True), built.gate.audit), settings)
    assert client.put(A7, patient(A7), address="10.1.2.3").status == 201
    answer = client.put(A7, patient(A7), address="10.2.2.3")
    assert (answer.status, answer.issue[2]) == (403, "10.2.2.3: unknown sender, it may feed no domain")


def test_a_sender_is_known_by_its_certificate(bench: Bench, database: Database, profile: Profile, tmp_path: Path) -> None:
    shown = Certificate("CN=his-a", (), "9f" * 32)
    described = region(profile)
    feeder = Feeder(certificate=shown.fingerprint)
    domains = [one.model_copy(update={"feeders": (feeder,)}) if one.oid == HOSPA else one for one in described.domains]
    built = Bench(database, described.model_copy(update={"domains": tuple(domains)}), tmp_path / "certificate")
    assert built.fhir.put(A7, patient(A7)).status == 403
    assert built.fhir.put(A7, patient(A7), certificate=replace(shown, fingerprint="00" * 32)).status == 403
    assert built.fhir.put(A7, patient(A7), certificate=shown).status == 201
    with database.read() as unit:
        assert events(unit, PatientId(HOSPA, "A7"))[0].sender == f"FHIR|{shown.fingerprint}"


# --- one index behind all doors


def test_fed_here_found_by_the_other_doors(bench: Bench) -> None:
    bench.fhir.put(A7, patient(A7))
    bench.add("B7")
    assert bench.who("A7") == {"A1", "A7", "B7"}
    assert bench.manager.person_id(PatientId(HOSPB, "B7")) == PatientId(XAD, bench.affinity("A7"))


def test_both_ids_of_one_feed_are_linked(bench: Bench) -> None:
    """The sender at 127.0.0.1 feeds both domains, so it states that they are one person, whatever their names."""
    bench.fhir.put(A7, patient(A7, f"urn:oid:{HOSPB}|B7", name=[{"family": "周"}]))
    assert bench.who("A7") == {"A7", "B7"}
