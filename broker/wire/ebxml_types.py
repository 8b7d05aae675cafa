"""Forms of XDS attribute values (ITI TF-3 4.2.3.1.7): predicates on text, no repair."""

import re

from broker.model.errors import Rejected
from broker.model.ids import PatientId, is_oid, unescape_hl7

_YEAR, _MONTH, _DAY = r"\d{4}", "(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_HOUR, _SIXTIETH = r"(?:[01]\d|2[0-3])", r"[0-5]\d"
_DTM = re.compile(f"{_YEAR}(?:{_MONTH}(?:{_DAY}(?:{_HOUR}(?:{_SIXTIETH}(?:{_SIXTIETH})?)?)?)?)?", re.ASCII)
_LOWEST = "00000101000000"
_SHA1 = re.compile(r"[0-9A-Fa-f]{40}")
_SIZE = re.compile(r"[0-9]{1,18}")
_LANGUAGE = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")
_MIME = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(;.*)?")
_OPAQUE = re.compile(r"[!-~]{1,256}")
_PID = re.compile(r"PID-\d{1,2}\|.*", re.DOTALL | re.ASCII)


def is_dtm(text: str) -> bool:
    """Say whether `text` is `YYYY[MM[DD[hh[mm[ss]]]]]` with possible numbers; no zone, no fraction."""
    return _DTM.fullmatch(text) is not None


def pad_dtm(text: str) -> str:
    """Return a DTM at full precision, what is missing at its lowest: the first second it can mean."""
    return text + _LOWEST[len(text):] if text else ""


def shorten_dtm(text: str) -> str:
    """Return a DTM without what is at its lowest at the end: the shortest one that begins at the same second.

    A DTM of any precision begins before it exactly when its text sorts before.
    """
    padded = pad_dtm(text)
    return next((padded[:length] for length in range(4, len(padded), 2) if pad_dtm(padded[:length]) == padded), padded)


def is_later(one: str, other: str) -> bool:
    """Say whether a DTM is later than another one at the precision both have: a day is not later than an hour of it."""
    common = min(len(one), len(other))
    return one[:common] > other[:common]


def is_sha1(text: str) -> bool:
    """Say whether `text` is a SHA-1 in hex, either case."""
    return _SHA1.fullmatch(text) is not None


def is_size(text: str) -> bool:
    """Say whether `text` is a byte count a store can hold."""
    return _SIZE.fullmatch(text) is not None


def is_language(text: str) -> bool:
    """Say whether `text` has the form of a language tag (RFC 5646)."""
    return _LANGUAGE.fullmatch(text) is not None


def is_mime_type(text: str) -> bool:
    """Say whether `text` is type/subtype, parameters allowed (RFC 2046)."""
    return _MIME.fullmatch(text) is not None


def is_document_id(text: str) -> bool:
    """Say whether `text` can be a DocumentEntry.uniqueId: opaque, printable ASCII without blanks (OID, root^ext, URI)."""
    return _OPAQUE.fullmatch(text) is not None


def is_cx(text: str) -> bool:
    """Say whether `text` is a patient id `id^^^&oid&ISO`."""
    try:
        PatientId.parse(text)
    except Rejected:
        return False
    return True


def is_cxi(text: str) -> bool:
    """Say whether `text` is a reference id `id^^^[authority]^type`; a sixth component, the home community, is tolerated."""
    parts = text.split("^")
    return len(parts) in {5, 6} and bool(parts[0] and parts[4]) and not parts[1] and not parts[2] and _is_authority(parts[3])


def _is_authority(text: str) -> bool:
    parts = text.split("&")
    return len(parts) == 1 or (len(parts) == 3 and is_oid(parts[1]) and parts[2] == "ISO")


def is_xcn(text: str) -> bool:
    """Say whether `text` names a person: an id or a family name."""
    parts = text.split("^")
    return bool(parts[0] or (len(parts) > 1 and parts[1]))


def is_xon(text: str) -> bool:
    """Say whether `text` names an organisation: XON.1 is there, XON.6 holds an OID when it is valued."""
    parts = text.split("^")
    return bool(unescape_hl7(parts[0]).strip()) and (len(parts) < 6 or not parts[5] or _is_authority(parts[5]))


def is_recipient(text: str) -> bool:
    """Say whether `text` is `organisation|person|telecom`, at least one of them."""
    parts = text.split("|")
    return len(parts) <= 3 and any(parts)


def is_patient_field(text: str) -> bool:
    """Say whether `text` is one HL7 field of sourcePatientInfo, `PID-5|…`."""
    return _PID.fullmatch(text) is not None
