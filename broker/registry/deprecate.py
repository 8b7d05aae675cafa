"""Taking a DocumentEntry back inside the broker: what ITI-57 calls an update of its availabilityStatus.

A replacement needs one patient on both sides (ITI TF-3 4.2.2.2). A manifest that was published under a wrong one can only be
deprecated, and what is right submitted anew.
"""

from broker.db import Lock, lock
from broker.model.caller import AuditFacts
from broker.model.errors import Rejected, XdsCode
from broker.model.ids import PatientId
from broker.model.metadata import DEPRECATED, DocumentEntry
from broker.model.ports import Unit
from broker.model.transaction import AuditEvent, Transaction, Wire
from broker.registry import store


def deprecate(unit: Unit, entry_uuid: str, facts: AuditFacts) -> None:
    """Deprecate a DocumentEntry, and with it what is attached to it, as a replacement would; doing it again changes nothing.

    `facts` learns whose entry it is. Raise `Rejected` (UnresolvedReferenceException) when no such entry is registered.
    """
    entry = _entry(unit, entry_uuid)
    lock(unit, Lock.REGISTRY_PATIENT, (entry.patient_id,))
    entry = _entry(unit, entry_uuid)            # whoever held the lock may have given it to another patient
    facts.patients.append(PatientId.parse(entry.patient_id))
    facts.documents.append((entry.repository_unique_id, entry.unique_id))
    store.change(unit, {entry_uuid} | store.attached(unit, [entry_uuid]), status=DEPRECATED)


def _entry(unit: Unit, entry_uuid: str) -> DocumentEntry:
    entry = store.entry(unit, entry_uuid)
    if entry is None:
        raise Rejected(XdsCode.UNRESOLVED_REFERENCE, f"there is no DocumentEntry {entry_uuid} in this registry")
    return entry


ROW = Transaction(
    code="ITI-57",
    name="Update Document Set",
    wire=Wire.SOAP,
    endpoint="",
    messages=(),
    audit=AuditEvent(
        event_code="110107", event_text="Import", action="U", type_code="ITI-57", type_text="Update Document Set",
        requestor_is_local=True),
)
