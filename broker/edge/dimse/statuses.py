"""DIMSE statuses: which one each of our errors is, and what a peer's status means in plain words."""

from broker.model.errors import BrokerError, DimseCode, Rejected

SUCCESS = 0x0000
CANCELLED = 0xFE00
SOME_FAILED = 0xB000
PENDING = frozenset((0xFF00, 0xFF01))

_DEFAULT = {True: DimseCode.CANNOT_UNDERSTAND, False: DimseCode.OUT_OF_RESOURCES}
_MEANINGS = {   # PS3.7 annex C; PS3.4 C.4.1.1.4, C.4.2.1.5, C.4.3.1.4
    0x0105: "no such attribute", 0x0110: "processing failure", 0x0111: "duplicate instance", 0x0112: "no such instance",
    0x0117: "invalid instance", 0x0118: "no such SOP class", 0x0119: "class and instance conflict",
    0x0122: "SOP class not supported", 0x0124: "not authorised", 0x0210: "duplicate invocation",
    0x0211: "unrecognised operation", 0x0212: "mistyped argument", 0x0213: "resource limitation",
    0xA700: "out of resources", 0xA701: "out of resources, matches cannot be counted",
    0xA702: "out of resources, it could not send the objects", 0xA801: "it does not know the destination AE title",
    0xA900: "it says the identifier does not match the SOP class", CANCELLED: "cancelled",
}


def status_of(error: BrokerError) -> int:
    """Give the C-STORE status of an error (PS3.4 B.2.3): a `Rejected` names it, a store that is down or full is 0xA700."""
    codes = [problem.code for problem in error.problems] if isinstance(error, Rejected) else []
    known = next((code for code in codes if code in set(DimseCode)), _DEFAULT[isinstance(error, Rejected)])
    return int(known, 16)


def meaning(status: int) -> str:
    """Give a peer's failure status in plain words."""
    words = _MEANINGS.get(status) or ("it is unable to process" if status >> 12 == 0xC else "failed")
    return f"{words}, status 0x{status:04X}"
