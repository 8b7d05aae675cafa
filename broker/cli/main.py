"""`broker`: one command per module. Exit status 0 = done, 1 = done in part or failed, 2 = wrong use or setting.

A command is the function, or the group called `cli`, of the module of its name; the module is imported when it is asked for, so
that no command waits for what only others need.
"""

import importlib
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import broker
from broker.files.modes import UMASK

COMMANDS = ("serve", "demo", "check", "publish", "migrate", "archive", "backlog", "conflicts", "patients", "fetch", "query", "db")
_LOOKS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}


class _Commands(TyperGroup):
    """The commands by their names."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"broker.cli.{cmd_name}")
        one = typer.Typer(**_LOOKS)
        if hasattr(module, "cli"):
            one.add_typer(module.cli, name=cmd_name)
        else:
            one.command(cmd_name)(getattr(module, cmd_name))
        found = typer.main.get_command(one)
        return found.commands[cmd_name] if isinstance(found, TyperGroup) else found


cli = typer.Typer(
    name="broker", cls=_Commands, help="IHE XDS-I / PIX integration broker of a regional medical-imaging centre.",
    no_args_is_help=True, **_LOOKS)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(broker.__version__)
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """IHE XDS-I / PIX integration broker of a regional medical-imaging centre."""


def main() -> None:
    """Run the command line. What any process of the broker makes is for its user, and for its group to read."""
    os.umask(UMASK)
    cli()
