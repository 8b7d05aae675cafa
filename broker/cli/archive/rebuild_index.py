"""`broker archive rebuild-index`: rows from containers, when the database is lost."""

import json
from contextlib import closing

import typer
from rich.console import Console
from rich.filesize import decimal

from broker.app.whole import App
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._progress import counting
from broker.db import schema
from broker.imaging.archiving.rebuild import Rebuilt
from broker.model.errors import BrokerError


def rebuild_index(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Enter every study that has a container in the archive and none in the database: studies, series, containers, publications.

    Manifests are published again under their UIDs by the running broker, as soon as a feed has named their patients. May be
    broken off and run again. Exit status 1 when a container cannot be read or used, or a store is away.
    """
    settings, profile = load(config)
    _log.configure("archive")
    with closing(App(settings, profile)) as app:
        try:
            schema.upgrade(app.database)
            with counting("reading containers", Console(stderr=True), quiet=as_json) as told:
                found = app.rebuilder.run(lambda so_far: told(line(so_far)))
        except BrokerError as error:
            typer.echo(f"broker: {error}; what was entered stays, run it again", err=True)
            raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(as_told(found)))
    else:
        show(found)
    raise typer.Exit(1 if found.damaged or found.unused else 0)


def line(found: Rebuilt) -> str:
    """Return how far it is, in words."""
    return f"{found.containers} containers, {found.studies} studies, {found.images} images, {decimal(found.bytes)}"


def as_told(found: Rebuilt) -> dict[str, object]:
    """Return it for a program."""
    return {
        "containers": found.containers, "studies": found.studies, "images": found.images, "bytes": found.bytes,
        "known": found.known, "retired": found.retired, "damaged": found.damaged, "unused": found.unused}


def show(found: Rebuilt) -> None:
    """Print it for a person."""
    for what, paths in (("cannot be read", found.damaged), ("is not used", found.unused)):
        for path, reason in paths.items():
            typer.echo(f"{path} {what}: {reason}", err=True)
    typer.echo(f"{line(found)}; {found.known} studies were known, {found.retired} older containers retired")
