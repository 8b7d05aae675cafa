"""How it is audited what operators and the broker itself do to pictures that are here; no profile of IHE has a code for it."""

from broker.model.transaction import AuditEvent


def accessed(code: str, name: str) -> AuditEvent:
    """Return the event of a row: DICOM Instances Accessed (PS3.15 A.5.3.6), as an update, with our own code for what was done."""
    return AuditEvent(
        event_code="110103", event_text="DICOM Instances Accessed", action="U", type_code=code, type_text=name,
        type_system="BROKER")
