"""Identifiers of the field: OIDs, DICOM UIDs, UUID URNs and patient identifiers (HL7 CX)."""

import functools
import os
import re
import uuid
from dataclasses import dataclass

from broker.model.errors import Rejected, XdsCode

_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}    # RFC 9562 4.1
_UUID_URN = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ESCAPES = {"\\": "\\E\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "|": "\\F\\"}
_DELIMITER = re.compile(r"[\\^&~|]")
_UNESCAPES = {v[1]: k for k, v in _ESCAPES.items()}


def is_oid(text: str) -> bool:
    """Say whether `text` is an ISO OID of at most 64 characters, no component with a leading zero (ITI TF-3 4.2.3.1)."""
    return len(text) <= 64 and _OID.fullmatch(text) is not None


def is_uid(text: str) -> bool:
    """Say whether `text` can be a DICOM UID: digits and dots, 1..64 characters (PS3.5 9.1, leading zeros tolerated)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def is_uuid_urn(text: str) -> bool:
    """Say whether `text` is a lower-case `urn:uuid:` (ITI TF-3 4.2.3.1: upper case is malformed)."""
    return _UUID_URN.fullmatch(text) is not None


def new_uuid_urn() -> str:
    """Return a fresh random `urn:uuid:`, version 4 (RFC 9562 5.4)."""
    digits = os.urandom(16).hex()
    return f"urn:uuid:{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def new_oid() -> str:
    """Return a fresh OID under 2.25, also good as a DICOM UID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def escape_hl7(text: str) -> str:
    r"""Write `text` with the HL7 v2 delimiters as `\S\`, `\T\`, `\R\`, `\F\`, `\E\` (v2.5 2.7.1)."""
    return _DELIMITER.sub(lambda m: _ESCAPES[m[0]], text)


def unescape_hl7(text: str) -> str:
    r"""Undo `escape_hl7`; other escape sequences stay as they are."""
    if "\\" not in text:
        return text
    return re.sub(r"\\([FSTRE])\\", lambda m: _UNESCAPES[m.group(1)], text)


@dataclass(frozen=True, slots=True, order=True)
class PatientId:
    """A patient identifier: `domain` is the OID of the assigning authority, `value` the id it issued."""

    domain: str
    value: str

    @staticmethod
    def parse(cx: str) -> "PatientId":
        """Read the XDS form `id^^^&oid&ISO` (ITI TF-3 4.2.3.1.7). Raise `Rejected` when it is anything else."""
        return _parsed(cx)

    def __str__(self) -> str:
        return f"{escape_hl7(self.value)}^^^&{self.domain}&ISO"


@functools.lru_cache(maxsize=1024)  # one call reads the same id in several places
def _parsed(cx: str) -> PatientId:
    parts = cx.split("^")
    while len(parts) > 4 and not parts[-1]:
        parts.pop()
    authority = parts[3].split("&") if len(parts) == 4 else []
    good = (
        len(authority) == 3 and parts[0] and not parts[1] and not parts[2] and not authority[0]
        and is_oid(authority[1]) and authority[2] == "ISO"
    )
    if not good:
        raise Rejected(XdsCode.REGISTRY_METADATA_ERROR, f"not a patient id of the form id^^^&oid&ISO: {cx[:120]!r}")
    return PatientId(authority[1], unescape_hl7(parts[0]))
