"""What the commands of `broker patients` share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from broker.app.core import Core
from broker.cli import _log
from broker.cli._config import load
from broker.config.profile import Profile
from broker.model.errors import BrokerError
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.patients.steward import Steward


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
