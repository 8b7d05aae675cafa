"""Reads what the index needs of an object: from its beginning, else element by element, else by pydicom."""

import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import structlog
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset

from broker.archive.tiers.online import HEAD
from broker.config.profile import Hospital
from broker.model.errors import DimseCode, Rejected
from broker.model.ids import is_uid
from broker.wire import tags
from broker.wire.quiet_pydicom import quiet_pydicom
from broker.wire.walk import ESSENTIAL, Read, walk

_LAST_LOOK = 16 << 20       # bytes pydicom is given
_PATIENT_ID = 250           # characters; LO allows 64
_MANDATORY = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_MANDATORY_TAGS = frozenset(tags.TAGS[keyword] for keyword in _MANDATORY)
_LABEL = 16                 # characters of a label that are logged, as CS allows
_LABELS = 200               # unknown labels that are remembered, so that each is logged once
_UNREADABLE = (InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, KeyError, IndexError, TypeError,
               AttributeError, NotImplementedError, OverflowError, RecursionError, struct.error)

log = structlog.get_logger("broker.receiver")
_logged: set[tuple[str, str]] = set()


def identify(read: Read, size: int, meta: tags.FileMeta, hospital: Hospital) -> dict[str, str]:
    """Return the decoded text of an object of `hospital` by keyword: its UIDs are there and agree with `meta`.

    `read(offset, length)` gives bytes of the file, `size` is its full length. Raise `Rejected` with the C-STORE status.
    """
    head = read(0, HEAD)
    if head[meta.end:meta.end + 2] == b"\2\0":    # whoever reads the file would take it for its own
        raise Rejected(DimseCode.CANNOT_UNDERSTAND, "the data set begins with file meta information")
    raw, why = _raw(read, head, size, meta)
    return _agreed(raw, why, meta, hospital)


def of_head(head: bytes, meta: tags.FileMeta, hospital: Hospital) -> dict[str, str] | None:
    """Return what `identify` will, from the first bytes of a file that are not all of it.

    None when they do not tell, and when the object will be refused.
    """
    if head[meta.end:meta.end + 2] == b"\2\0":
        return None
    try:
        found = tags.scan(head, meta.transfer_syntax, meta.end)
        return _agreed(found, "", meta, hospital) if found.keys() >= ESSENTIAL else None
    except (tags.Truncated, Rejected):
        return None


def _agreed(raw: Mapping[int, bytes], why: str, meta: tags.FileMeta, hospital: Hospital) -> dict[str, str]:
    """Return the text of the raw elements; `why` says why one that is missing could not be found."""
    text = tags.study_tags(raw, hospital.character_sets)
    for keyword in _MANDATORY:
        if not is_uid(text.get(keyword, "")):
            because = f" ({why})" if why else ""
            raise Rejected(DimseCode.CANNOT_UNDERSTAND, f"the data set has no readable {keyword}{because}", keyword)
    if text["SOPInstanceUID"] != meta.sop_uid or text.get("SOPClassUID", meta.sop_class) != meta.sop_class:
        raise Rejected(DimseCode.DATA_SET_MISMATCH, "SOP Class or Instance UID of data set and request differ")
    if len(text.get("PatientID", "")) > _PATIENT_ID:
        raise Rejected(DimseCode.CANNOT_UNDERSTAND, "the Patient ID is too long", "PatientID")
    for label in tags.unknown_labels(raw, hospital.character_sets):
        _note_label(hospital, label)
    return text


def of_file(file: Path, hospital: Hospital) -> tuple[tags.FileMeta, dict[str, str]]:
    """Return the file meta information and the decoded text of a stored Part-10 file of this hospital.

    Raise `OSError` when it cannot be read, `Rejected` or `tags.Truncated` when it holds something else.
    """
    with file.open("rb") as stream:
        def read(offset: int, length: int) -> bytes:
            return os.pread(stream.fileno(), length, offset)

        meta = tags.read_meta(read(0, HEAD))
        return meta, identify(read, file.stat().st_size, meta, hospital)


def _note_label(hospital: Hospital, label: str) -> None:
    seen = (hospital.key, label[:_LABEL])
    if seen not in _logged and len(_logged) < _LABELS:
        _logged.add(seen)
        log.warning("a character set label that nobody knows", hospital=hospital.key, label=label[:_LABEL],
                    read_as=hospital.charset, element="SpecificCharacterSet")


def _raw(read: Read, head: bytes, size: int, meta: tags.FileMeta) -> tuple[Mapping[int, bytes], str]:
    """Return the raw elements, and why a missing one could not be found."""
    try:
        found = tags.scan(head, meta.transfer_syntax, meta.end, whole=len(head) == size)
        if found.keys() >= ESSENTIAL:
            return found, ""
    except (tags.Truncated, tags.NotDicom):
        pass
    found, why = walk(read, meta.end, meta.transfer_syntax)
    if found.keys() >= _MANDATORY_TAGS or meta.transfer_syntax == tags.DEFLATED:   # pydicom inflates without a limit
        return found, why
    return _ask_pydicom(read(meta.end, _LAST_LOOK), meta.transfer_syntax) or found, why


def _ask_pydicom(data: bytes, transfer_syntax: str) -> dict[int, bytes]:
    """Let pydicom read the data set, never the file: it would find another transfer syntax in front of it, and inflate it."""
    try:
        with quiet_pydicom():
            dataset = read_dataset(
                io.BytesIO(data), transfer_syntax == tags.IMPLICIT, transfer_syntax != tags.BIG_ENDIAN,
                stop_when=lambda tag, _vr, _length: tag > tags.LAST, specific_tags=list(tags.KEYWORDS))
            values = {tag: getattr(dataset.get_item(tag), "value", None) for tag in tags.KEYWORDS}
    except _UNREADABLE:
        return {}
    return {tag: value for tag, value in values.items() if isinstance(value, bytes)}
