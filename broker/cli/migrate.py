"""`broker migrate`: pack what is old enough into S-DICOM."""

import json
import time
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from broker.app import imaging
from broker.app.core import Core
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.cli._progress import studies
from broker.imaging.archiving.report import Report
from broker.model.errors import BrokerError
from broker.model.imaging import Due


def migrate(
    config: ConfigFile = None,
    limit: Annotated[int, typer.Option(min=1, help="most studies in one run")] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what is due, each with the rule that says so")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack every study older than the region's retention rules say into S-DICOM, prove it, and drop the online copy.

    Hours and rates of the rules bind the worker, not this command.
    """
    settings, profile = load(config)
    _log.configure("migrate")
    with closing(Core(settings, profile)) as core:
        migrator = imaging.migrator(core, imaging.sdfo(core))
        if dry_run:
            _list(migrator.due(time.time(), limit), as_json=as_json)
            return
        try:
            with studies("packing", Console(stderr=True), quiet=as_json) as watch:
                report = migrator.run_all(limit, watch)
        except BrokerError as error:        # of the database: what fails of a study is in the report
            typer.echo(f"broker: {error}", err=True)
            raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(report.told(), ensure_ascii=False))
    else:
        _tell(report)
    raise typer.Exit(1 if report.failed else 0)


def _list(found: list[Due], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found]))
        return
    for one in found:
        typer.echo(f"{one.study_uid} of {one.hospital}: {one.images} images, {decimal(one.bytes)}, {one.rule}")
    typer.echo(f"{len(found)} studies are due, {decimal(sum(one.bytes for one in found))}")


def _tell(report: Report) -> None:
    typer.echo(f"{report.packed} studies packed, {report.images} images; {decimal(report.freed)} freed online")
    more = {
        "finished that were begun before": report.finished, "proven, their online copies stay for the grace time": report.waiting,
        "proven, their online copies are held": report.held}
    for what, count in more.items():
        if count:
            typer.echo(f"{count} {what}")
    for reason, count in sorted(report.skipped.items()):
        typer.echo(f"{count} skipped: {reason}")
    for one in report.failed:
        typer.echo(f"broker: study {one.study_uid} of {one.hospital} was not packed: {one.reason}", err=True)
    if report.written:
        typer.echo(f"objects of a NameNode: {report.objects_used} used, {report.objects_spared} spared")
