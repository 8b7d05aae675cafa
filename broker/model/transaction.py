"""The row of a transaction: everything generic (dispatch, WSDL serving, audit, /services, test matrix) reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from broker.model.caller import Call
from broker.model.errors import BrokerError
from broker.model.ids import PatientId


class Wire(StrEnum):
    """How a transaction travels."""

    SOAP = "soap"
    HL7V2 = "hl7v2"
    DIMSE = "dimse"
    HTTP = "http"


class Packaging(StrEnum):
    """SOAP packaging (ITI TF-2 Appendix V): plain SOAP 1.2, or MTOM/XOP in both directions."""

    SIMPLE = "simple"
    MTOM = "mtom"


class Outcome(StrEnum):
    """EventOutcomeIndicator of DICOM PS3.15 A.5.2."""

    SUCCESS = "0"
    MINOR = "4"
    SERIOUS = "8"
    MAJOR = "12"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of a transaction.

    `name` is what dispatch looks at: the Clark name of the SOAP Body child, `ADT^A04`, or `C-STORE`.
    """

    name: str
    action: str = ""
    reply_action: str = ""


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """How the transaction is audited on our side (DICOM PS3.15 A.5): EventID code and text, action, event type.

    `source_is_local`: this broker is the data's source (we answer a retrieve), so the source participant is the broker.
    `requestor_is_local`: this broker began the call, so the requestor is the broker and the caller is the peer we called.
    """

    event_code: str
    event_text: str
    action: str
    type_code: str = ""
    type_text: str = ""
    type_system: str = "IHE Transactions"
    source_is_local: bool = False
    requestor_is_local: bool = False


def _not_served(*_arguments: Any) -> NoReturn:
    raise TypeError("this row is one we initiate: its peer reads, handles and answers it")


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """One transaction as a row at the foot of its module.

    A call runs: `request = read(raw)`, `authorise(row, caller, subject(request))`, `result = handle(actor, request, call)`,
    `visible(caller, result)`, `reply = write(request, result)`. A `BrokerError` anywhere becomes `refuse(raw, error)`.
    A row we initiate has none of the four.
    `may_be_plain` marks an MTOM row whose requests carry nothing: settings may let them come as plain SOAP.
    `listed` are the elements (Clark names) of which a request may hold so many as the settings say.
    `read`, `write` and `refuse` are pure; `raw` and the reply are the wire's own types (`wire.soap.SoapRequest`, …).
    """

    code: str
    name: str
    wire: Wire
    endpoint: str
    messages: tuple[Message, ...]
    audit: AuditEvent
    read: Callable[[Any], Any] = _not_served
    handle: Callable[[Any, Any, Call], Any] = _not_served
    write: Callable[[Any, Any], Any] = _not_served
    refuse: Callable[[Any, BrokerError], Any] = _not_served
    packaging: Packaging = Packaging.SIMPLE
    may_be_plain: bool = False
    schema: str = ""
    takes_slot: bool = False
    listed: tuple[str, ...] = ()
    subject: Callable[[Any], PatientId | None] = lambda _request: None


@dataclass(frozen=True)
class ServedTransaction:
    """A transaction together with the actor that serves it."""

    row: Transaction
    actor: Any
