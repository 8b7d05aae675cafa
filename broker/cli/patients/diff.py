"""`broker patients diff`: what has changed of a person between two moments."""

import datetime as dt
import json
from dataclasses import asdict
from typing import Annotated

import typer

from broker.cli._config import AsJson, ConfigFile
from broker.cli._consult import Patient, patient_id
from broker.cli.patients._opened import FORMATS, moment, opened, unknown
from broker.patients.steward import Person

Moment = Annotated[dt.datetime, typer.Argument(formats=FORMATS, help="a moment of the past, in this machine's time")]
Until = Annotated[dt.datetime | None, typer.Argument(formats=FORMATS, help="a later one; now where it is not given")]


def diff(patient: Patient, since: Moment, until: Until = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what has changed of the person with an id: ids, links and decisions, and what each hospital says.

    Lines begin with - for what was, + for what is. Exit status 1 when no feed has named the id.
    """
    with opened(config) as (steward, profile):
        asked = patient_id(patient, profile)
        before, after = steward.person(asked, moment(since)), steward.person(asked, moment(until))
    if before is None and after is None:
        raise unknown(asked)
    was, now = _facts(before), _facts(after)
    if as_json:
        typer.echo(json.dumps({"gone": sorted(was - now), "new": sorted(now - was)}, ensure_ascii=False))
        return
    for sign, facts in (("-", was - now), ("+", now - was)):
        for fact in sorted(facts):
            typer.echo(f"{sign} {fact}")


def _facts(person: Person | None) -> set[str]:
    """Return what is to be compared, a line for each fact."""
    if person is None:
        return set()
    facts = {f"in the affinity domain {person.affinity}", *(f"merged into it: {one}" for one in person.retired)}
    for tie in person.ties:
        one = tie.record.patient
        facts.add(f"{one}")
        facts |= {f"{one} linked to {other}: {kind}" for other, kind in tie.to}
        facts |= {f"{one} never {other}" for other in tie.apart}
        facts |= {f"{one} {key}: {_shown(value)}" for key, value in asdict(tie.record.person).items() if value}
    return facts


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
