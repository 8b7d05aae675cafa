"""What a message to a consumer is made of; each transaction has one row of it (`iti10_notify.py`, …)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from broker.config.profile import Consumer, Profile
from broker.model.caller import AuditFacts
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Demographics
from broker.model.transaction import AuditEvent, TransactionRow, Wire
from broker.wire.hl7v2 import Header, parse
from broker.wire.hl7v2_pix import read_ack

NamedId = tuple[PatientId, str]
_REFUSALS = frozenset({"AE", "CE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One message: to whom, what it tells (`notices`), its id, and who the person is where the message says so."""

    profile: Profile
    consumer: Consumer
    body: Mapping[str, Any]
    message_id: MessageId
    person: Demographics

    def affinity(self, key: str) -> NamedId:
        """Return the id of the affinity domain that the body has under this key."""
        return self.named(self.profile.region.affinity_domain, self.body[key])

    def local(self, key: str) -> NamedId:
        """Return the local id that the body has under this key."""
        return self.named(*self.body[key])

    def named(self, domain: str, value: str) -> NamedId:
        """Return an id with the namespace of its domain, none where the profile has no such domain any more."""
        found = self.profile.domain(domain)
        return PatientId(domain, value), found.namespace if found else ""

    def header(self, application: str = "", version: str = "2.5") -> Header:
        """Return the header of an HL7 v2 message from us, by default with the region's name for us, to the consumer."""
        region, to = self.profile.region, self.consumer
        return Header(
            sender=(application or region.application, region.facility), receiver=(to.application, to.facility),
            message_id=self.message_id, charset=to.charset, version=version)


@dataclass(frozen=True, slots=True)
class Sending:
    """A transaction that tells a consumer something. `note` tells the audit whom it is about.

    `read` returns when the answer acknowledges the message with this control id. It raises `Rejected` when the same message must
    not be sent again, and `Unavailable` when it may.
    """

    row: TransactionRow
    note: Callable[[Letter, AuditFacts], None]
    write: Callable[[Letter], bytes]
    read: Callable[[bytes, str], None]


def row(code: str, name: str, wire: Wire, action: str) -> TransactionRow:
    """Return the row of a notification that we begin."""
    event = AuditEvent(
        event_code="110110", event_text="Patient Record", action=action, type_code=code, type_text=name, source_is_local=True,
        requestor_is_local=True)
    return TransactionRow(code=code, name=name, wire=wire, audit=event)


def read_v2(answer: bytes, control_id: str) -> None:
    """Read an acknowledgement of HL7 v2: all but AA and AE say that it was not processed, may be sent again (HL7 v2.5 2.9.2.2).

    So does an answer that is none, or that acknowledges another message: nobody knows what became of ours.
    """
    try:
        message = parse(answer)
        msa = message.need("MSA")
    except Rejected as error:
        raise Unavailable(f"the consumer, whose answer is no acknowledgement ({error})") from error
    code, about = msa.get(1), msa.get(2)
    if about != control_id and (about or code not in _REFUSALS):
        raise Unavailable("the consumer, which answered another message than ours")
    try:
        read_ack(message)
    except Rejected as error:
        if code in _REFUSALS:
            raise
        raise Unavailable(f"the consumer, which does not process it now ({error})") from error
