"""The row of a transaction: everything generic (dispatch, WSDL serving, audit, /services, test matrix) reads it.

    TransactionRow            what the audit and /services need: all there is of a call that this broker begins
    └── InternalTransaction   asked about, handled, filtered: what another actor of this process may call
        └── Transaction       read from a wire and answered on it
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from broker.model.caller import AuditFacts, Call
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

    `name` is what dispatch looks at: the Clark name of the SOAP Body child, `ADT^A04`, `C-STORE`, or method and path below
    the row's endpoint with what varies in angle brackets, `GET /Patient/<id>`.
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


@dataclass(frozen=True, kw_only=True)
class TransactionRow:
    """What every transaction says of itself. A call that this broker begins has no more: its peer handles and answers it.

    `guarded` marks what changes something for a caller that any machine could be: while security is off, only programs of
    this machine may call it, unless a setting opens it.
    """

    code: str
    name: str
    wire: Wire
    endpoint: str = ""
    messages: tuple[Message, ...] = ()
    audit: AuditEvent
    packaging: Packaging = Packaging.SIMPLE
    guarded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """One thing that an answer would tell its caller, as the region's rules are asked about it.

    `patient` is None where the answer does not know whose it is. `unique_id` is its DocumentEntry.uniqueId or SOP Instance
    UID where it is a document or an image, `confidentiality` the codes of a DocumentEntry as `code^^scheme`.
    """

    patient: PatientId | None
    unique_id: str = ""
    confidentiality: tuple[str, ...] = ()


Keep = Callable[[Disclosure], bool]

Actor = TypeVar("Actor")
Raw = TypeVar("Raw")
Request = TypeVar("Request")
Result = TypeVar("Result")
Reply = TypeVar("Reply")


def _nobody(_actor: object, _request: object) -> tuple[PatientId, ...]:
    return ()


def _unfiltered(result: Result, _keep: Keep) -> Result:
    return result


def _nothing_to_note(_result: object, _facts: AuditFacts) -> None:
    """The handler has told the audit everything."""


NOBODY: Final = _nobody                     # the `subject` of a request that cannot name a patient
NOTHING_TO_FILTER: Final = _unfiltered      # the `filtered` of a result that tells nothing of what is kept here


@dataclass(frozen=True, kw_only=True)
class InternalTransaction(TransactionRow, Generic[Actor, Request, Result]):
    """A transaction that this broker carries out.

    A call runs: `authorise(row, caller, subject(actor, request))`, `result = handle(actor, request, call)`,
    `filtered(result, keep)`, `disclosed(result, facts)`.
    `subject` returns every patient the request names, out of the values that `handle` works with; none for a request that
    `handle` refuses because they cannot be read. `filtered` returns the result as if the items for which `keep` is false did
    not exist. Neither has a default: a row with nothing to ask or to hide says so (`NOBODY`, `NOTHING_TO_FILTER`).
    `disclosed` tells the audit whom and what the result is about that is really given.
    """

    subject: Callable[[Actor, Request], tuple[PatientId, ...]]
    handle: Callable[[Actor, Request, Call], Result]
    filtered: Callable[[Result, Keep], Result]
    disclosed: Callable[[Result, AuditFacts], None] = _nothing_to_note


@dataclass(frozen=True, kw_only=True)
class Transaction(InternalTransaction[Actor, Request, Result], Generic[Actor, Raw, Request, Result, Reply]):
    """A transaction of a wire, as a row at the foot of its module.

    A call runs: `request = read(raw, facts)`, then as an `InternalTransaction`, then `reply = write(request, result)`. A
    `BrokerError` anywhere becomes `refuse(raw, error)`.
    `read` parses the message, once, and tells the audit what it is although it may be refused; `write` raises what is wrong
    with the answer as a whole, so that this is judged by what the caller may see.
    `may_be_plain` marks an MTOM row whose requests carry nothing: settings may let them come as plain SOAP.
    `listed` are the elements (Clark names) of which a request may hold so many as the settings say.
    `raw` and the reply are the wire's own types (`wire.soap.SoapRequest`, …).
    """

    read: Callable[[Raw, AuditFacts], Request]
    write: Callable[[Request, Result], Reply]
    refuse: Callable[[Raw, BrokerError], Reply]
    may_be_plain: bool = False
    schema: str = ""
    takes_slot: bool = False
    listed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServedTransaction(Generic[Actor, Raw, Request, Result, Reply]):
    """A transaction together with the actor that serves it."""

    row: Transaction[Actor, Raw, Request, Result, Reply]
    actor: Actor


AnyTransaction = ServedTransaction[Any, Any, Any, Any, Any]     # of whatever wire and actor
