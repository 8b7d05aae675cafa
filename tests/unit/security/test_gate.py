from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker.audit.spool import AuditLog
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.errors import Rejected, TooLarge, Unavailable, XdsCode
from broker.model.ids import PatientId
from broker.model.ports import Retrieved, RetrieveFailed
from broker.model.transaction import (
    AuditEvent,
    Disclosure,
    Keep,
    Message,
    Outcome,
    ServedTransaction,
    Transaction,
    TransactionRow,
    Wire,
)
from broker.security.gate import Gate, outcome_of
from broker.security.rules import Open, Policy

PATIENT, OTHER = PatientId("2.999.1.1", "P-1"), PatientId("2.999.1.1", "P-2")
CALLER = Caller(node="VIEWER", address="10.1.2.3", local_node="http://broker/xds")


class Strict:
    def authorise(self, row: TransactionRow, caller: Caller, subjects: tuple[PatientId, ...]) -> None:
        if caller.node == "STRANGER" or OTHER in subjects:
            raise Rejected("Denied", f"{row.code} for {subjects}")

    def may_see(self, caller: Caller, item: Disclosure) -> bool:
        return item.unique_id != "secret"


def read(raw: str, facts: AuditFacts) -> str:
    facts.message_id = f"id-{raw}"
    if raw == "unreadable":
        raise Rejected(XdsCode.REGISTRY_ERROR, raw)
    return raw


def handle(_actor: None, request: str, call: Call) -> list[str]:
    call.facts.patients.append(PATIENT)
    if request == "reject":
        raise Rejected(XdsCode.UNKNOWN_PATIENT_ID, "P-1")
    if request == "down":
        raise Unavailable("registry")
    if request == "bug":
        raise KeyError(request)
    return ["open", "secret"]


def filtered(found: list[str], keep: Keep) -> list[str]:
    return [one for one in found if keep(Disclosure(patient=PATIENT, unique_id=one))]


def subject(_actor: None, request: str) -> tuple[PatientId, ...]:
    return (PATIENT, OTHER) if request == "two" else (PATIENT,)


ROW: Transaction[None, str, str, list[str], Any] = Transaction(
    code="ITI-18", name="Registry Stored Query", wire=Wire.SOAP, endpoint="/xds/registry", messages=(Message(name="q"),),
    audit=AuditEvent(event_code="110112", event_text="Query", action="E", type_code="ITI-18", type_text="Registry Stored Query"),
    read=read, subject=subject, handle=handle, filtered=filtered, write=lambda _request, found: found,
    refuse=lambda _raw, error: f"refused {error}",
)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def gate(spool: Path, *, strict: bool = False) -> Gate:
    policy: Policy = Strict() if strict else Open()
    return Gate(policy, AuditLog(spool, "broker", "demo"))


def perform(spool: Path, request: str, *, caller: Caller = CALLER, strict: bool = False) -> Any:
    return gate(spool, strict=strict).perform(ServedTransaction(ROW, None), request, caller)


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


def test_a_request_that_cannot_be_read_is_audited_with_what_is_known_of_it() -> None:
    facts = AuditFacts()
    with pytest.raises(Rejected):
        ROW.read("unreadable", facts)
    assert facts.message_id == "id-unreadable"


def test_rules_hide_items_and_refuse_strangers_without_touching_the_handler(spool: Path) -> None:
    assert perform(spool, "fine", strict=True) == ["open"]
    assert perform(spool, "fine", caller=Caller(node="STRANGER"), strict=True).startswith("refused Denied")


def test_every_patient_of_a_request_is_asked_about_and_a_refusal_is_audited_for_each(spool: Path) -> None:
    assert perform(spool, "two", strict=True).startswith("refused Denied")
    lines = records(spool)
    assert [line.count('EventOutcomeIndicator="4"') for line in lines] == [1, 1]
    assert ["P-1^^^" in line for line in lines] == [True, False]
    assert ["P-2^^^" in line for line in lines] == [False, True]


def test_a_call_inside_is_asked_filtered_and_audited(spool: Path) -> None:
    strict = gate(spool, strict=True)
    assert strict.inside(ROW, None, "fine", CALLER) == ["open"]
    with pytest.raises(Rejected, match="Denied"):
        strict.inside(ROW, None, "two", CALLER)
    assert [line.partition('EventOutcomeIndicator="')[2][0] for line in records(spool)] == ["0", "4", "4"]


@dataclass
class Unit:
    actions: list[Callable[[], None]] = field(default_factory=list)

    def after_commit(self, action: Callable[[], None]) -> None:
        self.actions.append(action)


def test_a_call_in_anothers_unit_is_audited_once_that_is_durable(spool: Path) -> None:
    unit = Unit()
    gate(spool).inside(ROW, None, "fine", CALLER, unit)
    assert records(spool) == []
    for action in unit.actions:
        action()
    assert len(records(spool)) == 1


@pytest.mark.parametrize(("error", "outcome"), [
    (None, "0"), (Rejected("X", "no"), "4"), (TooLarge("a limit"), "4"), (Unavailable("registry"), "8"),
    (RetrieveFailed("pacs", Retrieved()), "8"), (KeyError("bug"), "8"), (KeyboardInterrupt(), "8")])
def test_a_call_we_begin_has_the_outcome_of_its_error(spool: Path, error: BaseException | None, outcome: str) -> None:
    def call() -> None:
        with gate(spool).outgoing(ROW, CALLER) as facts:
            facts.patients.append(PATIENT)
            if error is not None:
                raise error

    if error is None:
        call()
    else:
        with pytest.raises(type(error)):
            call()
        assert outcome_of(error) == Outcome(outcome)
    (record,) = records(spool)
    assert f'EventOutcomeIndicator="{outcome}"' in record
    assert "P-1^^^" in record


@dataclass
class Counting(Strict):
    asked: list[tuple[PatientId, ...]] = field(default_factory=list)

    def authorise(self, row: TransactionRow, caller: Caller, subjects: tuple[PatientId, ...]) -> None:
        self.asked.append(subjects)
        super().authorise(row, caller, subjects)


def test_a_stream_is_asked_about_once_and_again_for_other_patients(spool: Path) -> None:
    policy = Counting()
    stream = Gate(policy, AuditLog(spool, "broker", "demo")).stream(ROW, None, CALLER)
    assert [stream.handle("fine"), stream.handle("again")] == [["open"], ["open"]]
    assert policy.asked == [(PATIENT,)]
    for _ in range(2):
        with pytest.raises(Rejected, match="Denied"):
            stream.handle("two")
    assert policy.asked == [(PATIENT,), (PATIENT, OTHER), (PATIENT, OTHER)], "a refusal is no permission for the next"
    assert records(spool) == []
    stream.succeeded(AuditFacts(patients=[PATIENT]))
    stream.failed(Unavailable("online store", full=True))
    assert [line.partition('EventOutcomeIndicator="')[2][0] for line in records(spool)] == ["0", "8"]


def test_a_full_disk_costs_the_record_not_the_work(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    log = AuditLog(tmp_path / "audit", "broker", "demo")
    assert Gate(Open(), log).perform(ServedTransaction(ROW, None), "fine", CALLER) == ["open", "secret"]
    assert log.lost == 1
