"""`broker migrate`: pack what is old enough into S-DICOM."""

import json
import time
from contextlib import closing
from typing import Annotated

import typer
from rich.progress import Progress

from broker.app import imaging
from broker.app.core import Core
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.imaging.archiving.migrator import Migrator
from broker.model.errors import BrokerError, place_of


def migrate(
    config: ConfigFile = None,
    limit: Annotated[int, typer.Option(min=1, help="most studies in one run")] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what is due")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack every study older than the region's retention rules say into S-DICOM, prove it, and drop the online copy."""
    settings, profile = load(config)
    _log.configure("migrate")
    with closing(Core(settings, profile)) as core:
        migrator = imaging.migrator(core, imaging.sdfo(core))
        if dry_run:
            due = migrator.due(time.time())
            typer.echo(json.dumps(due) if as_json else f"{len(due)} studies are due")
            return
        done, failed = _run(migrator, limit, quiet=as_json)
    if as_json:
        typer.echo(json.dumps({"packed": done, "failed": failed}))
    else:
        typer.echo(f"{done} studies packed" + (f", {failed} failed" if failed else ""))
    raise typer.Exit(1 if failed else 0)


def _run(migrator: Migrator, limit: int, *, quiet: bool) -> tuple[int, int]:
    migrator.resume()
    due = migrator.due(time.time())[:limit]
    done = failed = 0
    with Progress(transient=True, disable=quiet) as progress:
        task = progress.add_task("packing", total=len(due))
        for study_id, _study_uid in due:
            try:
                migrator.packer.migrate(study_id)
                done += 1
            except Exception as error:  # noqa: BLE001 - one study must not stop the others
                failed += 1
                reason = error if isinstance(error, BrokerError) else place_of(error)
                typer.echo(f"broker: a study was not packed: {reason}", err=True)
            progress.advance(task)
    return done, failed
