import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.people import PersonName
from broker.model.stamp import Stamp
from broker.model.transaction import Packaging, Wire
from broker.patients.iti44_feed import ROW
from broker.wire import hl7v3
from tests.helpers.patients import DEVICE_B, HOSPB, OURS, WEI, Bench, ack, attribute, details, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
HAN = replace(WEI, names=WEI.names[:1])


@pytest.fixture
def bench(request: pytest.FixtureRequest, database: Database, profile: Profile, tmp_path: Path) -> Iterator[Bench]:
    built = Bench(database, region(profile, unknown_authority=getattr(request, "param", "refuse")), tmp_path)
    built.feed("A04", "A1")
    built.add("B1", HAN)
    built.add("B2", replace(WEI, names=(PersonName("李", "雷"),)))
    built.merge("B2", "B3")
    yield built
    built.close()


def message(case: dict[str, Any]) -> bytes:
    patient, sender = PatientId(HOSPB, case.get("id_", "B5")), case.get("sender", DEVICE_B)
    stamp = Stamp("20260301101500+0800", "m-1")
    if case["send"] == "merge":
        data = hl7v3.write_merge_patient(
            patient, PatientId(HOSPB, case["retired"]), HAN.names, sender=sender, receiver=OURS, stamp=stamp)
    else:
        data = hl7v3.write_add_patient(
            patient, HAN, sender=sender, receiver=OURS, revise=case["send"] == "revise", stamp=stamp)
    text = data.decode()
    if "old" in case:
        assert case["old"] in text
        text = text.replace(case["old"], case["new"])
    return text.encode()


@pytest.mark.parametrize(
    ("case", "bench"), [(case, case.get("unknown_authority", "refuse")) for case in CASES], ids=[case["id"] for case in CASES],
    indirect=["bench"])
def test_case(case: dict[str, Any], bench: Bench) -> None:
    before, data = len(bench.audited()), message(case)
    answer = bench.v3(data)
    root = data.decode()[1:].split()[0]
    assert ack(answer) == case["ack"]
    assert attribute(answer, "h:acknowledgement/h:targetMessage/h:id", "extension") == "m-1"
    assert attribute(answer, "h:acceptAckCode", "code") == "NE"
    assert attribute(answer, "h:receiver/h:device/h:id", "root") == case.get("sender", DEVICE_B)
    assert attribute(answer, "h:sender/h:device/h:id", "root") == OURS
    where = f"/{root}/controlActProcess/subject/registrationEvent"
    assert details(answer) == [[code, f"{where}/{place}"] for code, place in case.get("errors", [])]
    for value, ids in case.get("who", {}).items():
        assert bench.who(value, HOSPB) == set(ids)
    records = bench.audited()[before:]
    assert [[r["action"], r["outcome"], r["patient"]] for r in records] == case["audited"]
    for record in records:
        assert (record["event"], record["type"]) == ("110110", "ITI-44")
        assert record["message"] == (f"{case.get('sender', DEVICE_B)}.m-1" if record["patient"] else "")


@pytest.mark.parametrize("send", ["add", "revise", "merge"])
def test_a_message_without_an_id_is_refused(bench: Bench, send: str) -> None:
    data = message({"send": send, "retired": "B1", "old": f'<id root="{DEVICE_B}" extension="m-1"/>', "new": "<id/>"})
    answer = bench.v3(data)
    assert (ack(answer), details(answer)) == ("CE", [["101", f"/{data.decode()[1:].split()[0]}/id"]])


def test_what_the_schema_refuses_does_not_reach_the_manager(bench: Bench) -> None:
    with pytest.raises(Rejected, match="SchemaInvalid"):
        bench.v3(message({"send": "add", "old": '<acceptAckCode code="AL"/>', "new": ""}))
    assert bench.who("B5", HOSPB) == set()


def test_a_store_that_is_away_is_not_the_senders_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.manager, "_database", Database("sqlite:////proc/nowhere.db"))
    answer = bench.v3(message({"send": "add"}))
    assert (ack(answer), details(answer)) == ("CR", [["INTERR", ""]])


def test_the_row_says_how_it_travels() -> None:
    assert (ROW.wire, ROW.endpoint, ROW.packaging, ROW.schema) == (Wire.SOAP, "/pix", Packaging.SIMPLE, "hl7v3.xsd")
    assert [(m.name.rpartition("}")[2], m.action, m.reply_action) for m in ROW.messages] == [
        (name, f"urn:hl7-org:v3:{name}", "urn:hl7-org:v3:MCCI_IN000002UV01")
        for name in ("PRPA_IN201301UV02", "PRPA_IN201302UV02", "PRPA_IN201304UV02")]
