"""`broker archive verify`: read containers back and compare them with what is on record."""

import json
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal

from broker.app.whole import App
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._progress import studies
from broker.imaging.archiving.pace import Rate
from broker.imaging.archiving.verify import Verdict, Verified
from broker.model.errors import BrokerError, Unavailable, place_of


@dataclass(slots=True)
class Found:
    """A container with which something is wrong; `unmended` says why it still is, and is empty when it was replaced."""

    verified: Verified
    unmended: str = "not tried"

    def told(self) -> dict[str, Any]:
        """Return it for a program."""
        one, container = self.verified, self.verified.container
        return {
            "container": container.path, "hospital": container.hospital, "study": container.study_uid, "state": one.verdict,
            "reason": one.reason, "images": one.images, "mended": not self.unmended,
            "unmended": self.unmended}


@dataclass(slots=True)
class Run:
    """What a run came to. `cleared` are containers that were damaged before; `stopped` says why it did not come to its end."""

    containers: int = 0
    bytes: int = 0
    cleared: int = 0
    found: list[Found] = field(default_factory=list)
    stopped: str = ""

    @property
    def failed(self) -> bool:
        """Whether something is damaged still, or was not read."""
        return bool(self.stopped) or any(one.unmended for one in self.found)


def verify(  # noqa: PLR0913, PLR0917 - one for each option
    config: ConfigFile = None,
    sample: Annotated[int, typer.Option(min=0, help="only so many containers, by chance")] = 0,
    study: Annotated[str, typer.Option(metavar="UID", help="only those of this study")] = "",
    days: Annotated[float, typer.Option(
        min=0, help="leave out what was read in the last DAYS: a run that was broken off goes on where it was")] = 1.0,
    mend: Annotated[bool, typer.Option("--mend", help="replace damaged containers at once")] = False,
    rate: Annotated[float, typer.Option(metavar="MB/S", min=0, help="most that is read on average; 0 = any number")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Read containers back from their store, and compare file, index and every picture with what was packed.

    What is damaged is audited and not given out any more. Exit status 1 when something is damaged and not mended, could not be
    read, or the store went away.
    """
    settings, profile = load(config)
    _log.configure("verify")
    with closing(App(settings, profile)) as app:
        todo = app.verifier.todo(sample=sample, study_uid=study, days=days)
        if study and not todo:
            typer.echo(f"broker: study {study} is not in the archive", err=True)
            raise typer.Exit(2)
        run = _run(app, todo, Rate(rate * 1e6, time.monotonic), mend=mend, quiet=as_json)
    if as_json:
        typer.echo(json.dumps({
            "containers": run.containers, "bytes": run.bytes, "left": len(todo) - run.containers, "cleared": run.cleared,
            "stopped": run.stopped, "damaged": [one.told() for one in run.found]}))
    else:
        _show(run, len(todo))
    raise typer.Exit(1 if run.failed else 0)


def _run(app: App, todo: list[tuple[int, int]], rate: Rate, *, mend: bool, quiet: bool) -> Run:
    run, total = Run(), sum(size for _, size in todo)
    with studies("verifying", Console(stderr=True), quiet=quiet, what="containers") as watch:
        watch(0, len(todo), 0, total)
        try:
            for one in app.verifier.each(todo, rate):
                run.containers += 1
                run.bytes += one.container.size
                run.cleared += one.cleared
                if one.verdict in {Verdict.DAMAGED, Verdict.UNREAD}:
                    run.found.append(Found(one, _mend(app, one) if mend else "not tried"))
                watch(run.containers, len(todo), run.bytes, total)
        except Unavailable as error:
            run.stopped = str(error)
    return run


def _mend(app: App, one: Verified) -> str:
    """Return why a container could not be replaced; empty when it was, or is whole again."""
    try:
        mended = app.mender.mend(one.container.study_id)
    except BrokerError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - one container must not stop the others
        return place_of(error)
    return "" if mended else one.reason


def _show(run: Run, total: int) -> None:
    for found in run.found:
        one, container = found.verified, found.verified.container
        what = f"{len(one.images)} images" if one.images else "the container"
        typer.echo(f"{container.path} of {container.hospital}, study {container.study_uid}: {one.verdict}, {what}: {one.reason}")
        for uid in one.images:
            typer.echo(f"    {uid}")
        typer.echo("    mended" if not found.unmended else f"    not mended: {found.unmended}")
    if run.cleared:
        typer.echo(f"{run.cleared} containers that were damaged are whole again")
    typer.echo(f"{run.containers} of {total} containers read, {decimal(run.bytes)}")
    if run.stopped:
        typer.echo(f"broker: stopped: {run.stopped}; the next run goes on from here", err=True)
