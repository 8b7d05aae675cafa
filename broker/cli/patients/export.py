"""`broker patients export`: every active record into a file that `load` reads."""

import csv
import getpass
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console

from broker.app import patients
from broker.app.core import Core
from broker.cli import _config, _log, _progress
from broker.cli._config import AsJson, ConfigFile
from broker.cli.patients._sources import CSV, NDJSON, form_of_suffix
from broker.cli.patients.load import Encoding, InEncoding
from broker.files.durable import fsync_folder
from broker.files.modes import make_file
from broker.model.errors import BrokerError
from broker.patients.files import as_resource, as_row
from broker.patients.listed import Listed
from broker.patients.steward import Steward
from broker.wire import fhir
from broker.wire.patient_file import COLUMNS

_EVERY = 1000       # records between two signs of life
File = Annotated[Path, typer.Argument(dir_okay=False, help="the file to write: .csv or .ndjson")]


def export(file: File, encoding: InEncoding = Encoding.UTF_8, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Write every active record: its domain and id, what its source last said, and the person's id in the affinity domain.

    By its suffix the file is a table (.csv) or has a FHIR Patient in each line (.ndjson); `load` reads both. It has its name
    once it is whole. Exit status 1 when that fails.
    """
    settings, profile = _config.load(config)
    write = _WRITERS.get(form_of_suffix(file))
    if write is None:
        typer.echo(f"broker: {file}: the name must end with .csv or .ndjson", err=True)
        raise typer.Exit(2)
    _log.configure("patients")
    with closing(Core(settings, profile)) as core, _whole(file) as stream, \
            _progress.counting("exporting", Console(stderr=True), quiet=as_json) as told:
        steward = Steward(core.database, profile.region.affinity_domain)
        number = 0
        row = write(stream, encoding.value)
        for number, one in enumerate(patients.export(core, steward, getpass.getuser()), 1):
            row(one)
            if number % _EVERY == 0:
                told(f"{number} records")
    typer.echo(json.dumps({"records": number}) if as_json else f"{number} records written to {file}")


def _table(stream: BinaryIO, encoding: str) -> Callable[[Listed], Any]:
    """Begin a table; return what writes a row."""
    text = io.TextIOWrapper(stream, encoding, newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    return lambda one: writer.writerow(as_row(one))


def _patients(stream: BinaryIO, _encoding: str) -> Callable[[Listed], Any]:
    """Return what writes a line; FHIR is always UTF-8."""
    return lambda one: stream.write(fhir.write(as_resource(one), fhir.JSON) + b"\n")


_WRITERS = {CSV: _table, NDJSON: _patients}


@contextmanager
def _whole(file: Path) -> Iterator[BinaryIO]:
    """Return what writes a file that has its name once it is durable. What fails ends the program with exit status 1."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        make_file(temporary)    # patient data: not for everybody
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        fsync_folder(file.parent)
    except (BrokerError, OSError) as error:
        typer.echo(f"broker: {error}", err=True)
        raise typer.Exit(1) from error
    finally:
        temporary.unlink(missing_ok=True)
