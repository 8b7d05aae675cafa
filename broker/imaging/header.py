"""Reads what the index needs from the beginning of an object, with pydicom for what the scanner cannot read."""

import io
import struct
from collections.abc import Callable, Mapping

from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset

from broker.archive.online import HEAD
from broker.model.errors import DimseCode, Rejected
from broker.model.ids import is_uid
from broker.wire import tags
from broker.wire.unremarked import unremarked

_LOOKS = (HEAD, 1 << 20)    # bytes the scanner is given, one after the other
_LAST_LOOK = 16 << 20       # bytes pydicom is given
_LAST = max(tags.KEYWORDS)
_PATIENT_ID = 250           # characters; LO allows 64
_MANDATORY = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UNREADABLE = (InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, KeyError, IndexError, TypeError,
               AttributeError, NotImplementedError, OverflowError, RecursionError, struct.error)


def identify(read: Callable[[int], bytes], size: int, meta: tags.FileMeta, charset: str) -> dict[str, str]:
    """Give the decoded text of an object by keyword: its UIDs are there and agree with `meta`.

    `read(length)` gives the file's beginning, `size` is its full length. Raise `Rejected` with the C-STORE status.
    """
    if read(HEAD)[meta.end:meta.end + 2] == b"\2\0":    # whoever reads the file would take it for its own
        raise Rejected(DimseCode.CANNOT_UNDERSTAND, "the data set begins with file meta information")
    text = tags.study_tags(_raw(read, size, meta), charset)
    for keyword in _MANDATORY:
        if not is_uid(text.get(keyword, "")):
            raise Rejected(DimseCode.CANNOT_UNDERSTAND, f"the data set has no readable {keyword}", keyword)
    if text["SOPInstanceUID"] != meta.sop_uid or text.get("SOPClassUID", meta.sop_class) != meta.sop_class:
        raise Rejected(DimseCode.DATA_SET_MISMATCH, "SOP Class or Instance UID of data set and request differ")
    if len(text.get("PatientID", "")) > _PATIENT_ID:
        raise Rejected(DimseCode.CANNOT_UNDERSTAND, "the Patient ID is too long", "PatientID")
    return text


def _raw(read: Callable[[int], bytes], size: int, meta: tags.FileMeta) -> Mapping[int, bytes]:
    for length in _LOOKS:
        data = read(length)
        try:
            found = tags.scan(data, meta.transfer_syntax, meta.end, whole=len(data) == size)
        except (tags.Truncated, tags.NotDicom):
            continue
        if all(tags.TAGS[keyword] in found for keyword in _MANDATORY):
            return found
    if meta.transfer_syntax == tags.DEFLATED:   # pydicom would inflate it without a limit
        return {}
    return _ask_pydicom(read(_LAST_LOOK)[meta.end:], meta.transfer_syntax)


def _ask_pydicom(data: bytes, transfer_syntax: str) -> dict[int, bytes]:
    """Let pydicom read the data set, never the file: it would find another transfer syntax in front of it, and inflate it."""
    try:
        with unremarked():
            dataset = read_dataset(
                io.BytesIO(data), transfer_syntax == tags.IMPLICIT, transfer_syntax != tags.BIG_ENDIAN,
                stop_when=lambda tag, _vr, _length: tag > _LAST, specific_tags=list(tags.KEYWORDS))
            values = {tag: getattr(dataset.get_item(tag), "value", None) for tag in tags.KEYWORDS}
    except _UNREADABLE:
        return {}
    return {tag: value for tag, value in values.items() if isinstance(value, bytes)}
