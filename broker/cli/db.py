"""`broker db`: the schema of the durable store."""

from typing import NoReturn

import typer

from broker.cli._config import ConfigFile, load
from broker.db import Database, schema
from broker.model.errors import Unavailable

cli = typer.Typer(no_args_is_help=True, help="The schema of the durable store.")


@cli.command()
def upgrade(config: ConfigFile = None) -> None:
    """Bring the store to the newest schema; safe to repeat."""
    database = _open(config)
    try:
        schema.upgrade(database)
        typer.echo(f"schema {schema.current(database)}")
    except Unavailable as error:
        _fail(error)


@cli.command()
def current(config: ConfigFile = None) -> None:
    """Say which schema the store has; exit status 1 when it is not the newest."""
    database = _open(config)
    try:
        found, newest = schema.current(database), schema.head()
    except Unavailable as error:
        _fail(error)
    typer.echo(f"schema {found or 'none'}, newest {newest}")
    raise typer.Exit(0 if found == newest else 1)


def _open(config: ConfigFile) -> Database:
    settings, _ = load(config)
    return Database(settings.database_url)


def _fail(error: Unavailable) -> NoReturn:
    typer.echo(f"broker: {error}", err=True)
    raise typer.Exit(1) from error
