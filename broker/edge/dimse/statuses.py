"""DIMSE statuses: which one each of our errors is, and what a peer's status means in plain words."""

from dataclasses import dataclass

from broker.model.errors import BrokerError, DimseCode, Rejected
from broker.wire import tags

SUCCESS = 0x0000
CANCELLED = 0xFE00
SOME_FAILED = 0xB000
PENDING = frozenset((0xFF00, 0xFF01))

_WARNINGS = frozenset((SUCCESS, 0x0001, 0x0107, 0x0116))
_WARNING_CLASS = 0xB
_COMMENT = 64       # characters of an LO

_DEFAULT = {True: DimseCode.CANNOT_UNDERSTAND, False: DimseCode.OUT_OF_RESOURCES}
_MEANINGS = {   # PS3.7 annex C; PS3.4 C.4.1.1.4, C.4.2.1.5, C.4.3.1.4
    SUCCESS: "success", SOME_FAILED: "done but for some objects",
    0x0105: "no such attribute", 0x0110: "processing failure", 0x0111: "duplicate instance", 0x0112: "no such instance",
    0x0117: "invalid instance", 0x0118: "no such SOP class", 0x0119: "class and instance conflict",
    0x0122: "SOP class not supported", 0x0124: "not authorised", 0x0210: "duplicate invocation",
    0x0211: "unrecognised operation", 0x0212: "mistyped argument", 0x0213: "resource limitation",
    0xA700: "out of resources", 0xA701: "out of resources, matches cannot be counted",
    0xA702: "out of resources, it could not send the objects", 0xA801: "it does not know the destination AE title",
    0xA900: "it says the identifier does not match the SOP class", CANCELLED: "cancelled",
}


def status_of(error: BrokerError) -> int:
    """Return the C-STORE status of an error (PS3.4 B.2.3): a `Rejected` names it, a store that is down or full is 0xA700."""
    codes = [problem.code for problem in error.problems] if isinstance(error, Rejected) else []
    known = next((code for code in codes if code in set(DimseCode)), _DEFAULT[isinstance(error, Rejected)])
    return int(known, 16)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an object is not stored: `text` for the log, `comment` as its Error Comment, `offending` a tag or None (PS3.7 C)."""

    status: int
    text: str
    offending: int | None = None

    @property
    def comment(self) -> str:
        """The text as an LO holds it: at most 64 characters of ASCII, without backslash and control characters."""
        plain = "".join(one if " " <= one <= "~" and one != "\\" else "?" for one in self.text)
        return plain if len(plain) <= _COMMENT else plain[:_COMMENT - 3] + "..."


def refusal(error: BrokerError) -> Refusal:
    """Return what a sender hears of an error. Its text never holds a patient's data."""
    problem = error.problems[0] if isinstance(error, Rejected) else None
    text = problem.context if problem is not None else str(error)
    offending = tags.TAGS.get(problem.location) if problem is not None else None
    return Refusal(status_of(error), text, offending)


def is_failure(status: int) -> bool:
    """Say whether a final status is a failure: neither success nor a warning (PS3.7 annex C)."""
    return status not in _WARNINGS and status >> 12 != _WARNING_CLASS


def meaning(status: int) -> str:
    """Return a peer's failure status in plain words."""
    words = _MEANINGS.get(status) or ("it is unable to process" if status >> 12 == 0xC else "failed")
    return f"{words}, status 0x{status:04X}"
