"""What the commands of `broker patients` share."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from broker.app.core import Core
from broker.cli import _log
from broker.cli._config import load
from broker.config.profile import Profile
from broker.model.errors import BrokerError
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.patients.steward import Steward

FORMATS = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"]
At = Annotated[dt.datetime | None, typer.Option(
    "--at", formats=FORMATS, help="a moment of the past, in this machine's time: 2026-05-03T12:00")]


@contextmanager
def opened(config: Path | None) -> Iterator[tuple[Steward, Profile]]:
    """Open the patient index. What fails ends the program with exit status 1."""
    settings, profile = load(config)
    _log.configure("patients")
    core = Core(settings, profile)
    try:
        yield Steward(core.database, profile.region.affinity_domain), profile
    except BrokerError as error:
        typer.echo(f"broker: {error}", err=True)
        raise typer.Exit(1) from error
    finally:
        core.close()


def moment(at: dt.datetime | None) -> float | None:
    """Return a moment in seconds since the epoch; one without a zone is of this machine's."""
    return None if at is None else at.astimezone().timestamp()


def named(patient: PatientId, profile: Profile) -> str:
    """Return an id as people write it: NAMESPACE:id where the profile has a name for its domain."""
    domain = next((one for one in profile.domains if one.oid == patient.domain), None)
    return f"{domain.namespace}:{patient.value}" if domain else str(patient)


def names(person: Demographics) -> str:
    """Return all names of a person in one line."""
    return " = ".join(" ".join(filter(None, (one.family, one.given, one.middle))) for one in person.names)


def unknown(patient: PatientId) -> typer.Exit:
    """Say that no feed ever named an id; return what ends the program."""
    typer.echo(f"broker: no feed has named {patient}", err=True)
    return typer.Exit(1)
