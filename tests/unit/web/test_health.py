import json
from pathlib import Path
from typing import Any

import pytest

from broker.config.settings import SecuritySection, Settings
from broker.model.errors import Unavailable
from broker.model.transaction import AuditEvent, Message, Packaging, TransactionRow, Wire
from broker.security.rules import open_writes
from broker.web import health


def get(application: Any) -> tuple[str, dict[str, Any]]:
    seen: list[str] = []
    body = b"".join(application({}, lambda status, _headers: seen.append(status)))
    return seen[0], json.loads(body)


def down() -> None:
    raise Unavailable("database")


def test_healthz_is_200_when_everything_answers() -> None:
    status, body = get(health.healthz({"database": lambda: None, "coordination": lambda: "ok"}, lambda: {"web": 1}, ["web"]))
    assert status == "200 OK"
    assert body == {"status": "ok", "dependencies": {"database": "ok", "coordination": "ok", "role web": "ok"}}


def test_healthz_warns_of_what_is_open() -> None:
    warning = open_writes(Settings(security=SecuritySection(open_writes=True)))
    status, body = get(health.healthz({}, lambda: {"web": 1}, ["web"], [warning]))
    assert (status, body["status"], body["warnings"]) == ("200 OK", "ok", [warning])
    assert open_writes(Settings()) == ""


def test_healthz_names_what_is_wrong() -> None:
    checks = {"database": down, "online store": lambda: health.writable(Path("/nonexistent")), "audit": lambda: "3 records lost"}
    status, body = get(health.healthz(checks, dict, ["fetch"]))
    assert status == "503 Service Unavailable"
    assert body["dependencies"] == {
        "database": "database is not available", "online store": "No such file or directory", "audit": "3 records lost",
        "role fetch": "not running"}


def test_a_probe_leaves_nothing_even_after_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / ".probe").touch()
    health.writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.outside
def test_answers_says_whether_somebody_listens() -> None:
    with pytest.raises(OSError, match="refused"):
        health.answers(("127.0.0.1", 1))


def test_services_are_the_rows() -> None:
    row = TransactionRow(
        code="ITI-41", name="Provide", wire=Wire.SOAP, endpoint="/xds/repository", packaging=Packaging.MTOM,
        messages=(Message(name="{x}y", action="urn:go"),), audit=AuditEvent(event_code="1", event_text="x", action="C"))
    status, body = get(health.services([row], Settings()))
    assert status == "200 OK"
    assert body["services"] == [{
        "code": "ITI-41", "name": "Provide", "wire": "soap", "address": "http://127.0.0.1:8080/xds/repository",
        "wsdl": "http://127.0.0.1:8080/xds/repository?wsdl", "packaging": "mtom", "messages": ["urn:go"]}]
