"""`broker publish`: make a manifest for a study that stays in its hospital's PACS."""

import json
from typing import Annotated

import typer

from broker.app.whole import App
from broker.cli import _log
from broker.cli._config import AsJson, ConfigFile, load
from broker.model.errors import BrokerError


def publish(
    hospital: Annotated[str, typer.Option(help="the hospital's key in the profile")],
    study: Annotated[str, typer.Option(help="Study Instance UID")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask a hospital's PACS about a study by C-FIND and publish a manifest that points back to it.

    Exit status 0 when it is published or waits for its patient, 1 when it is not, or not with all images, 2 for wrong use.
    """
    settings, profile = load(config)
    _log.configure("publish")
    if profile.hospital(hospital) is None:
        known = ", ".join(h.key for h in profile.hospitals)
        typer.echo(f"broker: there is no hospital {hospital!r} in the profile (known: {known})", err=True)
        raise typer.Exit(2)
    app = App(settings, profile)
    try:
        result = app.publisher.publish_study(hospital, study)
        aside = sum(one.came.images for one in app.conflicts.listed(hospital) if one.study_uid == study)
    except BrokerError as error:
        typer.echo(f"broker: {error}", err=True)
        raise typer.Exit(1) from error
    finally:
        app.close()
    if as_json:
        typer.echo(json.dumps({
            "state": result.state, "instances": result.instances, "left_out": result.left_out, "nameless": result.nameless,
            "kept_aside": aside, "manifest": result.manifest_uid, "reason": result.reason}, ensure_ascii=False))
    else:
        typer.echo(f"{result.state}: {result.instances} images, manifest {result.manifest_uid or '-'}")
        if result.reason:
            typer.echo(f"broker: {result.reason}", err=True)
        if result.nameless:
            typer.echo(f"broker: {result.nameless} images are left out: the PACS names them without a legal UID", err=True)
        if aside:
            typer.echo(f"broker: {aside} images of other patients or versions are kept aside; see `broker conflicts`", err=True)
    raise typer.Exit(0 if result.state in {"published", "waiting_patient"} else 1)
