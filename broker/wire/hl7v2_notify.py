"""HL7 v2 messages that tell others of changed ids: PIX Update Notification (ITI TF-2 3.10), Notify XAD-PID Link Change (3.64)."""

from collections.abc import Sequence

from broker.model.ids import PatientId
from broker.wire.hl7v2 import Form, Header, join
from broker.wire.hl7v2_pix import write_cx

NamedId = tuple[PatientId, str]     # with the namespace of its domain
_NO_NAME = " "      # PID-5 is required and is not to tell a name: one space (ITI TF-2 3.10.4.1.2.2)


def write_update(header: Header, ids: Sequence[NamedId]) -> bytes:
    """Return an ADT^A31 with the ids of one person, those of one domain adjacent (ITI TF-2 3.10.4.1)."""
    form = Form.of(header.charset)
    cx = "~".join(write_cx(form, patient, namespace) for patient, namespace in ids)
    return join([
        header.segment("ADT^A31^ADT_A05", form) + "|||ITI-10^IHE",
        f"EVN||{header.message_id.time}",
        f"PID|||{cx}||{_NO_NAME}",
        "PV1||N",
    ], form)


def write_link_change(
    header: Header, now: NamedId, local: NamedId, before: NamedId, retired: NamedId | None = None,
) -> bytes:
    """Return an ADT^A43: the local id is now linked to another id of the affinity domain than `before` (ITI TF-2 3.64.4.1).

    With `retired`, a local id that was merged into it; `before` is then its former one, and may be the same.
    """
    form = Form.of(header.charset)
    pid, mrg = ("~".join(write_cx(form, *one) for one in pair if one) for pair in ((now, local), (before, retired)))
    return join([
        header.segment("ADT^A43^ADT_A43", form) + "|||ITI-64^IHE",
        f"EVN||{header.message_id.time}",
        f"PID|||{pid}||{_NO_NAME}",
        f"MRG|{mrg}",
    ], form)
