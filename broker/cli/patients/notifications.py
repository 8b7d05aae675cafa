"""`broker patients notifications`: what PIX consumers and registries of others are told, and what became of it."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from broker.app.core import Core
from broker.cli import _config, _log
from broker.cli._config import AsJson, ConfigFile
from broker.model.errors import BrokerError
from broker.patients.outbox import Outbox

notifications = typer.Typer(
    help="What consumers of the profile are told of changed ids (ITI-10, ITI-46, ITI-64), what waits and what was refused.",
    invoke_without_command=True)
Numbers = Annotated[list[int], typer.Argument(help="numbers of notifications, as the list has them")]


@notifications.callback()
def listed(
    context: typer.Context,
    consumer: Annotated[str, typer.Option(help="key of a consumer; empty = all")] = "",
    state: Annotated[str, typer.Option(help="waiting, delivered or refused; empty = waiting and refused")] = "",
    limit: Annotated[int, typer.Option(min=1, help="most that are listed of a state")] = 50,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List notifications, oldest first, below how many there are of each consumer."""
    if context.invoked_subcommand is not None:
        return
    with _opened(config) as outbox:
        queues = outbox.queues()
        states = [state] if state else ["refused", "waiting"]
        rows = [one for wanted in states for one in outbox.listed(consumer, wanted, limit)]
    if as_json:
        typer.echo(json.dumps({
            "queues": [asdict(one) for one in queues], "notifications": [asdict(one) for one in rows]}, ensure_ascii=False))
        return
    console = Console(width=140, markup=False, emoji=False, highlight=False)      # an id may hold anything
    for queue in queues:
        console.print(f"{queue.consumer}: {queue.number} {queue.state}, the oldest of {_time(queue.since)}")
    if rows:
        table = Table("no.", "consumer", "transaction", "tells", "state", "since", "tried", "why")
        for one in rows:
            table.add_row(
                str(one.id), one.consumer, one.transaction, json.dumps(one.body, ensure_ascii=False), one.state,
                _time(one.created_at), str(one.attempts), one.reason)
        console.print(table)


@notifications.command()
def retry(numbers: Numbers, config: ConfigFile = None) -> None:
    """Have notifications sent at once, refused ones too where nothing newer was told of the same ids.

    Exit status 1 when there is none such.
    """
    with _opened(config) as outbox:
        _each(numbers, outbox.send_at_once, "is neither waiting nor refused, or the consumer was told something newer since")


@notifications.command()
def drop(numbers: Numbers, config: ConfigFile = None) -> None:
    """Give up notifications that wait, so that those behind them go on. Exit status 1 when there is none such."""
    with _opened(config) as outbox:
        _each(numbers, outbox.drop, "does not wait")


def _each(numbers: list[int], work: Callable[[int], bool], problem: str) -> None:
    failed = [number for number in numbers if not work(number)]
    for number in failed:
        typer.echo(f"broker: notification {number} {problem}", err=True)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _opened(config: _config.ConfigFile) -> Iterator[Outbox]:
    settings, profile = _config.load(config)
    _log.configure("patients")
    with closing(Core(settings, profile)) as core:
        try:
            yield Outbox(core.database)
        except BrokerError as error:
            typer.echo(f"broker: {error}", err=True)
            raise typer.Exit(1) from error


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
