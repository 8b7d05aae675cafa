"""`broker query`: which studies of a patient exist in the region."""

import json
import tempfile
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table

from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._consult import Patient, Url, consultation, day, hospitals, modalities, patient_id
from broker.client.consult import ManifestFile, Manifests
from broker.config.profile import Profile

_COLUMNS = ("title", "date", "hospital", "modality", "images", "study")


def query(patient: Patient, config: ConfigFile = None, url: Url = "", as_json: AsJson = False) -> None:
    """List a patient's studies in all hospitals: title, date, hospital, modality, number of images.

    Exit status 1 when a manifest could not be had (it is named), 2 when the broker is not reached.
    """
    settings, profile = load(config)
    wanted = patient_id(patient, profile)
    with consultation(settings, profile, url) as client, tempfile.TemporaryDirectory() as folder:
        found = client.manifests(client.documents(client.affinity_id(wanted)), Path(folder))
        names = hospitals(client, found.files, profile)
    newest = sorted(found.files, key=lambda file: file.entry.service_start_time, reverse=True)
    rows = [_row(file, names[file.entry.id], profile) for file in newest]
    if as_json:
        missing = [{"document": p.location, "code": p.code, "reason": p.context} for p in found.missing]
        typer.echo(json.dumps({"studies": rows, "missing": missing}, ensure_ascii=False))
    else:
        _show(rows, found)
    raise typer.Exit(1 if found.missing else 0)


def _row(file: ManifestFile, hospital: str, profile: Profile) -> dict[str, str | int]:
    return {
        "title": file.entry.title, "date": day(file.entry.service_start_time, profile.region.timezone),
        "hospital": hospital, "modality": modalities(file.entry), "images": len(file.images),
        "study": ", ".join(dict.fromkeys(ref.study_uid for ref in file.images)), "document": file.entry.unique_id}


def _show(rows: list[dict[str, str | int]], found: Manifests) -> None:
    table = Table(*_COLUMNS[:-1], Column(_COLUMNS[-1], overflow="fold"), box=None)
    for row in rows:
        table.add_row(*(str(row[column]) for column in _COLUMNS))
    Console().print(table if rows else "no studies are published for this patient")
    for problem in found.missing:
        typer.echo(f"broker: document {problem.location} could not be had: {problem.code} {problem.context}", err=True)
