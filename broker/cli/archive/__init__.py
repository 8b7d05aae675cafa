"""`broker archive`: one module per command."""

import typer

from broker.cli.archive.drill import drill
from broker.cli.archive.inspect import inspect
from broker.cli.archive.keep import hold, pin, pins, recall, release
from broker.cli.archive.rebuild_index import rebuild_index
from broker.cli.archive.status import status
from broker.cli.archive.verify import verify

cli = typer.Typer(
    help="The archive of S-DICOM containers: how it is, whether it is what it should be, what of it is kept or brought near.",
    no_args_is_help=True)

for command in (status, verify, hold, pin, release, pins, recall, inspect, rebuild_index, drill):
    cli.command()(command)
