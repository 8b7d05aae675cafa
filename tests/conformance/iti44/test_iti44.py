import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import PersonName
from broker.model.transaction import Packaging, Wire
from broker.patients import iti44_feed
from broker.wire import hl7v3
from tests.helpers.patients import DEVICE_B, HOSPB, NS, OURS, WEI, Bench, ack, attribute, details, region

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
HAN = replace(WEI, names=WEI.names[:1])
ROW = iti44_feed.row(OURS)


@pytest.fixture
def bench(request: pytest.FixtureRequest, database: Database, profile: Profile, tmp_path: Path) -> Bench:
    built = Bench(database, region(profile, unknown_authority=getattr(request, "param", "refuse")), tmp_path)
    built.feed("A04", "A1")
    built.add("B1", HAN)
    built.add("B2", replace(WEI, names=(PersonName("李", "雷"),)))
    built.merge("B2", "B3")
    return built


def message(case: dict[str, Any]) -> bytes:
    patient, sender = PatientId(HOSPB, case.get("id_", "B5")), case.get("sender", DEVICE_B)
    message_id = MessageId("20260301101500+0800", "m-1")
    if case["send"] == "merge":
        data = hl7v3.write_merge_patient(
            patient, PatientId(HOSPB, case["retired"]), HAN.names, sender=sender, receiver=OURS, message_id=message_id)
    else:
        data = hl7v3.write_add_patient(
            patient, HAN, sender=sender, receiver=OURS, revise=case["send"] == "revise", message_id=message_id)
    text = data.decode()
    if "old" in case:
        assert case["old"] in text
        text = text.replace(case["old"], case["new"])
    if "old2" in case:
        assert case["old2"] in text
        text = text.replace(case["old2"], case["new2"])
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


SENDER = '<sender typeCode="SND"><device classCode="DEV" determinerCode="INSTANCE"><id root="2.999.3.9"/>'
RECEIVER = '<receiver typeCode="RCV"><device classCode="DEV" determinerCode="INSTANCE"><id root="2.999.1.4"/>'


@pytest.mark.parametrize("ids", [
    '<id root="2.999.88.1"/><id root="2.999.3.9"/>',
    '<id root="2.999.3.9"/><id root="2.999.88.1"/>',
    '<id nullFlavor="NI"/><id root="2.999.88.1" extension="HIS"/><id root="2.999.3.9" assigningAuthorityName="HIS-B"/>',
])
def test_a_sender_is_known_by_any_of_its_ids(bench: Bench, ids: str) -> None:
    answer = bench.v3(message({"send": "add", "old": '<id root="2.999.3.9"/>', "new": ids}))
    assert (ack(answer), bench.who("B5", HOSPB)) == ("CA", {"A1", "B1", "B5"})
    told = answer.findall("h:receiver/h:device/h:id", NS)
    assert {(ii.get("root"), ii.get("extension")) for ii in told} == (
        {("2.999.88.1", "HIS"), ("2.999.3.9", None)} if "HIS" in ids else {("2.999.88.1", None), ("2.999.3.9", None)})


@pytest.mark.parametrize("ids", ['<id root="2.999.88.1"/><id root="2.999.88.2"/>', '<id nullFlavor="NI"/>'])
def test_a_sender_none_of_whose_ids_is_known_feeds_nothing(bench: Bench, ids: str) -> None:
    answer = bench.v3(message({"send": "add", "old": SENDER, "new": SENDER.replace('<id root="2.999.3.9"/>', ids)}))
    assert (ack(answer), [code for code, _ in details(answer)], bench.who("B5", HOSPB)) == ("CE", ["204"], set())


@pytest.mark.parametrize("given", ['<id root="2.999.77"/>', '<id nullFlavor="NI"/>', "<id/>", '<id root=""/>'])
@pytest.mark.parametrize("patient", ["2.999.3.1", "2.999.77"])
def test_the_answer_is_ours_whomever_the_message_was_sent_to(bench: Bench, given: str, patient: str) -> None:
    text = message({"send": "add", "old": RECEIVER, "new": RECEIVER.replace('<id root="2.999.1.4"/>', given)}).decode()
    answer = bench.v3(text.replace('<id root="2.999.3.1"', f'<id root="{patient}"').encode())
    assert ack(answer) == ("CA" if patient == HOSPB else "CE")
    assert [dict(ii.attrib) for ii in answer.findall("h:sender/h:device/h:id", NS)] == [{"root": OURS}]
    assert attribute(answer, "h:id", "root") == OURS


@pytest.mark.parametrize(("old", "new"), [
    ("<given>伟</given>", '<given>伟</given><given nullFlavor="NI"/>'),
    ("<given>伟</given>", '<given>伟</given><given>""</given>'),
    ("<given>伟</given>", '<given>伟</given><given nullFlavor="MSK">芳</given>'),
    ("<given>伟</given>", '<given>伟</given><suffix>""</suffix><prefix>""</prefix>'),
    ("<family>张</family><given>伟</given>", '<family>张伟</family><given nullFlavor="UNK"/>'),
    ("</patientPerson>", '<personalRelationship classCode="PRS"><code code="MTH"/><relationshipHolder1 classCode="PSN" '
     'determinerCode="INSTANCE"><name><family>""</family></name></relationshipHolder1></personalRelationship></patientPerson>'),
    ('<statusCode code="active"/><patientPerson', '<addr><city>""</city></addr><telecom nullFlavor="NI"/>'
     '<statusCode code="active"/><patientPerson'),
    ('<statusCode code="active"/><patientPerson', '<addr nullFlavor="NI"/><telecom value="&quot;&quot;"/><telecom value="tel:"/>'
     '<statusCode code="active"/><patientPerson'),
])
def test_a_null_inside_a_component_is_an_empty_component(bench: Bench, old: str, new: str) -> None:
    answer = bench.v3(message({"send": "add", "old": old, "new": new}))
    assert (ack(answer), bench.who("B5", HOSPB)) == ("CA", {"A1", "B1", "B5"})
    with bench.database.read() as unit:
        found = bench.manager.demographics(unit, PatientId(HOSPB, "B5"))
    assert found is not None
    assert (found.mother, found.addresses, found.phones) == (None, (), ())
    assert (found.names[0].middle, found.names[0].suffix, found.names[0].prefix) == ("", "", "")


@pytest.mark.parametrize("given", [
    'root="2.999.3.1" extension="&quot;&quot;"', 'root="2.999.3.1" extension="B5" nullFlavor="MSK"',
    'root="2.999.3.1" nullFlavor="UNK"', 'root="2.999.3.1" extension=" "'])
def test_a_null_is_no_id(bench: Bench, given: str) -> None:
    answer = bench.v3(message({"send": "add", "old": 'root="2.999.3.1" extension="B5"', "new": given}))
    assert (ack(answer), [code for code, _ in details(answer)]) == ("CE", ["101"])
    assert bench.who("B5", HOSPB) == bench.who('""', HOSPB) == set()


@pytest.mark.parametrize(("given", "stored"), [
    ("1979", "1979"), ("197902", "197902"), ("19790200", "197902"), ("19790000", "1979"), ("1979+0800", "1979"),
    ("19790214103000.000+0800", "19790214"), ("&quot;&quot;", ""), ("", ""),
])
def test_a_birth_date_has_the_precision_it_is_given_with(bench: Bench, given: str, stored: str) -> None:
    assert ack(bench.v3(message({"send": "add", "old": 'value="19790214"', "new": f'value="{given}"'}))) == "CA"
    with bench.database.read() as unit:
        found = bench.manager.demographics(unit, PatientId(HOSPB, "B5"))
    assert found is not None
    assert found.birth_date == stored


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
