"""`broker archive`: one module per command."""

import typer

from broker.cli.archive.status import status
from broker.cli.archive.verify import verify

cli = typer.Typer(help="The archive of S-DICOM containers: how it is, and whether it is what it should be.", no_args_is_help=True)
cli.command()(status)
cli.command()(verify)
