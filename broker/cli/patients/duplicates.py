"""`broker patients duplicates`: persons whom one hospital has twice."""

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from broker.cli._config import AsJson, ConfigFile
from broker.cli.patients._opened import named, names, opened
from broker.config.profile import Domain, Profile
from broker.patients.steward import Duplicate

Hospital = Annotated[str, typer.Option("--hospital", metavar="KEY", help="only the domain of this hospital's patient ids")]
OneDomain = Annotated[str, typer.Option("--domain", metavar="OID|NAMESPACE", help="only this domain")]


def duplicates(hospital: Hospital = "", domain: OneDomain = "", config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the persons with two or more active ids of one domain: to be merged there, or to be told apart.

    Domain by domain, in each the person whose first id is known longest comes first. A domain with `link_duplicates = false`
    in the profile has only those that were decided or fed together.
    """
    with opened(config) as (steward, profile):
        found = 0
        for one in _domains(profile, hospital, domain):
            for duplicate in steward.duplicates(one.oid):
                found += 1
                if as_json:
                    typer.echo(json.dumps(_told(duplicate, one), ensure_ascii=False))
                else:
                    typer.echo("\n".join(_lines(duplicate, profile)))
        if not as_json:
            typer.echo(f"{found} persons with several ids of one domain")


def _domains(profile: Profile, hospital: str, domain: str) -> Sequence[Domain]:
    """Return the domains that are meant, or end the program with exit status 2."""
    meant = [one for one in profile.domains if one.oid != profile.region.affinity_domain]
    if hospital:
        found = profile.hospital(hospital)
        if found is None:
            raise _wrong(f"there is no hospital {hospital!r} (known: {', '.join(one.key for one in profile.hospitals)})")
        meant = [one for one in meant if one.oid == found.domain]
    if domain:
        if not {domain} & {name for one in meant for name in (one.oid, one.namespace)}:
            raise _wrong(f"there is no domain {domain!r} here (known: {', '.join(one.namespace for one in meant)})")
        meant = [one for one in meant if domain in (one.oid, one.namespace)]
    return meant


def _told(duplicate: Duplicate, domain: Domain) -> dict[str, Any]:
    return {
        "domain": domain.oid, "namespace": domain.namespace, "affinity": duplicate.affinity,
        "ids": [{"id": one.patient.value, "since": one.since, "demographics": asdict(one.person)} for one in duplicate.records]}


def _lines(duplicate: Duplicate, profile: Profile) -> Sequence[str]:
    return [duplicate.affinity, *(
        f"  {named(one.patient, profile)}  {names(one.person)}, born {one.person.birth_date or '?'}, "
        f"known since {dt.datetime.fromtimestamp(one.since).astimezone():%Y-%m-%d}" for one in duplicate.records)]


def _wrong(text: str) -> typer.Exit:
    typer.echo(f"broker: {text}", err=True)
    return typer.Exit(2)
