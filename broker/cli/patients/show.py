"""`broker patients show`: a person with all ids, and why they are one."""

import json

import typer
from rich.console import Console
from rich.table import Table

from broker.cli._config import AsJson, ConfigFile
from broker.cli._consult import Patient, patient_id
from broker.cli.patients._opened import At, moment, named, names, opened, unknown
from broker.config.profile import Profile
from broker.patients import telling
from broker.patients.projection import AUTOMATIC, EXPLICIT
from broker.patients.steward import DECIDED, Person, Tie

_WHY = {DECIDED: "decided", EXPLICIT: "named together by a source", AUTOMATIC: "found by comparison"}


def show(patient: Patient, at: At = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show who has an id: what each hospital says of that person, which ids are its own, and what links them.

    With --at the person as it was then. Exit status 1 when no feed had named the id.
    """
    with opened(config) as (steward, profile):
        asked = patient_id(patient, profile)
        person = steward.person(asked, moment(at))
        if person is None:
            raise unknown(asked)
        if as_json:
            typer.echo(json.dumps(telling.person(person), ensure_ascii=False))
        else:
            _print(person, profile)


def _print(person: Person, profile: Profile) -> None:
    console = Console(width=140, markup=False, emoji=False, highlight=False)      # a name may hold anything
    asked = named(person.asked.patient, profile)
    if not person.asked.active:
        console.print(f"{asked} was merged away; it lives on as {named(person.survivor.patient, profile)}.")
    console.print(f"{person.affinity} in the affinity domain")
    table = Table("id", "name", "born", "sex", "linked to")
    for tie in person.ties:
        table.add_row(*_row(tie, profile))
    console.print(table)
    if person.retired:
        console.print(f"merged into it: {', '.join(named(one, profile) for one in person.retired)}")


def _row(tie: Tie, profile: Profile) -> tuple[str, ...]:
    told = [f"{named(other, profile)}: {_WHY[kind]}" for other, kind in tie.to]
    links = "\n".join((*told, *(f"never {named(other, profile)}: decided" for other in tie.apart)))
    person = tie.record.person
    return named(tie.record.patient, profile), names(person), person.birth_date, person.sex, links
