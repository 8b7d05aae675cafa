"""`broker`: one command per module. Exit status 0 = done, 1 = done in part or failed, 2 = wrong use or setting."""

from typing import Annotated

import typer

import broker
from broker.cli import check, db, demo, fetch, migrate, publish, query, serve

cli = typer.Typer(
    name="broker", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="IHE XDS-I / PIX integration broker of a regional medical-imaging centre.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(broker.__version__)
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """IHE XDS-I / PIX integration broker of a regional medical-imaging centre."""


for command in (serve.serve, demo.demo, check.check, publish.publish, migrate.migrate, fetch.fetch, query.query):
    cli.command()(command)
cli.add_typer(db.cli, name="db")


def main() -> None:
    """Run the command line."""
    cli()
