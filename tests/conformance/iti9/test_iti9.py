import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.people import PersonName
from tests.helpers.hl7 import judge
from tests.helpers.patients import HOSPC, WEI, Bench, plain, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
HEAD = "MSH|^~\\&|VIEW|CONS|{}|{}|20260301103000||QBP^Q23^QBP_Q21|q1|P|2.5|||||||||ITI-9^IHE"


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


def ask(bench: Bench, *segments: str, application: str = "BROKER", facility: str = "REGION") -> list[str]:
    message = "\r".join((HEAD.format(application, facility), *segments)) + "\r"
    return bench.mllp.answer(message.encode(), "10.0.0.7").decode().split("\r")


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any], bench: Bench) -> None:
    before = len(bench.audited())
    lines = ask(bench, case["qpd"], "RCP|I")
    # QPD is the question's own; hl7apy does not know that its parameters are the query's to define (HL7 v2.5 5.5.4).
    judge("\r".join("QPD|IHE PIX Query|t|x" if line.startswith("QPD") else line for line in lines))
    msh = lines[0].split("|")
    assert msh[2:6] == ["BROKER", "REGION", "VIEW", "CONS"]
    assert (msh[8], msh[11]) == ("RSP^K23^RSP_K23", "2.5")
    names = [line[:3] for line in lines[:-1]]
    assert names == ["MSH", "MSA", *(["ERR"] if "error" in case else []), "QAK", "QPD", *(["PID"] if "pid" in case else [])]
    answer = dict(zip(names, lines, strict=False))
    assert answer["MSA"] == f"MSA|{case['status'][0]}|q1"
    assert answer["QAK"] == f"QAK|{case['qpd'].split('|')[2]}|{case['status'][1]}"
    assert answer["QPD"] == case["qpd"]
    if "pid" in case:
        assert plain(answer["PID"]) == f"PID|||{case['pid']}||~^^^^^^S"
    if "error" in case:
        fields = answer["ERR"].split("|")
        assert [fields[2], fields[3].split("^")[0], fields[4]] == [*case["error"], "E"]
    [record] = bench.audited()[before:]
    assert (record["event"], record["type"], record["action"], record["patient"]) == ("110112", "ITI-9", "E", case["patient"])
    assert record["outcome"] == ("0" if case["status"][0] == "AA" else "4")
    assert record["nodes"] == ["CONS|VIEW", "REGION|BROKER"]


def test_the_affinity_id_can_be_asked_with(bench: Bench) -> None:
    value = bench.affinity("A1")
    assert ask(bench, f"QPD|IHE PIX Query|t|{value}^^^&2.999.1.1&ISO|^^^HOSPA", "RCP|I")[4] == (
        "PID|||A1^^^HOSPA&2.999.2.1&ISO||~^^^^^^S")
    lines = ask(bench, "QPD|IHE PIX Query|t|NEVER^^^REGION", "RCP|I")
    assert (lines[1], lines[2].split("|")[8]) == ("MSA|AE|q1", "unknown patient id: no feed named id NEVER of REGION")


def test_without_qpd_a_plain_acknowledgement_answers(bench: Bench) -> None:
    lines = ask(bench, "RCP|I")
    assert [lines[0].split("|")[8], *lines[1:-1]] == [
        "ACK^Q23^ACK", "MSA|AE|q1|segment QPD is missing",
        "ERR||QPD|100^Segment sequence error^HL70357|E||||segment QPD is missing"]


@pytest.mark.parametrize(("application", "facility", "place"), [("PIX", "REGION", "MSH^1^5"), ("BROKER", "X", "MSH^1^6")])
def test_a_query_meant_for_another_is_refused(bench: Bench, application: str, facility: str, place: str) -> None:
    lines = ask(bench, "QPD|IHE PIX Query|t|A1^^^HOSPA", "RCP|I", application=application, facility=facility)
    given, ours = (application, "BROKER") if place == "MSH^1^5" else (facility, "REGION")
    text = f"the message is meant for {given!r}, and this is {ours!r}"
    assert (lines[0].split("|")[2:6], lines[1]) == (["BROKER", "REGION", "VIEW", "CONS"], "MSA|AE|q1")
    assert lines[2].split("|")[8] == text
    assert (lines[2].split("|")[2], lines[3]) == (place, "QAK|t|AE")


def test_the_query_is_audited_as_it_came(bench: Bench) -> None:
    ask(bench, "QPD|IHE PIX Query|tag-1|A1^^^HOSPA", "RCP|I")
    record = bench.audited()[-1]
    assert record["query"] == (HEAD.format("BROKER", "REGION") + "\rQPD|IHE PIX Query|tag-1|A1^^^HOSPA\rRCP|I\r").encode()
    assert record["message"] == "q1"
