"""`broker fetch`: every picture of a patient as a file."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from broker.cli import _progress
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._consult import Patient, Url, consultation, day, hospital_of, modalities, patient_id
from broker.client.consult import Consultation, Fetched, Manifests
from broker.config.profile import Profile
from broker.model.ids import PatientId

_COLUMNS = ("title", "date", "hospital", "modality", "asked", "objects")


def fetch(
    patient: Patient,
    to: Annotated[Path, typer.Option("--to", help="folder for the pictures: DIR/study/series/instance.dcm", file_okay=False)],
    config: ConfigFile = None,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Fetch all pictures of a patient, from whichever hospital or store has them, by one request.

    Exit status 0 when everything came, 1 when something is missing (it is named), 2 when the broker is not reached.
    """
    settings, profile = load(config)
    wanted = patient_id(patient, profile)
    started = time.monotonic()
    with consultation(settings, profile, url) as client:
        manifests, fetched = _fetch(client, wanted, to, quiet=as_json)
    seconds = time.monotonic() - started
    rows = _rows(manifests, fetched, profile)
    missing = [*manifests.missing, *fetched.missing]
    if as_json:
        named = [{"uid": p.location, "code": p.code, "reason": p.context} for p in missing]
        typer.echo(json.dumps({"studies": rows, "missing": named, "seconds": round(seconds, 3)}, ensure_ascii=False))
    else:
        _show(rows, to, seconds)
        for problem in missing:
            typer.echo(f"broker: missing {problem.location or '-'}: {problem.code} {problem.context}", err=True)
    raise typer.Exit(1 if missing or not fetched.pictures else 0)


def _fetch(client: Consultation, patient: PatientId, folder: Path, *, quiet: bool) -> tuple[Manifests, Fetched]:
    manifests = client.manifests(client.documents(client.affinity_id(patient)), folder / "manifests")
    total = sum(len(file.images) for file in manifests.files)
    with _progress.pictures("fetching", total, Console(stderr=True), quiet=quiet) as told:
        return manifests, client.pictures(manifests.files, folder, told)


def _rows(manifests: Manifests, fetched: Fetched, profile: Profile) -> list[dict[str, Any]]:
    objects = Counter(picture.study_uid for picture in fetched.pictures)
    sizes: Counter[str] = Counter()
    for picture in fetched.pictures:
        sizes[picture.study_uid] += picture.size
    return [
        {"study": study, "title": file.entry.title, "date": day(file.entry.service_start_time, profile.region.timezone),
         "hospital": hospital_of(file.entry, profile), "modality": modalities(file.entry),
         "asked": sum(ref.study_uid == study for ref in file.images), "objects": objects[study], "bytes": sizes[study]}
        for file in manifests.files for study in dict.fromkeys(ref.study_uid for ref in file.images)]


def _show(rows: list[dict[str, Any]], folder: Path, seconds: float) -> None:
    if not rows:
        typer.echo("no studies are published for this patient")
        return
    table = Table(*_COLUMNS, "size", box=None)
    for row in rows:
        table.add_row(*(str(row[column]) for column in _COLUMNS), decimal(row["bytes"]))
    console = Console()
    console.print(table)
    total = sum(row["bytes"] for row in rows)
    console.print(f"{sum(row['objects'] for row in rows)} objects, {decimal(total)} in {seconds:.1f} s, under {folder}")
