"""`broker patients`: who is who, why, and how it came to be; feeds from files; what others are told."""

import typer

from broker.cli.patients.decide import link, merge, split, unlink, unmerge
from broker.cli.patients.diff import diff
from broker.cli.patients.duplicates import duplicates
from broker.cli.patients.export import export
from broker.cli.patients.history import history
from broker.cli.patients.load import load
from broker.cli.patients.notifications import notifications
from broker.cli.patients.show import show

cli = typer.Typer(
    help="Who is who: a person with all ids and why they are one; what happened to an id; feeds from a file; who is told.",
    no_args_is_help=True)
for command in (show, history, diff, duplicates, merge, unmerge, link, unlink, split, load, export):
    cli.command()(command)
cli.add_typer(notifications, name="notifications")
