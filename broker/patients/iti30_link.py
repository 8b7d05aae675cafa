"""ITI-30 Patient Identity Management, option Link/Unlink (ITI TF-2 3.30.4): A24 and A37, each about the patients of two PIDs.

What a source says so is a decision: feeds do not change it, only a later A24, A37 or a steward does.
"""

from dataclasses import dataclass, replace

from broker.model.caller import AuditFacts, Call
from broker.model.errors import Hl7Code, Rejected
from broker.model.transaction import NOTHING_TO_FILTER, AuditEvent, Transaction, Wire
from broker.model.transaction import Message as Row
from broker.patients.actor import PixManager
from broker.patients.events import Decided
from broker.patients.identifiers import GivenId, Sender
from broker.patients.iti8_feed import read_given_id, receipt_of, refuse
from broker.patients.tie import Tie
from broker.wire.hl7v2 import Message, Segment
from broker.wire.hl7v2_pix import few

_VERDICTS = {"A24": Decided.SAME, "A37": Decided.APART}
_TWO = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is said of two ids, and the message that says it."""

    tie: Tie
    message: Message


def read(message: Message, facts: AuditFacts) -> Request:
    """Read an A24 or A37. Raise `Rejected` (100, 102) when it does not have two PIDs, or too many ids."""
    facts.message_id = message.control_id
    pids = message.all("PID")
    if len(pids) != _TWO:
        raise Rejected(Hl7Code.SEGMENT_SEQUENCE, "two patients are linked or unlinked: there must be two PID segments", "PID")
    return Request(message=message, tie=Tie(
        verdict=_VERDICTS[message.msh.get(9, 2)], sender=Sender(application=message.msh.get(3), facility=message.msh.get(4)),
        ids=tuple(_ids(pid, n) for n, pid in enumerate(pids, 1)), places=("PID^1^3", "PID^2^3")))


def _ids(pid: Segment, number: int) -> tuple[GivenId, ...]:
    """Return the ids of the PID with this number, their places told with it: a segment by itself does not know it."""
    return tuple(_of(read_given_id(value), f"PID^{number}") for value in few(pid, 3))


def _of(given_id: GivenId, segment: str) -> GivenId:
    first = len("PID^1")
    return replace(
        given_id, at=segment + given_id.at[first:], at_authority=segment + given_id.at_authority[first:],
        at_whole=segment + given_id.at_whole[first:])


def handle(manager: PixManager, request: Request, call: Call) -> bytes:
    """Carry it out; return the acknowledgement."""
    message = request.message
    manager.check_receiver(message.msh.get(5), message.msh.get(6))
    return manager.tie(request.tie, receipt_of(message), call)


def write(_request: Request, reply: bytes) -> bytes:
    """Return the acknowledgement as it was stored with what it acknowledges."""
    return reply


ROW = Transaction(
    code="ITI-30",
    name="Patient Identity Management",
    wire=Wire.HL7V2,
    endpoint="mllp",
    messages=tuple(Row(name=f"ADT^{event}") for event in _VERDICTS),
    audit=AuditEvent(
        event_code="110110", event_text="Patient Record", action="U", type_code="ITI-30",
        type_text="Patient Identity Management"),
    read=read,
    subject=lambda manager, request: manager.tied(request.tie),
    handle=handle,
    filtered=NOTHING_TO_FILTER,
    write=write,
    refuse=refuse,
)
