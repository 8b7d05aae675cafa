"""One index behind all doors: what is fed at one is found by the others, and the same question has the same answer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.people import PersonName
from broker.wire import hl7v3
from tests.helpers.fhir import merged, patient
from tests.helpers.patients import DEVICE_B, HOSPA, HOSPB, HOSPC, OURS, WEI, XAD, Bench, region

LEI = replace(WEI, names=(PersonName("李", "雷"),))
Answer = list[PatientId] | str

# What each door says when it refuses.
UNKNOWN_ID, UNKNOWN_SOURCE, UNKNOWN_TARGET = "unknown id", "unknown source", "unknown target"


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    return Bench(database, region(profile), tmp_path)


def v2(bench: Bench, asked: PatientId, wanted: tuple[str, ...]) -> Answer:
    domains = "~".join(f"^^^&{oid}&ISO" for oid in wanted)
    lines = bench.v2("MSH|^~\\&|VIEW|CONS|BROKER|REGION|20260301103000||QBP^Q23^QBP_Q21|q1|P|2.5\n"
                     f"QPD|IHE PIX Query|t|{asked.value}^^^&{asked.domain}&ISO|{domains}\nRCP|I")
    found = {line[0]: line for line in lines}
    if "ERR" in found:
        places = {"QPD^1^3^1^1": UNKNOWN_ID, "QPD^1^3^1^4": UNKNOWN_SOURCE}
        return places.get(found["ERR"][2], UNKNOWN_TARGET)
    ids = found["PID"][3].split("~") if "PID" in found else []
    return [PatientId(one.split("^")[3].split("&")[1], one.split("^")[0]) for one in ids]


def v3(bench: Bench, asked: PatientId, wanted: tuple[str, ...]) -> Answer:
    answer = bench.v3(hl7v3.write_pix_query(asked, wanted, sender=DEVICE_B, receiver=OURS))
    try:
        return [*hl7v3.read_pix_answer(answer)]
    except Rejected as error:
        problem = error.problems[0]
        if "dataSource" in problem.location:
            return UNKNOWN_TARGET
        return UNKNOWN_ID if problem.context.startswith("unknown patient id") else UNKNOWN_SOURCE


def rest(bench: Bench, asked: PatientId, wanted: tuple[str, ...]) -> Answer:
    targets = "".join(f"&targetSystem=urn:oid:{oid}" for oid in wanted)
    answer = bench.fhir.get(f"/Patient/$ihe-pix?sourceIdentifier=urn:oid:{asked.domain}|{asked.value}{targets}")
    if answer.status != 200:
        return {404: UNKNOWN_ID, 400: UNKNOWN_SOURCE, 403: UNKNOWN_TARGET}[answer.status]
    found = [one["valueIdentifier"] for one in answer.resource.get("parameter", []) if one["name"] == "targetIdentifier"]
    return [PatientId(one["system"].removeprefix("urn:oid:"), one["value"]) for one in found]


QUESTIONS: Mapping[str, tuple[PatientId, tuple[str, ...]]] = {
    "everything": (PatientId(HOSPA, "A1"), ()),
    "one domain": (PatientId(HOSPA, "A1"), (HOSPC,)),
    "several ids of one domain": (PatientId(HOSPC, "C1"), (HOSPB,)),
    "two domains": (PatientId(HOSPC, "C1"), (XAD, HOSPA)),
    "nothing there": (PatientId(HOSPA, "A2"), (HOSPB,)),
    "a retired id": (PatientId(HOSPA, "A3"), ()),
    "an id of the own domain": (PatientId(HOSPB, "B1"), (HOSPB,)),
    "unknown id": (PatientId(HOSPA, "NEVER"), ()),
    "unknown source": (PatientId("2.999.77", "A1"), ()),
    "unknown target": (PatientId(HOSPA, "A1"), (HOSPC, "2.999.77")),
    "unknown id and target": (PatientId(HOSPA, "NEVER"), ("2.999.77",)),
    "a hidden source": (PatientId("2.999.9.1", "A1"), ()),
    "a hidden target": (PatientId(HOSPA, "A1"), ("2.999.9.1",)),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_all_doors_answer_alike(question: str, bench: Bench) -> None:
    bench.feed("A04", "A1")
    bench.add("B1")
    bench.add("B2")
    bench.add("C1", domain=HOSPC)
    bench.feed("A04", "A2", LEI)
    bench.feed("A40", "A2", retired="A3")
    asked, wanted = QUESTIONS[question]
    answers = [door(bench, asked, wanted) for door in (v2, v3, rest)]
    assert answers[0] == answers[1] == answers[2]
    assert isinstance(answers[0], str) is ("unknown" in question or "hidden" in question)


def fed_by_v2(bench: Bench) -> None:
    bench.feed("A04", "N1")
    bench.feed("A40", "N1", retired="N0")


def fed_by_v3(bench: Bench) -> None:
    bench.add("N1")
    bench.merge("N1", "N0")


def fed_by_fhir(bench: Bench) -> None:
    system = f"urn:oid:{HOSPA}"
    assert bench.fhir.put(f"{system}|N1", patient(f"{system}|N1")).status == 201
    assert bench.fhir.put(f"{system}|N0", merged(f"{system}|N0", f"{system}|N1")).status == 200


@pytest.mark.parametrize(("feed", "domain"), [(fed_by_v2, HOSPA), (fed_by_v3, HOSPB), (fed_by_fhir, HOSPA)])
def test_what_is_fed_at_one_door_is_found_by_all(feed: Callable[[Bench], None], domain: str, bench: Bench) -> None:
    bench.add("C1", domain=HOSPC)
    feed(bench)
    affinity = PatientId(XAD, bench.affinity("C1", HOSPC))
    for door in (v2, v3, rest):
        assert door(bench, PatientId(HOSPC, "C1"), ()) == [affinity, PatientId(domain, "N1")]
        assert door(bench, PatientId(domain, "N0"), (HOSPC,)) == [PatientId(HOSPC, "C1")]
    found = bench.fhir.get("/Patient?family=张&birthdate=1979-02-14")
    assert [one["resource"]["id"] for one in found.resource["entry"]] == [affinity.value]
