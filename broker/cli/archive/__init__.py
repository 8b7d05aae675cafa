"""`broker archive`: one module per command, or for a few that belong together."""

import typer

from broker.cli.archive.keep import hold, pin, pins, recall, release
from broker.cli.archive.status import status
from broker.cli.archive.verify import verify

cli = typer.Typer(
    help="The archive of S-DICOM containers: how it is, whether it is what it should be, what of it is kept or brought near.",
    no_args_is_help=True)

for command in (status, verify, hold, pin, release, pins, recall):
    cli.command()(command)
