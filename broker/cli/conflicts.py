"""`broker conflicts`: what does not agree with its study, and what becomes of it."""

import datetime as dt
import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from broker.app.whole import App
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._consult import patient_id
from broker.imaging.conflicts import ASSIGN, REJECT, UNDO, Conflict, ConflictRow, Decision, Shown
from broker.imaging.identity import LONGEST, plain_id
from broker.model.errors import BrokerError, Rejected
from broker.model.ids import PatientId

cli = typer.Typer(help="What does not agree with its study: list it, settle it, undo that.", invoke_without_command=True)

Id = Annotated[int, typer.Argument(metavar="ID", help="the conflict's number in the list")]

_FACTS = {
    "name": "PatientName", "birth_date": "PatientBirthDate", "sex": "PatientSex", "accession": "AccessionNumber",
    "study_date": "StudyDate", "description": "StudyDescription", "institution": "InstitutionName"}
_KINDS = {
    "patient": "names another patient", "correction": "sent again, corrected", "bytes": "sent again, other bytes"}


@cli.callback()
def conflicts(
    context: typer.Context,
    hospital: Annotated[str, typer.Option(help="only those of this hospital, by its key in the profile")] = "",
    settled: Annotated[bool, typer.Option("--all", help="also those that are settled")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List the objects that are kept aside because they do not agree with their study, each patient's as one conflict."""
    if context.invoked_subcommand:
        return
    with _opened(config) as app:
        _known_hospital(app, hospital)
        found = app.conflicts.listed(hospital, settled=settled)
    if as_json:
        typer.echo(json.dumps([_told(one) for one in found], ensure_ascii=False))
    else:
        _show(found)


@cli.command()
def settle(
    conflict: Id,
    assign: Annotated[str, typer.Option(
        metavar="PATIENT", help="they are this patient's: id^^^&oid&ISO, NAMESPACE:id, or an id of the hospital's own")] = "",
    reject: Annotated[bool, typer.Option("--reject", help="they stay aside")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Decide a conflict: what is shown and published follows; nothing is deleted, and `undo` takes it back."""
    if bool(assign) == reject:
        raise _wrong("say either --assign PATIENT or --reject")
    with _opened(config) as app:
        patient = _patient(app, conflict, assign) if assign else None
        _decide(app, ASSIGN if patient else REJECT, Decision(conflict=conflict, patient=patient), as_json=as_json)
        if patient and not as_json and not _is_known(app, patient):
            typer.echo("broker: no feed has named this patient yet; the manifest waits until one does", err=True)


@cli.command()
def undo(conflict: Id, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Take back what was decided about a conflict: everything is as it was before, and it is open again."""
    with _opened(config) as app:
        _decide(app, UNDO, Decision(conflict=conflict), as_json=as_json)


@contextmanager
def _opened(config: Any) -> Iterator[App]:
    """Open the broker's parts. What fails ends the program: 2 for a wrong name, 1 for what cannot be done (now)."""
    settings, profile = load(config)
    _log.configure("conflicts")
    app = App(settings, profile)
    try:
        yield app
    except BrokerError as error:
        typer.echo(f"broker: {error}", err=True)
        unknown = isinstance(error, Rejected) and error.problems[0].code in {"UnknownConflict", "UnknownHospital"}
        raise typer.Exit(2 if unknown else 1) from error
    finally:
        app.close()


def _decide(app: App, row: ConflictRow, decision: Decision, *, as_json: bool) -> None:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("bringing packed pictures back", total=None, visible=False)
        found = app.decide(row, Decision(
            conflict=decision.conflict, patient=decision.patient,
            progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True)), getpass.getuser())
    if as_json:
        typer.echo(json.dumps(_told(found), ensure_ascii=False))
        return
    what = {"assigned": f"assigned to {found.assigned}", "rejected": "rejected: they stay aside", "open": "open again"}
    typer.echo(f"conflict {found.id}: {found.came.images} images of study {found.study_uid} {what[found.state]}")


def _patient(app: App, conflict: int, text: str) -> PatientId:
    """Return the patient a person typed; a bare id is one of the hospital's own."""
    if "^" in text or ":" in text:
        return patient_id(text, app.profile)
    hospital = app.profile.hospital(app.conflicts.get(conflict).hospital)
    if hospital is None:
        raise _wrong("the hospital is not in the profile any more: give the patient as id^^^&oid&ISO")
    value = plain_id(text)
    if not 0 < len(value) <= LONGEST or value == '""':
        raise _wrong(f"not a patient id: it has 1 to {LONGEST} characters")
    return PatientId(hospital.domain, value)


def _is_known(app: App, patient: PatientId) -> bool:
    with app.database.read() as unit:
        return app.patients.affinity_id(unit, patient) is not None


def _known_hospital(app: App, key: str) -> None:
    if key and app.profile.hospital(key) is None:
        known = ", ".join(hospital.key for hospital in app.profile.hospitals)
        raise _wrong(f"there is no hospital {key!r} in the profile (known: {known})")


def _told(one: Conflict) -> dict[str, Any]:
    return {
        "id": one.id, "kind": one.kind, "state": one.state, "hospital": one.hospital, "study": one.study_uid,
        "here": _side(one.here), "came": _side(one.came), "first": _when(one.first_at), "last": _when(one.last_at),
        "decided": _when(one.decided_at) if one.decided_at else "", "by": one.decided_by,
        "assigned": str(one.assigned) if one.assigned else ""}


def _side(shown: Shown) -> dict[str, Any]:
    facts = {key: shown.facts.get(keyword, "") for key, keyword in _FACTS.items()}
    return {"patient": str(shown.patient) if shown.patient.value else "", "images": shown.images, **facts}


def _show(found: list[Conflict]) -> None:
    if not found:
        typer.echo("nothing is kept aside")
    for one in found:
        state = "" if one.state == "open" else f", {one.state}" + (f" to {one.assigned}" if one.assigned else "")
        by = f" by {one.decided_by} on {_when(one.decided_at)}" if one.decided_by else ""
        typer.echo(f"{one.id}: {_KINDS[one.kind]}{state}{by}")
        typer.echo(f"    hospital {one.hospital}, study {one.study_uid}, came {_when(one.first_at)} to {_when(one.last_at)}")
        typer.echo(f"    here: {_line(one.here)}")
        typer.echo(f"    came: {_line(one.came)}")


def _line(shown: Shown) -> str:
    text = shown.facts.get
    person = " ".join(filter(None, (text("PatientName"), text("PatientBirthDate"), text("PatientSex"))))
    study = " ".join(filter(None, (text("StudyDate"), text("AccessionNumber"), text("StudyDescription"))))
    return ", ".join(filter(None, (shown.patient.value or "no patient id", person, study, f"{shown.images} images")))


def _when(at: float) -> str:
    return dt.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def _wrong(text: str) -> typer.Exit:
    typer.echo(f"broker: {text}", err=True)
    return typer.Exit(2)
