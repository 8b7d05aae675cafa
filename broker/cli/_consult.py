"""What the consulting commands share: reading a patient id, opening a consultation, telling what failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer

from broker.client.consult import Consultation
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.model.errors import BrokerError, Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.metadata import DocumentEntry
from broker.wire.terms import MODALITIES

Patient = Annotated[str, typer.Argument(metavar="PATIENT", help="id^^^&oid&ISO, or NAMESPACE:id with a namespace of the profile")]
Url = Annotated[str, typer.Option(help="the broker's base URL; without it the one of the configuration")]


def patient_id(text: str, profile: Profile) -> PatientId:
    """Give the patient id a person typed, or end the program with one clear line and exit status 2."""
    namespace, colon, value = text.partition(":")
    try:
        if "^" in text or not colon:
            return PatientId.parse(text)
    except Rejected as error:
        raise _wrong(f"not a patient id: give id^^^&oid&ISO or NAMESPACE:id, not {text!r}") from error
    domain = profile.domain_by_namespace(namespace)
    if domain is None or not value:
        known = ", ".join(d.namespace for d in profile.domains)
        raise _wrong(f"there is no namespace {namespace!r} in the profile (known: {known})")
    return PatientId(domain.oid, value)


@contextmanager
def consultation(settings: Settings, profile: Profile, url: str) -> Iterator[Consultation]:
    """Open a consultation. What fails ends the program: exit status 2 when the broker is away, 1 when it refuses."""
    with Consultation(url or settings.public_url, profile) as client:
        try:
            yield client
        except Unavailable as error:
            raise _wrong(str(error)) from error
        except BrokerError as error:
            typer.echo(f"broker: {error}", err=True)
            raise typer.Exit(1) from error


def hospital_of(entry: DocumentEntry, profile: Profile) -> str:
    """Give the name of the hospital a document comes from: by the authority of its source patient id."""
    try:
        domain = PatientId.parse(entry.source_patient_id).domain
    except Rejected:
        return ""
    return next((h.title or h.key for h in profile.hospitals if h.domain == domain), domain)


def modalities(entry: DocumentEntry) -> str:
    """Give the acquisition modalities of a document's study (RAD TF-2 4.68.4.1.2.3.2: they are in eventCodeList)."""
    return " ".join(sorted({code.code for code in entry.codes.get("eventCodeList", ()) if code.code in MODALITIES}))


def day(time: str, zone: str) -> str:
    """Give a DTM in UTC as a day in `zone` (±hhmm) for people; a time without hours has no zone and is given as it is."""
    if len(time) < 10 or not time.isdecimal():
        return "-".join(filter(None, (time[:4], time[4:6], time[6:8])))
    moment = datetime.strptime(f"{time[:10]}00+0000", "%Y%m%d%H%M%z")
    return moment.astimezone(datetime.strptime(zone, "%z").tzinfo).strftime("%Y-%m-%d")


def _wrong(text: str) -> typer.Exit:
    typer.echo(f"broker: {text}", err=True)
    return typer.Exit(2)
