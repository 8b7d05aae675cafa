"""`broker patients merge | unmerge | link | unlink | split`: a steward decides who is who."""

import getpass
import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from broker.app import patients
from broker.app.whole import App
from broker.cli import _config, _log
from broker.cli._config import AsJson, ConfigFile
from broker.cli._consult import Patient, patient_id
from broker.cli.patients._opened import named
from broker.config.profile import Profile
from broker.model.errors import BrokerError
from broker.patients import telling
from broker.patients.desk import Settled, Wish
from broker.patients.resolution import Moved, Outcome, Parted, Retired

Reason = Annotated[str, typer.Option("--reason", help="why, for the history and the audit")]
Preview = Annotated[bool, typer.Option("--preview", help="only show what would become of the persons")]
Undo = Annotated[bool, typer.Option("--undo", help="take the decision back")]
Force = Annotated[bool, typer.Option("--force", help="although they contradict each other")]


def merge(  # noqa: PLR0913, PLR0917 - the options of a command
    survivor: Patient, retired: Patient, reason: Reason = "", preview: Preview = False, force: Force = False,
    config: ConfigFile = None, as_json: AsJson = False,
) -> None:
    """Retire an id in favour of another one of the same domain, as its hospital would by A40. Undone by unmerge."""
    _Decision(config, preview, as_json).of("merge", survivor, retired, reason=reason, force=force)


def unmerge(
    retired: Patient, reason: Reason = "", preview: Preview = False, config: ConfigFile = None, as_json: AsJson = False,
) -> None:
    """Undo a merge: ids, links, demographics and registered documents are as they were. Undone by merge."""
    _Decision(config, preview, as_json).of("unmerge", retired, reason=reason)


def link(  # noqa: PLR0913, PLR0917 - the options of a command
    one: Patient, other: Patient, undo: Undo = False, reason: Reason = "", preview: Preview = False, force: Force = False,
    config: ConfigFile = None, as_json: AsJson = False,
) -> None:
    """Decide that two ids are one person's, whatever feeds say from now on."""
    _Decision(config, preview, as_json).of("link", one, other, undo=undo, reason=reason, force=force)


def unlink(  # noqa: PLR0913, PLR0917 - the options of a command
    one: Patient, other: Patient, undo: Undo = False, reason: Reason = "", preview: Preview = False,
    config: ConfigFile = None, as_json: AsJson = False,
) -> None:
    """Decide that two ids are never one person's, whatever feeds say from now on."""
    _Decision(config, preview, as_json).of("unlink", one, other, undo=undo, reason=reason)


def split(
    patient: Patient, undo: Undo = False, reason: Reason = "", preview: Preview = False, config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Decide that an id is of another person than all the ids it is together with."""
    _Decision(config, preview, as_json).of("split", patient, undo=undo, reason=reason)


class _Decision:
    """One decision of the user of this machine. What cannot be done ends the program with exit status 1."""

    def __init__(self, config: Path | None, preview: bool, as_json: bool) -> None:
        self._settings, self._profile = _config.load(config)
        self._preview, self._as_json = preview, as_json

    def of(self, name: str, *ids: str, reason: str, undo: bool = False, force: bool = False) -> None:
        _log.configure("patients")
        one, *others = (patient_id(text, self._profile) for text in ids)
        wish = Wish(
            patient=one, other=others[0] if others else None, reason=reason, undo=undo, force=force, preview=self._preview)
        with closing(App(self._settings, self._profile)) as app:
            try:
                settled = patients.decide(app, app.desk, name, wish, getpass.getuser())
            except BrokerError as error:
                typer.echo(f"broker: {error}", err=True)
                raise typer.Exit(1) from error
        if self._as_json:
            typer.echo(json.dumps(telling.settled(settled), ensure_ascii=False))
        else:
            _print(settled, self._profile)


def _print(settled: Settled, profile: Profile) -> None:
    for text in settled.against:
        typer.echo(f"against it: {text}")
    for person in settled.change.after:
        ids = ", ".join(named(one, profile) for one in sorted(person.local))
        typer.echo(f"{person.affinity} is the person with {ids}")
    for outcome, (documents, studies) in zip(settled.outcomes, settled.moved, strict=False):
        if text := _words(outcome):
            typer.echo(f"{text}: {documents} documents, {studies} studies")
    for notice in settled.notices:
        typer.echo(f"{notice.consumer} is told by {notice.transaction}: {json.dumps(notice.body, ensure_ascii=False)}")
    for uuid in settled.staying:
        typer.echo(f"stays, as its source patient id is of neither: {uuid}")


def _words(outcome: Outcome) -> str:
    match outcome:
        case Retired(retired, survivor):
            return f"{retired.value} lives on as {survivor.value}"
        case Moved(_, before, now) | Parted(_, before, now, _):
            return f"from {before.value} to {now.value}"
    return ""
