import base64
import os
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from broker.audit.message import write_messages
from broker.audit.spool import AuditLog
from broker.model.caller import AuditFacts, Caller
from broker.model.ids import PatientId
from broker.model.transaction import AuditEvent, Outcome, TransactionRow, Wire

WHEN = datetime(2026, 3, 1, 2, 30, 1, 120000, tzinfo=UTC)


def row(code: str = "ITI-43", **audit: Any) -> TransactionRow:
    event = {"event_code": "110106", "event_text": "Export", "action": "R", "type_code": code, "type_text": "Retrieve", **audit}
    return TransactionRow(code=code, name="x", wire=Wire.SOAP, audit=AuditEvent(**event))


def write(transaction: TransactionRow, facts: AuditFacts, **more: Any) -> list[ET.Element]:
    caller = Caller(node='http://view/?a="1"&b', address="10.1.2.3", user="dr<li@idp>", local_node="http://broker/xds")
    lines = write_messages(transaction, caller, facts, Outcome.SUCCESS, source_id="broker", site="demo", when=WHEN, **more)
    return [ET.fromstring(line) for line in lines]


def test_the_retriever_is_the_destination_and_the_human_the_requestor() -> None:
    (message,) = write(row(source_is_local=True), AuditFacts(documents=[("2.999.1.2", "2.999.7")]))
    event = message.find("EventIdentification")
    assert event is not None
    assert event.attrib == {
        "EventActionCode": "R", "EventDateTime": "2026-03-01T02:30:01.120+00:00", "EventOutcomeIndicator": "0"}
    found = message.findall("ActiveParticipant")
    people = {one.get("UserID"): (one.get("UserIsRequestor"), [role.get("csd-code") for role in one]) for one in found}
    assert people == {
        'http://view/?a="1"&b': ("false", ["110152"]), "dr<li@idp>": ("true", []), "http://broker/xds": ("false", ["110153"])}
    document = message.find("ParticipantObjectIdentification")
    assert document is not None
    assert document.get("ParticipantObjectID") == "2.999.7"
    detail = document.find("ParticipantObjectDetail")
    assert detail is not None
    assert base64.b64decode(detail.get("value", "")) == b"2.999.1.2"


def test_several_patients_are_several_messages() -> None:
    patients = [PatientId("2.999.2.1", "A1"), PatientId("2.999.3.1", "B|1"), PatientId("2.999.2.1", "A1")]
    messages = write(row("ITI-9"), AuditFacts(patients=patients, query=b"QPD|\xe5\xbc\xa0", message_id="m1"))
    ids = [m.findall("ParticipantObjectIdentification")[0].get("ParticipantObjectID") for m in messages]
    assert ids == ["A1^^^&2.999.2.1&ISO", "B\\F\\1^^^&2.999.3.1&ISO"]
    query = messages[0].findall("ParticipantObjectIdentification")[1].findtext("ParticipantObjectQuery") or ""
    assert base64.b64decode(query) == b"QPD|\xe5\xbc\xa0"


def test_a_record_is_one_line_of_the_day_file(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, "broker", "demo")
    log.record(row(), Caller(node="A\nB"), AuditFacts(), Outcome.MINOR, "refused\nbecause")
    log.record(row(), Caller(), AuditFacts(), Outcome.SUCCESS)
    (file,) = tmp_path.iterdir()
    lines = file.read_text("utf-8").splitlines()
    assert [ET.fromstring(line).find("EventIdentification").get("EventOutcomeIndicator") for line in lines] == ["4", "0"]  # type: ignore[union-attr]  # each has one
    assert ET.fromstring(lines[0]).findtext("EventIdentification/EventOutcomeDescription") == "refused\nbecause"


def test_a_record_a_full_disk_took_in_part_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path, "broker", "demo")
    log.record(row(), Caller(node="first"), AuditFacts(), Outcome.SUCCESS)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr("broker.audit.spool.os.write", lambda handle, data: write(handle, data[:100]))
        log.record(row(), Caller(node="second"), AuditFacts(), Outcome.SUCCESS)
    log.record(row(), Caller(node="third"), AuditFacts(), Outcome.SUCCESS)
    (file,) = tmp_path.iterdir()
    messages = [ET.fromstring(line) for line in file.read_text("utf-8").splitlines()]
    assert [one.find("ActiveParticipant").get("UserID") for one in messages] == ["first", "third"]  # type: ignore[union-attr]  # each has one
    assert log.lost == 1
