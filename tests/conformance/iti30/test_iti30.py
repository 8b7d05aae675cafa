"""ITI-30, option Link/Unlink, case by case; what it decides outlives feeds."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broker.config.profile import Profile
from broker.db import Database, sql
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.ids import PatientId
from broker.model.people import PersonName
from broker.patients.desk import Desk, Wish
from broker.patients.store import tables
from tests.helpers.mllp import segment
from tests.helpers.patients import CLINIC, HOSPA, WEI, Bench, region

CASES: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("cases.toml").read_text("utf-8"))["case"]
STRUCTURES = {"A24": "ADT_A24", "A37": "ADT_A37"}
DOMAINS = {"K1": CLINIC}


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    bench = Bench(database, region(profile), tmp_path)
    for number, value in enumerate(("A1", "A2", "A4")):
        assert bench.feed("A04", value, replace(WEI, birth_date=f"1960020{number + 1}")) == "AA"
    person = replace(WEI, names=(PersonName("李", "雷"),), other_ids=((CLINIC, "K1"),))
    assert bench.feed("A04", "A5", person) == "AA"
    assert bench.feed("A40", "A5", retired="A4") == "AA"
    assert bench.add("B1", replace(WEI, birth_date="19700101")) == "CA"
    return bench


def message(event: str, pids: list[str], control: str = "m1") -> str:
    lines = [f"MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20260301101500||ADT^{event}^{STRUCTURES[event]}|{control}|P|2.5",
             "EVN||20260301101500", *(f"PID|||{cx}||ZHANG^WEI" for cx in pids)]
    return "\n".join(lines)


def states(bench: Bench) -> list[Any]:
    with bench.database.read() as unit:
        return [list(sql(unit).execute(sa.select(table))) for table in (
            tables.event, tables.identity, tables.group, tables.link, tables.decision, tables.message)]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(bench: Bench, case: dict[str, Any]) -> None:
    before = states(bench)
    answer = bench.v2(message(case["event"], case["pids"]))
    assert segment(answer, "MSA")[1:3] == [case["status"], "m1"]
    errors = [[fields[2], fields[3].split("^")[0]] for fields in answer if fields[0] == "ERR"]
    assert errors == ([case["error"]] if "error" in case else [])
    audited = bench.audited()[-1]
    assert (audited["type"], audited["action"], audited["outcome"]) == ("ITI-30", "U", "0" if case["status"] == "AA" else "4")
    if case["status"] != "AA":
        assert states(bench) == before
        return
    assert [one["message"] for one in bench.audited()[-2:]] == ["m1", "m1"], "both ids are audited"
    one, other = (bench.affinity(value, DOMAINS.get(value, HOSPA)) for value in case.get("together") or case["apart"])
    assert (one == other) is ("together" in case)
    again = states(bench)
    assert bench.v2(message(case["event"], case["pids"])) == answer, "the same message gets the same answer"
    assert bench.v2(message(case["event"], case["pids"], "m2"))[1][:2] == ["MSA", "AA"]
    assert states(bench)[:5] == again[:5], "and saying so again changes nothing"


def test_a_steward_is_not_overruled(bench: Bench) -> None:
    desk = Desk(bench.database, bench.settler, lambda _unit, _outcome: (0, 0))
    call = Call(caller=Caller(node="here", user="ward"), facts=AuditFacts())
    wish = Wish(patient=PatientId(HOSPA, "A1"), other=PatientId(HOSPA, "A2"))
    desk.decide("unlink", wish, call)
    refused = bench.v2(message("A24", ["A2^^^HOSPA", "A1^^^HOSPA"]))
    assert segment(refused, "MSA")[1] == "AE"
    assert segment(refused, "ERR")[2:4] == ["PID^2^3", "206^Application record locked^HL70357"]
    assert bench.affinity("A1") != bench.affinity("A2")
    desk.decide("unlink", replace(wish, undo=True), call)
    assert segment(bench.v2(message("A24", ["A2^^^HOSPA", "A1^^^HOSPA"], "m2")), "MSA")[1] == "AA"
    desk.decide("unlink", wish, call)
    assert bench.affinity("A1") != bench.affinity("A2"), "the steward overrules the source"


def test_feeds_do_not_change_what_was_linked_or_unlinked(bench: Bench) -> None:
    bench.v2(message("A24", ["A1^^^HOSPA", "A2^^^HOSPA"]))
    bench.feed("A08", "A1", replace(WEI, names=(PersonName("王", "五"),)))
    assert bench.affinity("A1") == bench.affinity("A2")
    bench.v2(message("A37", ["A1^^^HOSPA", "A2^^^HOSPA"], "m3"))
    bench.feed("A08", "A1", WEI)
    bench.feed("A08", "A2", WEI)
    assert bench.affinity("A1") != bench.affinity("A2")
