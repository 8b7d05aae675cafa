"""DIMSE statuses: which one each of our errors is, and what a peer's status means in plain words."""

from dataclasses import dataclass

from pynetdicom.status import (
    QR_FIND_SERVICE_CLASS_STATUS,
    QR_GET_SERVICE_CLASS_STATUS,
    QR_MOVE_SERVICE_CLASS_STATUS,
    STATUS_FAILURE,
    STATUS_SUCCESS,
    STATUS_WARNING,
    code_to_category,
)

from broker.model.errors import BrokerError, DimseCode, Rejected
from broker.wire import tags

SUCCESS = 0x0000
CANCELLED = 0xFE00
SOME_FAILED = 0xB000
PENDING = frozenset((0xFF00, 0xFF01))

_COMMENT = 64       # characters of an LO

_DEFAULT = {True: DimseCode.CANNOT_UNDERSTAND, False: DimseCode.OUT_OF_RESOURCES}
# What the SCPs that we call may answer: PS3.7 annex C, PS3.4 C.4.1.1.4, C.4.2.1.5, C.4.3.1.4.
_MEANINGS = QR_FIND_SERVICE_CLASS_STATUS | QR_GET_SERVICE_CLASS_STATUS | QR_MOVE_SERVICE_CLASS_STATUS


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
    return code_to_category(status) not in (STATUS_SUCCESS, STATUS_WARNING)


def meaning(status: int) -> str:
    """Return a peer's failure status in the words of the standard."""
    category, words = _MEANINGS.get(status, (STATUS_FAILURE, ""))
    return f"{words or category}, status 0x{status:04X}"
