"""`broker patients load`: feeds of a file, as if their senders had sent them."""

import json
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console

from broker.app import patients
from broker.app.core import Core
from broker.cli import _config, _log, _progress
from broker.cli._config import AsJson, ConfigFile
from broker.cli.patients._sources import CSV, HL7, NDJSON, TITLES, Answered, Source, form_of
from broker.files.modes import make_file
from broker.model.errors import Rejected
from broker.patients import files
from broker.patients.identifiers import Authorities, Sender


class Form(StrEnum):
    """What a file holds."""

    HL7 = HL7
    CSV = CSV
    NDJSON = NDJSON


class Encoding(StrEnum):
    """How the text of a table is written."""

    UTF_8 = "UTF-8"
    GB18030 = "GB18030"


File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="HL7 v2 messages, a table, or FHIR Patients")]
Holds = Annotated[Form | None, typer.Option("--format", help="what the file holds; its suffix or its beginning tells, too")]
Who = Annotated[str, typer.Option(
    "--sender", metavar="WHO", help="who feeds rows or Patients: APPLICATION|FACILITY, a device OID or an address")]
InEncoding = Annotated[Encoding, typer.Option("--encoding", case_sensitive=False, help="of a table")]
Rejects = Annotated[Path | None, typer.Option("--rejects", dir_okay=False, help="write what is refused there, as it came")]


def load(  # noqa: PLR0913, PLR0917 - the options of a command
    file: File, form: Holds = None, sender: Who = "", encoding: InEncoding = Encoding.UTF_8, rejects: Rejects = None,
    config: ConfigFile = None, as_json: AsJson = False,
) -> None:
    """Feed the patient index from a file: HL7 v2 messages (batch or not), a table (CSV), or FHIR Patients, one a line (NDJSON).

    Each record is judged, carried out and audited as if its sender had sent it; one that is refused stops no other. A file may
    be loaded again: what is known already changes nothing. Exit status 1 when any was refused, 2 when the file holds none.
    """
    settings, profile = _config.load(config)
    holds = form.value if form else form_of(file)
    if not holds:
        raise _wrong(f"{file}: neither its suffix nor its beginning says what it holds: give --format hl7, csv or ndjson")
    source = _sender(holds, sender, Authorities(profile))
    _log.configure("patients")
    counted: Counter[bool] = Counter()
    with ExitStack() as stack:
        stream = stack.enter_context(file.open("rb"))
        core = stack.enter_context(closing(Core(settings, profile)))
        told = stack.enter_context(_progress.transfer("feeding", Console(stderr=True), quiet=as_json))
        try:
            head, found = Source(core, patients.pix_manager(core), source, encoding.value).open(holds, stream)
        except Rejected as error:
            raise _wrong(f"{file}: {error.problems[0].context}") from error
        kept = stack.enter_context(_writing(rejects, file)) if rejects else None
        size = file.stat().st_size
        for raw, one in found:
            told(stream.tell(), size)
            counted[one.code == "AA"] += 1
            if one.code != "AA":
                _keep(kept, raw if counted[False] > 1 else head + raw)
                typer.echo(json.dumps(asdict(one), ensure_ascii=False) if as_json else _line(one, holds))
    _finish(counted, file, holds, as_json=as_json)


def _finish(counted: Counter[bool], file: Path, holds: str, *, as_json: bool) -> None:
    """Say what became of all, and end the program."""
    if as_json:
        typer.echo(json.dumps({"accepted": counted[True], "refused": counted[False]}))
    else:
        what = "messages" if holds == HL7 else f"{TITLES[holds]}s"
        typer.echo(f"{counted.total()} {what}: {counted[True]} accepted, {counted[False]} refused")
    if not counted:
        raise _wrong(f"{file} holds no {TITLES[holds]}")
    raise typer.Exit(1 if counted[False] else 0)


def _sender(holds: str, sender: str, authorities: Authorities) -> Sender:
    """Return as whom a file is fed, or end the program with exit status 2."""
    if holds == HL7:
        if sender:
            raise _wrong("--sender: messages of HL7 v2 name their sender themselves (MSH-3, MSH-4)")
        return Sender()
    if not sender:
        raise _wrong("--sender is needed: as whom are they fed? APPLICATION|FACILITY, device OID or address of the profile")
    found = files.sender(sender)
    if not authorities.is_feeder(found):
        raise _wrong(f"--sender: {found.title} may feed no domain (feeders in domains.toml)")
    return found


def _writing(rejects: Path, file: Path) -> BinaryIO:
    if rejects.exists() and rejects.samefile(file):
        raise _wrong("--rejects must be another file than the one that is loaded")
    try:
        make_file(rejects)      # patient data: not for everybody
        return rejects.open("wb")
    except OSError as error:
        raise _wrong(f"--rejects: {rejects} cannot be written ({error.strerror})") from error


def _keep(kept: BinaryIO | None, raw: bytes) -> None:
    """Write a refused record as it came; the last one of a file may have no line end."""
    if kept is not None and raw:
        kept.write(raw if raw.endswith((b"\r", b"\n")) else raw + b"\n")


def _line(one: Answered, holds: str) -> str:
    if holds == HL7:
        return f"message {one.number} ({one.control_id or 'no control id'}): {one.code} {one.text}"
    return f"{'row' if holds == CSV else 'line'} {one.number}: {one.text}"


def _wrong(text: str) -> typer.Exit:
    typer.echo(f"broker: {text}", err=True)
    return typer.Exit(2)
