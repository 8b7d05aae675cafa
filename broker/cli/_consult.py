"""What the consulting commands share: reading a patient id, opening a consultation, telling what failed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Annotated

import typer

from broker.client.consult import Consultation, ManifestFile
from broker.config.profile import Hospital, Profile
from broker.config.settings import Settings
from broker.model.errors import BrokerError, Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.metadata import DocumentEntry
from broker.wire.terms import MODALITIES

Patient = Annotated[str, typer.Argument(metavar="PATIENT", help="id^^^&oid&ISO, or NAMESPACE:id with a namespace of the profile")]
Url = Annotated[str, typer.Option(help="the broker's base URL; without it the one of the configuration")]


def patient_id(text: str, profile: Profile) -> PatientId:
    """Return the patient id a person typed, or end the program with one clear line and exit status 2."""
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


def hospitals(client: Consultation, files: Sequence[ManifestFile], profile: Profile) -> dict[str, str]:
    """Return the name of the hospital that published each manifest, by the id of its entry.

    The authority of the source patient id tells it where one hospital alone has that authority, a Retrieve Location UID
    where an origin keeps the pictures. For others the registry is asked which source the manifest was submitted by.
    """
    found = {file.entry.id: _candidates(file, profile) for file in files}
    unclear = [file.entry for file in files if len(found[file.entry.id]) != 1]
    sources: dict[str, str] = {}
    with suppress(BrokerError):     # a registry that does not say
        sources = client.publishers(unclear)
    for entry in unclear:
        told = [one for one in found[entry.id] or profile.hospitals if one.source_id == sources.get(entry.id)]
        found[entry.id] = told or found[entry.id]
    named = {entry_id: " / ".join(one.title or one.key for one in those) for entry_id, those in found.items()}
    return {file.entry.id: named[file.entry.id] or _authority(file.entry) for file in files}


def _candidates(file: ManifestFile, profile: Profile) -> list[Hospital]:
    """Return the hospitals a manifest may be of, as far as it tells."""
    keepers = {ref.source_uid for ref in file.images}
    origins = [one for one in profile.hospitals if one.kind == "origin" and one.source_uid in keepers]
    return origins or [one for one in profile.hospitals if one.domain == _authority(file.entry)]


def _authority(entry: DocumentEntry) -> str:
    try:
        return PatientId.parse(entry.source_patient_id).domain
    except Rejected:
        return ""


def modalities(entry: DocumentEntry) -> str:
    """Return the acquisition modalities of a document's study (RAD TF-2 4.68.4.1.2.3.2: they are in eventCodeList)."""
    return " ".join(sorted({code.code for code in entry.codes.get("eventCodeList", ()) if code.code in MODALITIES}))


def day(time: str, zone: str) -> str:
    """Return a DTM in UTC as a day in `zone` (±hhmm) for people; a time without hours has no zone and is given as it is."""
    if len(time) < 10 or not time.isdecimal():
        return "-".join(filter(None, (time[:4], time[4:6], time[6:8])))
    moment = datetime.strptime(f"{time[:10]}00+0000", "%Y%m%d%H%M%z")
    return moment.astimezone(datetime.strptime(zone, "%z").tzinfo).strftime("%Y-%m-%d")


def _wrong(text: str) -> typer.Exit:
    typer.echo(f"broker: {text}", err=True)
    return typer.Exit(2)
