import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.people import PersonName
from tests.helpers.hl7 import judge
from tests.helpers.patients import WEI, Bench, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
PID = "PID|||A1^^^HOSPA||葉^誠||19790214|M"


@pytest.fixture
def bench(request: pytest.FixtureRequest, database: Database, profile: Profile, tmp_path: Path) -> Bench:
    built = Bench(database, region(profile, unknown_authority=getattr(request, "param", "refuse")), tmp_path)
    built.feed("A04", "A1")
    built.add("B1")
    built.feed("A04", "A2", replace(WEI, names=(PersonName("李", "雷"),)))
    built.feed("A40", "A2", retired="A3")
    return built


def errors(segments: list[list[str]], *, old: bool) -> list[list[str]]:
    """Return place and code of each problem; before version 2.5 the place ends with the field (HL7 v2.4 2.16.5.1)."""
    assert {fields[0] for fields in segments} <= {"ERR"}
    if old:
        assert all(len(fields) == 2 for fields in segments)
        places = [error.split("^") for fields in segments for error in fields[1].split("~")]
        assert all(place[3].endswith("&HL70357") for place in places)
        return [["^".join(place[:3]).rstrip("^"), place[3].split("&")[0]] for place in places]
    assert all(fields[1] == "" and fields[3].endswith("^HL70357") and fields[4] == "E" and fields[8] for fields in segments)
    return [[fields[2], fields[3].split("^")[0]] for fields in segments]


@pytest.mark.parametrize(
    ("case", "bench"), [(case, case.get("unknown_authority", "refuse")) for case in CASES], ids=[case["id"] for case in CASES],
    indirect=["bench"])
def test_case(case: dict[str, Any], bench: Bench) -> None:
    check(case, bench)


REFUSED = [case for case in CASES if "errors" in case and "|P|2.3.1" in case["send"]]


@pytest.mark.parametrize(
    ("case", "bench"), [(case, case.get("unknown_authority", "refuse")) for case in REFUSED], ids=[c["id"] for c in REFUSED],
    indirect=["bench"])
def test_refusals_in_the_form_of_version_25(case: dict[str, Any], bench: Bench) -> None:
    check({**case, "send": case["send"].replace("|P|2.3.1", "|P|2.5")}, bench)


def check(case: dict[str, Any], bench: Bench) -> None:
    before = len(bench.audited())
    answer = bench.v2(case["send"])
    if "no control id" not in case["id"]:       # MSA-2 is required, and there is nothing to put there
        judge("".join("|".join(fields) + "\r" for fields in answer))
    sent = case["send"].strip().split("\n")[0].split("|")
    assert answer[0][2:6] == ["BROKER", "REGION", sent[2], sent[3]]
    assert answer[1][:3] == ["MSA", case["ack"], sent[9]]
    expected, old = case.get("errors", []), answer[0][11] < "2.5"
    assert errors(answer[2:], old=old) == [["^".join(place.split("^")[:3]) if old else place, code] for place, code in expected]
    assert len(answer[1]) == (4 if expected else 3)
    if "text" in case:
        assert answer[1][3] == case["text"]
    for value, ids in case.get("who", {}).items():
        assert bench.who(value) == set(ids)
    records = bench.audited()[before:]
    assert [[r["action"], r["outcome"], r["patient"]] for r in records] == case["audited"]
    for record in records:
        assert (record["event"], record["type"]) == ("110110", "ITI-8")
        assert record["nodes"] == [f"{sent[3]}|{sent[2]}", f"{sent[5]}|{sent[4]}"]
        assert record["message"] == ("m1" if record["patient"] else "")


def test_one_person_by_v2_in_gb18030_and_by_v3_in_utf8(bench: Bench) -> None:
    head = "MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|1||ADT^A04^ADT_A01|m9|P|2.3.1||||||GB 18030-2000"
    answer = bench.v2(f"{head}\n{PID.replace('A1', 'A6')}", "gb18030")
    assert answer[1] == ["MSA", "AA", "m9"]
    assert answer[0][17] == "GB 18030-2000"
    bench.add("B6", replace(WEI, names=(PersonName("葉", "誠"), PersonName("Ye", "Cheng"))))
    assert bench.who("A6") == {"A6", "B6"}


def test_a_store_that_is_away_asks_to_send_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.manager, "_database", Database("sqlite:////proc/nowhere.db"))
    answer = bench.v2(f"MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|1||ADT^A04^ADT_A01|m9|P|2.3.1\n{PID}")
    assert answer[1] == ["MSA", "AR", "m9", "database is not available"]
    assert answer[2] == ["ERR", "^^^207&Application internal error&HL70357"]
    assert bench.audited()[-1]["outcome"] == "8"


def test_a_bug_is_answered_and_audited_without_content(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> bytes:
        raise ValueError("葉誠")

    monkeypatch.setattr(bench.manager, "feed", broken)
    answer = bench.v2(f"MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|1||ADT^A04^ADT_A01|m9|P|2.3.1\n{PID}")
    assert answer[1:] == [["MSA", "AE", "m9", "internal error"], ["ERR", "^^^207&Application internal error&HL70357"]]
    assert bench.audited()[-1]["outcome"] == "8"
    assert "葉" not in capsys.readouterr().out
