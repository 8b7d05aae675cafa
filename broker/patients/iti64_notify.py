"""ITI-64 Notify XAD-PID Link Change (ITI TF-2 3.64), for a registry that is not ours: it learns the ids of the affinity domain by

ITI-8, new ones (A04) and those that became one (A40), and by A43 the local ids whose documents are another person's now.
"""

from broker.model.caller import AuditFacts
from broker.model.transaction import Wire
from broker.patients.sending import Letter, Sending, read_v2, row
from broker.wire.hl7v2_notify import write_link_change
from broker.wire.hl7v2_pix import write_adt


def note_feed(letter: Letter, facts: AuditFacts) -> None:
    """Tell the audit which ids of the affinity domain are told, and that one of them ends."""
    facts.patients.append(letter.affinity("id")[0])
    if "retired" in letter.body:
        retired = letter.affinity("retired")[0]
        facts.patients.append(retired)
        facts.action, facts.actions = "U", {retired: "D"}


def write_feed(letter: Letter) -> bytes:
    """Return the ADT^A04 or ADT^A40 of an id of the affinity domain."""
    (patient, namespace), retired = letter.affinity("id"), letter.affinity("retired")[0] if "retired" in letter.body else None
    return write_adt(
        letter.header(version="2.3.1"), letter.body["event"], patient, letter.person, namespace=namespace, retired=retired)


def note_link(letter: Letter, facts: AuditFacts) -> None:
    """Tell the audit the former and the present id of the affinity domain, and the local ones."""
    facts.patients += dict.fromkeys(letter.affinity(key)[0] for key in ("before", "id"))
    facts.patients += (letter.local(key)[0] for key in ("local", "retired") if key in letter.body)


def write_link(letter: Letter) -> bytes:
    """Return the ADT^A43; its sender is named by our OID (ITI TF-2 3.64.4.1.2.1)."""
    return write_link_change(
        letter.header(application=letter.profile.region.device_oid), letter.affinity("id"), letter.local("local"),
        letter.affinity("before"), letter.local("retired") if "retired" in letter.body else None)


FEED = Sending(row("ITI-8", "Patient Identity Feed", Wire.HL7V2, "C"), note_feed, write_feed, read_v2)
LINKS = Sending(row("ITI-64", "Notify XAD-PID Link Change", Wire.HL7V2, "U"), note_link, write_link, read_v2)
