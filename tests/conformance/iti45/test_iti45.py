import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import PersonName
from broker.patients import iti45_query
from broker.wire import hl7v3
from tests.helpers.patients import HOSPA, HOSPC, NS, OURS, WEI, XAD, Bench, ack, attribute, details, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
VIEWER = "2.999.5.9"
PLACE = "/PRPA_IN201309UV02/controlActProcess/queryByParameter/parameterList"
ROW = iti45_query.row(OURS)


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    built = Bench(database, region(profile), tmp_path)
    built.feed("A04", "A1")
    built.add("B2")
    built.add("B1")
    built.add("C1", domain=HOSPC)
    built.feed("A04", "A2", replace(WEI, names=(PersonName("李", "雷"),)))
    built.feed("A40", "A2", retired="A3")
    return built


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any], bench: Bench) -> None:
    before = len(bench.audited())
    text = hl7v3.write_pix_query(
        PatientId(*case["ask"]), case.get("domains", ()), sender=VIEWER, receiver=OURS,
        message_id=MessageId("20260301101500+0800", "q-1")).decode()
    if "old" in case:
        assert case["old"] in text
        text = text.replace(case["old"], case["new"])
    answer = bench.v3(text.encode())
    act = "h:controlActProcess"
    assert [ack(answer), attribute(answer, f"{act}/h:queryAck/h:statusCode", "code"),
            attribute(answer, f"{act}/h:queryAck/h:queryResponseCode", "code")] == case["status"]
    assert attribute(answer, f"{act}/h:queryAck/h:queryId", "extension") == "q-1"
    asked = attribute(answer, f"{act}/h:queryByParameter/h:parameterList/h:patientIdentifier/h:value", "root")
    assert asked == ("" if "nullFlavor" in case.get("new", "") else case["ask"][0])
    event = f"{act}/h:subject/h:registrationEvent"
    ids = [[e.get("root"), e.get("extension"), e.get("assigningAuthorityName")]
           for e in answer.iterfind(f"{event}/h:subject1/h:patient/h:id", NS)]
    affinity = {bench.affinity("A1"), bench.affinity("A2")}
    assert [[root, "XAD" if extension in affinity else extension, name] for root, extension, name in ids] == case.get("ids", [])
    assert len(answer.findall(event, NS)) == (1 if ids else 0)
    if ids:
        assert attribute(answer, f"{event}/h:custodian/h:assignedEntity/h:id", "root") == OURS
    assert details(answer) == [[code, f"{PLACE}/{place}"] for code, place in case.get("errors", [])]
    [record] = bench.audited()[before:]
    assert (record["event"], record["type"], record["action"], record["patient"]) == ("110112", "ITI-45", "E", case["patient"])
    assert record["outcome"] == ("0" if case["status"][0] == "AA" else "4")
    read = case["status"][2] != "QE"
    assert record["query"].startswith(b'<queryByParameter xmlns="urn:hl7-org:v3"><queryId' if read else b"")


def test_nil_parameters_and_types_are_taken_and_come_back_as_they_were(bench: Bench) -> None:
    text = hl7v3.write_pix_query(PatientId(HOSPA, "A1"), sender=VIEWER, receiver=OURS).decode()
    for old, new in (
        (f"<{hl7v3.QUERY} ", f'<{hl7v3.QUERY} xmlns:i="http://www.w3.org/2001/XMLSchema-instance" '),
        ("<parameterList>", '<parameterList><dataSource i:nil="true"/>'), ("<value ", '<value i:type="II" '),
        ("<semanticsText>Patient", '<semanticsText i:type="ST">Patient'), ('<responsePriorityCode code="I"/>', ""),
    ):
        assert old in text
        text = text.replace(old, new)
    answer = bench.v3(text.encode())
    assert (ack(answer), len(hl7v3.read_pix_answer(answer))) == ("AA", 4)
    nil = "{http://www.w3.org/2001/XMLSchema-instance}nil"
    assert [one.get(nil) for one in answer.iterfind(".//h:queryByParameter//h:dataSource", NS)] == ["true"]


def test_the_answer_is_read_by_our_own_client(bench: Bench) -> None:
    answer = bench.v3(hl7v3.write_pix_query(PatientId(HOSPA, "A1"), [XAD], sender=VIEWER, receiver=OURS))
    assert hl7v3.read_pix_answer(answer) == (PatientId(XAD, bench.affinity("A1")),)


def test_a_store_that_is_away_is_an_internal_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.manager, "_database", Database("sqlite:////proc/nowhere.db"))
    answer = bench.v3(hl7v3.write_pix_query(PatientId(HOSPA, "A1"), sender=VIEWER, receiver=OURS))
    assert (ack(answer), details(answer)) == ("AE", [["INTERR", ""]])
    assert attribute(answer, "h:controlActProcess/h:queryAck/h:queryResponseCode", "code") == "QE"


def test_the_row_says_how_it_travels() -> None:
    [message] = ROW.messages
    assert (message.action, message.reply_action) == ("urn:hl7-org:v3:PRPA_IN201309UV02", "urn:hl7-org:v3:PRPA_IN201310UV02")
