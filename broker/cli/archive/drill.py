"""`broker archive drill`: how long a rebuild would take, and what it would bring back."""

import json
from contextlib import closing
from dataclasses import asdict

import typer
from rich.console import Console

from broker.app import imaging
from broker.app.core import Core
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._progress import counting
from broker.cli.archive.rebuild_index import as_told, line, show
from broker.imaging.archiving.drill import drill as run_drill
from broker.model.errors import BrokerError


def drill(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Rebuild the index into a temporary database beside the running broker, and compare it with the live one.

    Reads containers only, changes and publishes nothing. Exit status 1 when something would not come back as it is.
    """
    settings, profile = load(config)
    _log.configure("archive")
    with closing(Core(settings, profile)) as core:
        try:
            with counting("reading containers", Console(stderr=True), quiet=as_json) as told:
                found = run_drill(core.database, imaging.sdfo(core), profile, lambda so_far: told(line(so_far)))
        except BrokerError as error:
            typer.echo(f"broker: {error}", err=True)
            raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({
            **as_told(found.rebuilt), "seconds": round(found.seconds, 3), "different": found.different,
            "differences": [asdict(one) for one in found.differences]}))
    else:
        show(found.rebuilt)
        for one in found.differences:
            typer.echo(f"study {one.study_uid} of {one.hospital}: {one.what} ({one.container})")
        typer.echo(f"{found.seconds:.1f} s; {found.different} studies would not come back as they are")
    raise typer.Exit(1 if found.different or found.rebuilt.damaged or found.rebuilt.unused else 0)
