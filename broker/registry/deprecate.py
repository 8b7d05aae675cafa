"""Taking a DocumentEntry back inside the broker: what ITI-57 calls an update of its availabilityStatus.

A replacement needs one patient on both sides (ITI TF-3 4.2.2.2). A manifest that was published under a wrong one can only be
deprecated, and what is right submitted anew.
"""

from dataclasses import dataclass

from broker.db import Lock, lock
from broker.model.caller import Call
from broker.model.errors import Rejected, Unavailable, XdsCode
from broker.model.ids import PatientId
from broker.model.metadata import DEPRECATED, DocumentEntry
from broker.model.ports import Unit
from broker.model.transaction import NOTHING_TO_FILTER, AuditEvent, InternalTransaction, Wire
from broker.registry import store


@dataclass(frozen=True, slots=True)
class Deprecation:
    """The entry that is taken back, inside the unit of work of whoever takes it back."""

    unit: Unit
    entry_uuid: str


def _subject(_registry: object, request: Deprecation) -> tuple[PatientId, ...]:
    """Return whose entry it is, and stays until the unit ends: the patient is locked."""
    return (PatientId.parse(_locked(request).patient_id),)


def _handle(_registry: object, request: Deprecation, call: Call) -> None:
    """Deprecate a DocumentEntry, and with it what is attached to it, as a replacement would; doing it again changes nothing.

    Raise `Rejected` (UnresolvedReferenceException) when no such entry is registered.
    """
    entry = _locked(request)
    call.facts.patients.append(PatientId.parse(entry.patient_id))
    call.facts.documents.append((entry.repository_unique_id, entry.unique_id))
    attached = store.attached(request.unit, [request.entry_uuid])
    store.change(request.unit, {request.entry_uuid} | attached, status=DEPRECATED)


def _locked(request: Deprecation) -> DocumentEntry:
    """Return the entry under the lock of its patient.

    Raise `Unavailable` when whoever held the lock has given the entry to another patient: try again in another unit. Taking
    the lock of that one while holding the first may be waiting for somebody who waits for this unit.
    """
    patient = _entry(request).patient_id
    lock(request.unit, Lock.REGISTRY_PATIENT, (patient,))
    entry = _entry(request)
    if entry.patient_id != patient:
        raise Unavailable("the entry, which went to another patient just now,")
    return entry


def _entry(request: Deprecation) -> DocumentEntry:
    entry = store.entry(request.unit, request.entry_uuid)
    if entry is None:
        raise Rejected(XdsCode.UNRESOLVED_REFERENCE, f"there is no DocumentEntry {request.entry_uuid} in this registry")
    return entry


ROW: InternalTransaction[object, Deprecation, None] = InternalTransaction(
    code="ITI-57",
    name="Update Document Set",
    wire=Wire.SOAP,
    audit=AuditEvent(
        event_code="110107", event_text="Import", action="U", type_code="ITI-57", type_text="Update Document Set",
        requestor_is_local=True),
    subject=_subject,
    handle=_handle,
    filtered=NOTHING_TO_FILTER,
)
