"""Patients of a file in, and the index as a file out: each record through the gate, as if its hospital had sent it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from broker.model.caller import Call
from broker.model.errors import BrokerError
from broker.model.ids import PatientId, is_oid
from broker.model.transaction import NOBODY, NOTHING_TO_FILTER, AuditEvent, Disclosure, InternalTransaction, Keep, Wire
from broker.patients.actor import PixManager
from broker.patients.feed import Feed, Kind, Places
from broker.patients.fhir import check_retired, given_id
from broker.patients.identifiers import GivenId, Sender
from broker.patients.listed import Listed
from broker.patients.steward import Steward
from broker.wire import fhir
from broker.wire.fhir_patient import Patient, read_patient, write_national, write_patient
from broker.wire.patient_file import Cells, Named, read_row, write_row

_ROW: Final = Places(ids="id", retired="id", retired_authority="id")
_PATIENT: Final = Places(ids="Patient.identifier", retired="Patient.identifier", retired_authority="Patient.identifier")


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a file: what it feeds, or why it cannot."""

    feed: Feed | BrokerError


def sender(text: str) -> Sender:
    """Return the source that is meant: `APPLICATION|FACILITY` (MSH-3, MSH-4), a device OID (HL7 V3), or an address (FHIR)."""
    application, bar, facility = text.partition("|")
    if bar:
        return Sender(application=application.strip(), facility=facility.strip())
    return Sender(device_oids=(text,)) if is_oid(text) else Sender(address=text)


def of_row(cells: Cells, source: Sender, message_id: str) -> Feed:
    """Return what a row of a table feeds. Raise `Rejected` as `read_row`."""
    row = read_row(cells)
    return Feed(
        kind=Kind.UPDATE, sender=source, message_id=message_id, given_ids=(_given((row.domain, row.value), "id", "domain"),),
        places=_ROW, changes=row.changes, national=row.national,
        hints=None if row.other_ids is None else tuple(_given(one, "other_ids", "other_ids") for one in row.other_ids))


def _given(named: Named, at: str, at_authority: str) -> GivenId:
    """Return an id with its authority: an OID, a URI, or else a namespace."""
    authority, value = named
    kind = "oid" if is_oid(authority) else "other" if ":" in authority else "namespace"
    place = {"at": at, "at_authority": at_authority, "at_whole": at}
    return GivenId(value=value, **{kind: authority}, **place)


def of_resource(manager: PixManager, line: bytes, source: Sender, message_id: str) -> Feed:
    """Return what a Patient of FHIR feeds: all it says, or with `replaced-by` a merge. Raise `Rejected` as ITI-104 does.

    The first identifier of a domain that the source feeds is the one it is about; the broker's own ids are passed over.
    """
    patient = read_patient(fhir.read(line, fhir.JSON, ["Patient"]))
    check_retired(patient)
    ids = tuple(_ids(manager, patient))
    is_merge = bool(patient.replaced_by)
    return Feed(
        kind=Kind.MERGE if is_merge else Kind.UPDATE, sender=source, message_id=message_id, places=_PATIENT,
        given_ids=(given_id(patient.replaced_by[0]),) if is_merge else ids, retired=ids if is_merge else (),
        changes=patient.person, hints=(), national=next((one.value for one in patient.identifiers if one.is_national), ""))


def _ids(manager: PixManager, patient: Patient) -> Iterator[GivenId]:
    for one in (given_id(identifier) for identifier in patient.identifiers if not identifier.is_national):
        domain = manager.domain_of(one)
        if one.oid if domain is None else domain.oid != manager.profile.region.affinity_domain:
            yield one


def _subject(manager: PixManager, entry: Entry) -> tuple[PatientId, ...]:
    return () if isinstance(entry.feed, BrokerError) else manager.subjects(entry.feed)


def _load(manager: PixManager, entry: Entry, call: Call) -> None:
    if isinstance(entry.feed, BrokerError):
        raise entry.feed
    manager.feed(manager.as_addition(entry.feed), call)


LOAD_ROW: Final = InternalTransaction[PixManager, Entry, None](
    code="PATIENT-LOAD",
    name="Patient Loaded From a File",
    wire=Wire.HTTP,
    audit=AuditEvent(
        event_code="110110", event_text="Patient Record", action="U", type_code="PATIENT-LOAD", type_system="BROKER",
        type_text="Patient Loaded From a File"),
    subject=_subject,
    handle=_load,
    filtered=NOTHING_TO_FILTER,
)


@dataclass(frozen=True, slots=True)
class Export:
    """Every active record, the one known longest first; they are read as they are taken."""

    affinity_domain: str
    records: Iterator[Listed]


def _visible(export: Export, keep: Keep) -> Export:
    """Return the records that may be seen; a person whose id of the affinity domain may not be seen is not told by it."""
    def seen() -> Iterator[Listed]:
        for one in export.records:
            if keep(Disclosure(patient=one.patient)):
                shown = keep(Disclosure(patient=PatientId(export.affinity_domain, one.affinity)))
                yield one if shown else replace(one, affinity="")
    return replace(export, records=seen())


EXPORT_ROW: Final = InternalTransaction[Steward, None, Export](
    code="PATIENT-EXPORT",
    name="Patients Exported",
    wire=Wire.HTTP,
    audit=AuditEvent(
        event_code="110106", event_text="Export", action="R", type_code="PATIENT-EXPORT", type_system="BROKER",
        type_text="Patients Exported", source_is_local=True),
    subject=NOBODY,
    handle=lambda steward, _request, _call: Export(steward.affinity_domain, steward.every()),
    filtered=_visible,
)


def as_row(one: Listed) -> list[str]:
    """Return the cells of a record in a table."""
    return write_row(one.patient, one.affinity, one.person)


def as_resource(one: Listed) -> dict[str, Any]:
    """Return a record as a Patient, whose logical id is the person's in the affinity domain."""
    others = [PatientId(domain, value) for domain, value in one.person.other_ids if domain]
    written = write_patient(one.affinity, [one.patient, *others], one.person)
    written["identifier"] += [write_national(value) for domain, value in one.person.other_ids if not domain]
    return written
