"""`broker patients history`: what ever happened to an id."""

import datetime as dt
import json
from typing import Any

import typer

from broker.cli._config import AsJson, ConfigFile
from broker.cli._consult import Patient, patient_id
from broker.cli.patients._opened import named, names, opened, unknown
from broker.config.profile import Profile
from broker.model.ids import PatientId
from broker.patients.events import Event, Fed, Grouped, Happened, Joined, Late, Linked, Merged, Stated


def history(patient: Patient, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List what happened to an id, oldest first: when, what, and by which message of whom.

    An id of the affinity domain has a history of its own: as which other one it lives on. Exit status 1 when there is none.
    """
    with opened(config) as (steward, profile):
        asked = patient_id(patient, profile)
        found = steward.history(asked)
        if not found:
            raise unknown(asked)
        for one in found:
            typer.echo(json.dumps(_told(one), ensure_ascii=False) if as_json else _line(one, profile))


def _told(one: Happened) -> dict[str, Any]:
    return {"at": one.at, "kind": one.event.kind, "patient": str(one.event.patient), "sender": one.sender,
            "message": one.message_id, **one.event.body()}


def _line(one: Happened, profile: Profile) -> str:
    at = dt.datetime.fromtimestamp(one.at).astimezone().isoformat(sep=" ", timespec="seconds")
    by = f"  [{one.sender}, {one.message_id}]" if one.sender else ""
    return f"{at}  {_words(one.event, profile)}{by}"


def _words(event: Event, profile: Profile) -> str:
    match event:
        case Fed(_, person, trigger):
            late = ", too late: something newer was known" if isinstance(event, Late) else ""
            return f"{trigger}: {names(person)}, born {person.birth_date or '?'}, sex {person.sex or '?'}{late}"
        case Linked(_, to):
            return f"linked by comparison to {_all(to, profile)}"
        case Stated(_, to):
            return f"named by its source together with {_all(to, profile)}"
        case Merged(_, survivor) | Joined(_, survivor):
            return f"lives on as {named(survivor, profile)}"
        case Grouped(_, affinity):
            return f"belongs to {PatientId(profile.region.affinity_domain, affinity)}"
    return event.kind


def _all(patients: tuple[PatientId, ...], profile: Profile) -> str:
    return ", ".join(named(patient, profile) for patient in patients) or "nobody any more"
