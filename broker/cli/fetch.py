"""`broker fetch`: every picture of a patient as a file."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from broker.cli import _progress
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._consult import Patient, Url, consultation, day, hospitals, modalities, patient_id
from broker.client.consult import Consultation, Fetched, Manifests
from broker.config.profile import Profile

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
        manifests = client.manifests(client.documents(client.affinity_id(wanted)), to / "manifests")
        names = hospitals(client, manifests.files, profile)
        fetched = _fetch(client, manifests, to, quiet=as_json)
    seconds = time.monotonic() - started
    rows = _rows(manifests, fetched, names, profile)
    missing = [*manifests.missing, *fetched.missing]
    if as_json:
        named = [{"uid": p.location, "code": p.code, "reason": p.context} for p in missing]
        typer.echo(json.dumps({"studies": rows, "missing": named, "seconds": round(seconds, 3)}, ensure_ascii=False))
    else:
        _show(rows, to, seconds)
        for problem in missing:
            typer.echo(f"broker: missing {problem.location or '-'}: {problem.code} {problem.context}", err=True)
    raise typer.Exit(1 if missing or not fetched.pictures else 0)


def _fetch(client: Consultation, manifests: Manifests, folder: Path, *, quiet: bool) -> Fetched:
    total = sum(len(file.images) for file in manifests.files)
    with _progress.pictures("fetching", total, Console(stderr=True), quiet=quiet) as told:
        return client.pictures(manifests.files, folder, told)


def _rows(manifests: Manifests, fetched: Fetched, names: dict[str, str], profile: Profile) -> list[dict[str, Any]]:
    """Return a row for each study of each manifest."""
    came = {(one.study_uid, one.series_uid, one.sop_uid, one.source_uid): one.size for one in fetched.pictures}
    rows = []
    for file in manifests.files:
        for study in dict.fromkeys(ref.study_uid for ref in file.images):
            asked = {
                (ref.study_uid, ref.series_uid, ref.sop_uid, ref.source_uid) for ref in file.images if ref.study_uid == study}
            sizes = [came[key] for key in asked & came.keys()]
            rows.append({
                "study": study, "title": file.entry.title, "date": day(file.entry.service_start_time, profile.region.timezone),
                "hospital": names[file.entry.id], "modality": modalities(file.entry), "asked": len(asked), "objects": len(sizes),
                "bytes": sum(sizes)})
    return rows


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
