"""`broker archive hold | pin | release | pins | recall`: what is kept, and what comes back online for a while."""

import datetime as dt
import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from broker.app import imaging
from broker.app.core import Core
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._progress import transfer
from broker.imaging.archiving.keep import HOLD_ROW, PIN_ROW, RECALL_ROW, RELEASE_ROW, Keeper, KeepRow, Wish
from broker.model.errors import BrokerError, Rejected

StudyUid = Annotated[str, typer.Argument(metavar="UID", help="the Study Instance UID")]
Hospital = Annotated[str, typer.Option(help="only the study of this hospital, by its key in the profile")]
Reason = Annotated[str, typer.Option(help="why; it is listed and audited")]

_TOLD = {"hold": "held: no copy of it is removed", "pin": "pinned: it is kept online"}


def hold(uid: StudyUid, reason: Reason, hospital: Hospital = "", config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Let no copy of a study be removed, neither online nor in the archive, until it is released. It may be packed."""
    with _opened(config) as (core, keeper):
        _keep(core, keeper, HOLD_ROW, Wish(study_uid=uid, hospital=hospital, reason=reason), as_json=as_json)


def pin(uid: StudyUid, reason: Reason, hospital: Hospital = "", config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Keep a study online until it is released; the worker recalls it when it is packed already."""
    with _opened(config) as (core, keeper):
        _keep(core, keeper, PIN_ROW, Wish(study_uid=uid, hospital=hospital, reason=reason), as_json=as_json)


def release(uid: StudyUid, hospital: Hospital = "", config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Undo every hold and pin of a study."""
    with _opened(config) as (core, keeper):
        found = imaging.ask(core, keeper, RELEASE_ROW, Wish(study_uid=uid, hospital=hospital), getpass.getuser()).rows
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in found], ensure_ascii=False))
    elif found:
        typer.echo(f"study {uid} is released ({', '.join(row.kind for row in found)})")
    else:
        typer.echo(f"study {uid} was neither held nor pinned")


def pins(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List what is held or pinned, and the copies that were recalled."""
    with _opened(config) as (_, keeper):
        kept, near = keeper.listed()
    if as_json:
        typer.echo(json.dumps({"kept": [asdict(row) for row in kept], "recalled": [asdict(row) for row in near]},
                              ensure_ascii=False))
        return
    for row in kept:
        typer.echo(f"{row.kind} {row.study_uid} of {row.hospital}, {_when(row.at)} by {row.set_by}: {row.reason}")
    for one in near:
        state = f"{decimal(one.size)} near" if one.path else "wanted near"
        typer.echo(f"{state} {one.study_uid} of {one.hospital} until {_when(one.until)} ({one.why})")
    if not kept and not near:
        typer.echo("nothing is held, pinned or recalled")


def recall(
    uid: StudyUid,
    days: Annotated[int, typer.Option(min=1, help="how long it stays near; longer while it is retrieved")] = 7,
    hospital: Hospital = "",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy a packed study to the online tier for some days; the archive keeps it as before."""
    with _opened(config) as (core, keeper), transfer("recalling", Console(stderr=True), quiet=as_json) as told:
        size = imaging.ask(
            core, keeper, RECALL_ROW, Wish(study_uid=uid, hospital=hospital, days=days, progress=told), getpass.getuser())
    if as_json:
        typer.echo(json.dumps({"study": uid, "bytes": size}))
    else:
        typer.echo(f"study {uid} is near for {days} days, {decimal(size)}" if size else f"study {uid} is not packed")


@contextmanager
def _opened(config: ConfigFile) -> Iterator[tuple[Core, Keeper]]:
    """Open what is needed. What fails ends the program: 2 for a study that is not here, 1 for what cannot be done (now)."""
    settings, profile = load(config)
    _log.configure("archive")
    core = Core(settings, profile)
    try:
        yield core, imaging.keeper(core, imaging.migrator(core, imaging.sdfo(core)))
    except BrokerError as error:
        typer.echo(f"broker: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, Rejected) else 1) from error
    finally:
        core.close()


def _keep(core: Core, keeper: Keeper, row: KeepRow, wish: Wish, *, as_json: bool) -> None:
    found = imaging.ask(core, keeper, row, wish, getpass.getuser()).rows
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"study {one.study_uid} of {one.hospital} is {_TOLD[one.kind]}")


def _when(at: float) -> str:
    return dt.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")
