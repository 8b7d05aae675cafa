"""The rows of the steward's endpoint: a person, its past and its history; merge, un-merge, link, unlink, split."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.transaction import AuditEvent, Disclosure, Keep, Message, Transaction, Wire
from broker.patients import telling
from broker.patients.desk import Desk, Settled, Wish
from broker.patients.events import Happened
from broker.patients.notices import Change
from broker.patients.steward import Person, Steward
from broker.wire import steward_json
from broker.wire.rest import RestReply, RestRequest

_WISH: Final[Mapping[str, type]] = {
    "patient": str, "other": str, "reason": str, "undo": bool, "force": bool, "preview": bool}


@dataclass(frozen=True, slots=True)
class Look:
    """An id that is asked about, and the moment (seconds since the epoch) as of which, None = now."""

    patient: PatientId
    at: float | None = None


def read_look(raw: RestRequest, facts: AuditFacts) -> Look:
    """Read what is asked. Raise `Rejected` (102) for an id or a moment that is none."""
    look = Look(steward_json.read_id(raw.arguments["id"], "id"))
    facts.patients.append(look.patient)
    moments = raw.values("at")
    if not moments:
        return look
    try:
        return replace(look, at=dt.datetime.fromisoformat(moments[-1]).astimezone().timestamp())
    except (ValueError, OverflowError) as error:
        raise Rejected(Hl7Code.DATA_TYPE, "not a moment: 2026-05-03T12:00, with a zone or in this machine's", "at") from error


def read_wish(raw: RestRequest, facts: AuditFacts) -> Wish:
    """Read a decision. Raise `Rejected` (101, 102) for what is none."""
    found = steward_json.read_object(raw.body, _WISH)
    if "patient" not in found:
        raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "patient is missing", "patient")
    other = steward_json.read_id(found["other"], "other") if "other" in found else None
    wish = Wish(
        patient=steward_json.read_id(found["patient"], "patient"), other=other, reason=found.get("reason", ""),
        undo=found.get("undo", False), force=found.get("force", False), preview=found.get("preview", False))
    facts.message_id = wish.reason[:64]
    return wish


def show(steward: Steward, look: Look, _: Call) -> Person:
    """Return the person. Raise `Rejected` (204) when no feed has named the id."""
    found = steward.person(look.patient, look.at)
    if found is None:
        raise Rejected(Hl7Code.UNKNOWN_KEY, f"no feed had named {look.patient}", "id")
    return found


def history(steward: Steward, look: Look, _: Call) -> list[Happened]:
    """Return what happened to the id, oldest first. Raise `Rejected` (204) when nothing did."""
    found = [one for one in steward.history(look.patient) if look.at is None or one.at <= look.at]
    if not found:
        raise Rejected(Hl7Code.UNKNOWN_KEY, f"no feed had named {look.patient}", "id")
    return found


def decide(desk: Desk, wish: Wish, call: Call, *, name: str) -> Settled:
    """Carry a decision out, or show what would become of the persons."""
    return desk.preview(name, wish, call) if wish.preview else desk.decide(name, wish, call)


def _seen_person(person: Person, keep: Keep) -> Person:
    """Raise `Rejected` (204), as for an unknown id, where one id of the person may not be seen: names and links tell of all."""
    if all(keep(Disclosure(patient=one)) for one in (person.asked.patient, *(tie.record.patient for tie in person.ties))):
        return person
    raise Rejected(Hl7Code.UNKNOWN_KEY, f"no feed had named {person.asked.patient}", "id")


def _seen_history(events: list[Happened], keep: Keep) -> list[Happened]:
    if all(keep(Disclosure(patient=one.event.patient)) for one in events):
        return events
    raise Rejected(Hl7Code.UNKNOWN_KEY, f"no feed had named {events[0].event.patient}", "id")


def _seen_decision(settled: Settled, keep: Keep) -> Settled:
    """Return nothing where one of the ids may not be seen: the decision stands, and tells nothing."""
    ids = {one for person in (*settled.change.before, *settled.change.after) for one in person.local}
    return settled if all(keep(Disclosure(patient=one)) for one in ids) else Settled(change=Change(), outcomes=())


def _refuse(_: RestRequest, error: BrokerError) -> RestReply:
    return steward_json.refuse(error)


def _audit(code: str, title: str, action: str) -> AuditEvent:
    return AuditEvent(
        event_code="110110", event_text="Patient Record", action=action, type_code=code, type_text=title, type_system="BROKER")


SHOW_ROW: Final[Transaction[Steward, RestRequest, Look, Person, RestReply]] = Transaction(
    code="PATIENT-SHOW", name="Patient Shown", wire=Wire.HTTP, endpoint=steward_json.ENDPOINT,
    messages=(Message(name="GET /<id>"),), guarded=True, audit=_audit("PATIENT-SHOW", "Patient Shown", "R"), read=read_look,
    subject=lambda _, look: (look.patient,), handle=show, filtered=_seen_person,
    write=lambda _, person: steward_json.write(telling.person(person)), refuse=_refuse)

HISTORY_ROW: Final[Transaction[Steward, RestRequest, Look, list[Happened], RestReply]] = Transaction(
    code="PATIENT-HISTORY", name="Patient History Shown", wire=Wire.HTTP, endpoint=steward_json.ENDPOINT,
    messages=(Message(name="GET /<id>/history"),), guarded=True,
    audit=_audit("PATIENT-HISTORY", "Patient History Shown", "R"), read=read_look, subject=lambda _, look: (look.patient,),
    handle=history, filtered=_seen_history,
    write=lambda _, events: steward_json.write([telling.event(one) for one in events]), refuse=_refuse)

DecisionRow = Transaction[Desk, RestRequest, Wish, Settled, RestReply]


def _row(name: str, title: str) -> DecisionRow:
    code = f"PATIENT-{name.upper()}"
    return Transaction(
        code=code, name=title, wire=Wire.HTTP, endpoint=steward_json.ENDPOINT, messages=(Message(name=f"POST /{name}"),),
        guarded=True, audit=_audit(code, title, "U"), read=read_wish, subject=lambda _, wish: wish.ids,
        handle=partial(decide, name=name), filtered=_seen_decision,
        write=lambda _, settled: steward_json.write(telling.settled(settled)), refuse=_refuse)


MERGE_ROW: Final = _row("merge", "Patients Merged")
UNMERGE_ROW: Final = _row("unmerge", "Patients Unmerged")
LINK_ROW: Final = _row("link", "Patients Linked")
UNLINK_ROW: Final = _row("unlink", "Patients Unlinked")
SPLIT_ROW: Final = _row("split", "Patient Split")
DECISIONS: Final[Mapping[str, DecisionRow]] = {
    "merge": MERGE_ROW, "unmerge": UNMERGE_ROW, "link": LINK_ROW, "unlink": UNLINK_ROW, "split": SPLIT_ROW}
