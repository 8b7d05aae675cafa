"""`broker archive status`: how the archive is, what it holds, and what it will need in a year."""

import json
import time
from contextlib import closing

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from broker.app import imaging
from broker.app.core import Core
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.imaging.archiving.forecast import Need, Status


def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show how the archive is, what it holds of each hospital, and what it will need in a year at its present growth.

    Exit status 1 when its store cannot be used, or something in it is damaged.
    """
    settings, profile = load(config)
    _log.configure("archive")
    with closing(Core(settings, profile)) as core:
        found = imaging.archive_status(core, imaging.sdfo(core))
    if as_json:
        typer.echo(json.dumps(found.told(), ensure_ascii=False))
    else:
        _show(found)
    raise typer.Exit(1 if found.trouble or found.condition.damaged_containers else 0)


def _show(found: Status) -> None:
    condition, console = found.condition, Console()
    space = f"{decimal(found.space.free)} of {decimal(found.space.total)} free" if found.space else "free space not known"
    typer.echo(f"store: {found.trouble or 'ok'}, {space}")
    damaged = f"{condition.damaged_images} images in {condition.damaged_containers} containers"
    typer.echo(f"damaged: {damaged}; {condition.mended} mended")
    typer.echo(f"longest not verified: {_when(condition.oldest_verified) if found.total.containers else '-'}")
    typer.echo(f"NameNode objects: {found.objects_used} used, {found.objects_spared} spared")
    _table(console, "now", found.held, found.total)
    _table(console, f"in a year, as in the last {found.days:.0f} days", found.in_a_year, found.total_in_a_year)


def _table(console: Console, title: str, needs: dict[str, Need], total: Need) -> None:
    table = Table("hospital", "studies", "images", "bytes", "disk", "NameNode heap", title=title, title_justify="left", box=None)
    for name, need in (*needs.items(), ("all", total)):
        table.add_row(
            name, str(need.containers), str(need.images), decimal(need.bytes), decimal(need.disk), decimal(need.heap))
    console.print(table)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else "never read yet"
