from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.audit.spool import AuditLog
from broker.model.caller import Call, Caller
from broker.model.errors import Rejected, Unavailable, XdsCode
from broker.model.ids import PatientId
from broker.model.transaction import AuditEvent, Message, ServedTransaction, Transaction, Wire
from broker.security.gate import Gate
from broker.security.rules import Open

PATIENT = PatientId("2.999.1.1", "P-1")
CALLER = Caller(node="VIEWER", address="10.1.2.3", local_node="http://broker/xds")


@dataclass(frozen=True)
class Hits:
    items: tuple[str, ...]

    def only(self, keep: Callable[[Any], bool]) -> "Hits":
        return Hits(tuple(item for item in self.items if keep(item)))


class Strict:
    def authorise(self, row: Transaction, caller: Caller, subject: PatientId | None) -> None:
        if caller.node == "STRANGER":
            raise Rejected("Denied", f"{row.code} for {subject}")

    def may_see(self, caller: Caller, item: Any) -> bool:
        return bool(item != "secret")


def handle(_actor: Any, request: str, call: Call) -> Hits:
    call.facts.patients.append(PATIENT)
    if request == "reject":
        raise Rejected(XdsCode.UNKNOWN_PATIENT_ID, "P-1")
    if request == "down":
        raise Unavailable("registry")
    if request == "bug":
        raise KeyError(request)
    return Hits(("open", "secret"))


ROW = Transaction(
    code="ITI-18", name="Registry Stored Query", wire=Wire.SOAP, endpoint="/xds/registry", messages=(Message(name="q"),),
    audit=AuditEvent(event_code="110112", event_text="Query", action="E", type_code="ITI-18", type_text="Registry Stored Query"),
    read=str, handle=handle, write=lambda _request, hits: list(hits.items), refuse=lambda _raw, error: f"refused {error}",
)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def perform(spool: Path, request: str, *, caller: Caller = CALLER, strict: bool = False) -> Any:
    gate = Gate(Strict() if strict else Open(), AuditLog(spool, "broker", "demo"))
    return gate.perform(ServedTransaction(ROW, None), request, caller)


def records(spool: Path) -> list[str]:
    return [line for file in spool.glob("*.xml") for line in file.read_text("utf-8").splitlines()]


def test_a_good_call_is_answered_and_audited(spool: Path) -> None:
    assert perform(spool, "fine") == ["open", "secret"]
    (record,) = records(spool)
    assert 'EventOutcomeIndicator="0"' in record
    assert 'csd-code="ITI-18"' in record
    assert 'ParticipantObjectID="P-1^^^&amp;2.999.1.1&amp;ISO"' in record


@pytest.mark.parametrize(("request_", "outcome"), [("reject", "4"), ("down", "8")])
def test_an_expected_error_is_refused_on_the_wire_and_audited(spool: Path, request_: str, outcome: str) -> None:
    assert perform(spool, request_).startswith("refused ")
    (record,) = records(spool)
    assert f'EventOutcomeIndicator="{outcome}"' in record
    assert "P-1^^^" in record


def test_a_bug_is_audited_and_raised(spool: Path) -> None:
    with pytest.raises(KeyError):
        perform(spool, "bug")
    (record,) = records(spool)
    assert 'EventOutcomeIndicator="8"' in record


def test_rules_hide_items_and_refuse_strangers_without_touching_the_handler(spool: Path) -> None:
    assert perform(spool, "fine", strict=True) == ["open"]
    assert perform(spool, "fine", caller=Caller(node="STRANGER"), strict=True).startswith("refused Denied")


def test_a_full_disk_costs_the_record_not_the_work(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    log = AuditLog(tmp_path / "audit", "broker", "demo")
    assert Gate(Open(), log).perform(ServedTransaction(ROW, None), "fine", CALLER) == ["open", "secret"]
    assert log.lost == 1
