"""`broker patients history`: what ever happened to an id."""

import datetime as dt
import json
from collections.abc import Callable, Mapping
from typing import Any

import typer

from broker.cli._config import AsJson, ConfigFile
from broker.cli._consult import Patient, patient_id
from broker.cli.patients._opened import named, names, opened, unknown
from broker.config.profile import Profile
from broker.model.ids import PatientId
from broker.patients import telling
from broker.patients.events import (
    Decided,
    Event,
    Fed,
    Grouped,
    Happened,
    Joined,
    Late,
    Linked,
    Merged,
    Revived,
    Stated,
    Unmerged,
)

_VERDICTS = {
    Decided.SAME: "decided to be one person with", Decided.APART: "decided never to be one person with",
    Decided.OPEN: "decision taken back about"}


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
            typer.echo(json.dumps(telling.event(one), ensure_ascii=False) if as_json else _line(one, profile))


def _line(one: Happened, profile: Profile) -> str:
    at = dt.datetime.fromtimestamp(one.at).astimezone().isoformat(sep=" ", timespec="seconds")
    by = f"  [{one.sender}, {one.message_id}]" if one.sender else ""
    return f"{at}  {_words(one.event, profile)}{by}"


def _words(event: Event, profile: Profile) -> str:
    return _WORDS[type(event)](event, profile)


def _fed(event: Fed, _: Profile) -> str:
    late = ", too late: something newer was known" if isinstance(event, Late) else ""
    person = event.person
    return f"{event.trigger}: {names(person)}, born {person.birth_date or '?'}, sex {person.sex or '?'}{late}"


def _decided(event: Decided, profile: Profile) -> str:
    return f"{_VERDICTS[event.verdict]} {named(event.other, profile)}{_because(event.reason)}"


def _merged(event: Merged, profile: Profile) -> str:
    return f"lives on as {named(event.survivor, profile)}{_because(event.reason)}"


def _unmerged(event: Unmerged, profile: Profile) -> str:
    return f"is an id of its own again, and lives on as {named(event.survivor, profile)} no more{_because(event.reason)}"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _all(patients: tuple[PatientId, ...], profile: Profile) -> str:
    return ", ".join(named(patient, profile) for patient in patients) or "nobody any more"


_WORDS: Mapping[type, Callable[[Any, Profile], str]] = {
    Fed: _fed, Late: _fed, Decided: _decided, Merged: _merged, Unmerged: _unmerged,
    Linked: lambda event, profile: f"linked by comparison to {_all(event.to, profile)}",
    Stated: lambda event, profile: f"named by its source together with {_all(event.to, profile)}",
    Joined: lambda event, _: f"lives on as {event.survivor}",
    Revived: lambda event, _: f"is a person's own again, and lives on as {event.survivor} no more",
    Grouped: lambda event, profile: f"belongs to {PatientId(profile.region.affinity_domain, event.affinity)}",
}
