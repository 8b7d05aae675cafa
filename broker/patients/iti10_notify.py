"""ITI-10 PIX Update Notification (ITI TF-2 3.10): an ADT^A31 with the ids of a person in a consumer's domains."""

from broker.model.caller import AuditFacts
from broker.model.ids import PatientId
from broker.model.transaction import Wire
from broker.patients.sending import Letter, Sending, read_v2, row
from broker.wire.hl7v2_notify import write_update


def note(letter: Letter, facts: AuditFacts) -> None:
    """Tell the audit which ids are told."""
    facts.patients += [PatientId(domain, value) for domain, value in letter.body["ids"]]


def write(letter: Letter) -> bytes:
    """Return the message."""
    return write_update(letter.header(), [letter.named(*one) for one in letter.body["ids"]])


SENDING = Sending(row("ITI-10", "PIX Update Notification", Wire.HL7V2, "R"), note, write, read_v2)
