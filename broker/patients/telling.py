"""Persons, events and decisions as commands and the steward's endpoint tell them in JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from broker.patients.desk import Settled
from broker.patients.events import Happened
from broker.patients.notices import Person as Group
from broker.patients.resolution import Outcome
from broker.patients.steward import Person


def person(one: Person) -> dict[str, Any]:
    """Return a person: all ids, what each hospital says, and what links them."""
    return {
        "asked": str(one.asked.patient), "active": one.asked.active, "survivor": str(one.survivor.patient),
        "affinity": str(one.affinity), "retired": [str(gone) for gone in one.retired],
        "ids": [{
            "id": str(tie.record.patient), "demographics": asdict(tie.record.person), "message": tie.record.message_id,
            "links": [{"to": str(other), "kind": kind} for other, kind in tie.to],
            "apart": [str(other) for other in tie.apart]} for tie in one.ties]}


def event(one: Happened) -> dict[str, Any]:
    """Return one thing that happened, with when, who and which message."""
    return {"at": one.at, "kind": one.event.kind, "patient": str(one.event.patient), "sender": one.sender,
            "message": one.message_id, **one.event.body()}


def settled(one: Settled) -> dict[str, Any]:
    """Return what became, or would become, of persons by a decision."""
    return {
        "before": [_group(group) for group in one.change.before], "after": [_group(group) for group in one.change.after],
        "outcomes": [_outcome(outcome) for outcome in one.outcomes],
        "moved": [{"documents": documents, "studies": studies} for documents, studies in one.moved],
        "notices": [asdict(notice) for notice in one.notices], "against": list(one.against), "staying": list(one.staying)}


def _group(group: Group) -> dict[str, Any]:
    return {"affinity": group.affinity, "ids": sorted(map(str, group.local))}


def _outcome(outcome: Outcome) -> Mapping[str, Any]:
    told = {key: getattr(outcome, key) for key in outcome.__slots__}
    return {"what": type(outcome).__name__.lower(), **{
        key: [str(patient) for patient in value] if isinstance(value, tuple) else str(value) for key, value in told.items()}}
