"""`broker backlog`: what does not go on, and why."""

import dataclasses
import json
import time
from contextlib import closing

import typer

from broker.app.core import Core
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.imaging.backlog import Held
from broker.imaging.backlog import backlog as held_up


def backlog(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List studies that are not published, and other work that failed: which, of whom, why, and when it is tried again.

    Exit status 1 when anything was refused for good and waits for a person.
    """
    settings, profile = load(config)
    _log.configure("backlog")
    with closing(Core(settings, profile)) as core:
        found = held_up(core.database)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(held) for held in found], ensure_ascii=False))
    else:
        _show(found)
    raise typer.Exit(1 if any(held.state == "failed" for held in found) else 0)


def _show(found: list[Held]) -> None:
    for held in found:
        again = f", tried {held.attempts} times, again {_when(held.next_at)}" if held.next_at else ""
        typer.echo(f"{held.work} {held.hospital or '-'} {held.subject}: {held.state} {held.reason}".rstrip() + again)
    if not found:
        typer.echo("nothing waits")


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
