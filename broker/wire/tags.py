"""The top of a DICOM data set without a toolkit: raw element values by tag, then decoded text by keyword.

Only the elements of `KEYWORDS` are read, at the top level, and the first procedure code: reading stops behind the last
of them, long before the pixels. What this scanner cannot read it says so (`Truncated`, `NotDicom`), it never guesses;
`wire/walk` reads what lies in disorder.
"""

import struct
import zlib
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from broker.model.charsets import NO_SETS, CharacterSets
from broker.model.errors import Rejected
from broker.wire import charsets

IMPLEMENTATION_UID = "2.25.171413870046296838541379312190376551021"
IMPLEMENTATION_VERSION = "XDSI_BROKER"

IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

KEYWORDS: Mapping[int, str] = {
    0x00080005: "SpecificCharacterSet",
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x00080020: "StudyDate",
    0x00080030: "StudyTime",
    0x00080050: "AccessionNumber",
    0x00080052: "QueryRetrieveLevel",
    0x00080060: "Modality",
    0x00080080: "InstitutionName",
    0x00080090: "ReferringPhysicianName",
    0x00080201: "TimezoneOffsetFromUTC",
    0x00081030: "StudyDescription",
    0x0008103E: "SeriesDescription",
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00100021: "IssuerOfPatientID",
    0x00100030: "PatientBirthDate",
    0x00100040: "PatientSex",
    0x00180015: "BodyPartExamined",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00200010: "StudyID",
    0x00200011: "SeriesNumber",
    0x00200013: "InstanceNumber",
    0x00280008: "NumberOfFrames",
}
PROCEDURE: Mapping[int, str] = {   # of the first item of the Procedure Code Sequence (0008,1032)
    0x00080100: "ProcedureCodeValue",
    0x00080102: "ProcedureCodingSchemeDesignator",
    0x00080104: "ProcedureCodeMeaning",
}
TAGS: Mapping[str, int] = {keyword: tag for tag, keyword in KEYWORDS.items()}

LAST = max(KEYWORDS)
_CHARSET = TAGS["SpecificCharacterSet"]
PROCEDURES = 0x00081032
WANTED = frozenset((*KEYWORDS, PROCEDURES))
_NAMES = {**KEYWORDS, **{PROCEDURES << 32 | tag: name for tag, name in PROCEDURE.items()}}
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
# PS3.5 7.1.2: these have lengths of 16 bits, all others of 32, also those that are yet to be defined.
SHORT = frozenset((b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
                   b"SS", b"ST", b"TM", b"UI", b"UL", b"US"))
DEPTH = 32              # nesting of sequences; real objects stay below ten
_INFLATED = 1 << 20     # bytes a deflated data set is unpacked to at most


class Truncated(Exception):
    """The bytes end before the last wanted element: come back with more."""


class NotDicom(Rejected):
    """The bytes are not a readable data set or Part-10 file."""

    def __init__(self, why: str) -> None:
        super().__init__("NotDicom", why)


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the file meta information says; the data set starts at `end` (PS3.10 7.1)."""

    sop_class: str
    sop_uid: str
    transfer_syntax: str
    end: int


class Order(NamedTuple):
    """How elements are laid out: the 8 bytes of an explicit header, of an implicit header, and a 32-bit length."""

    explicit: struct.Struct
    implicit: struct.Struct
    length: struct.Struct


LITTLE = Order(struct.Struct("<HH2sH"), struct.Struct("<HHL"), struct.Struct("<L"))
BIG = Order(struct.Struct(">HH2sH"), struct.Struct(">HHL"), struct.Struct(">L"))


def part10_header(sop_class: str, sop_uid: str, transfer_syntax: str) -> bytes:
    """Return preamble, prefix and file meta information of a file whose data set follows (PS3.10 7.1)."""
    group = b"".join((
        _meta_element(0x0001, b"OB", b"\0\1"),
        _meta_element(0x0002, b"UI", sop_class.encode("ascii")),
        _meta_element(0x0003, b"UI", sop_uid.encode("ascii")),
        _meta_element(0x0010, b"UI", transfer_syntax.encode("ascii")),
        _meta_element(0x0012, b"UI", IMPLEMENTATION_UID.encode("ascii")),
        _meta_element(0x0013, b"SH", IMPLEMENTATION_VERSION.encode("ascii")),
    ))
    return b"\0" * 128 + b"DICM" + _meta_element(0x0000, b"UL", struct.pack("<L", len(group))) + group


def _meta_element(element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b" " if vr == b"SH" else b"\0"
    header = struct.pack("<HH2s", 2, element, vr)
    return header + (struct.pack("<H", len(value)) if vr in SHORT else struct.pack("<HL", 0, len(value))) + value


def read_meta(data: bytes) -> FileMeta:
    """Read the beginning of a Part-10 file. Raise `NotDicom` without prefix or transfer syntax, `Truncated` when cut."""
    if data[128:132] != b"DICM":
        raise NotDicom("no DICM prefix")
    at, found = 132, dict[int, str]()
    while data[at:at + 2] == b"\2\0":
        try:
            tag, value, size = _element(data, at, LITTLE, explicit=True)
        except struct.error:
            raise Truncated from None
        at = value + size
        found[tag] = data[value:at].rstrip(b"\0 ").decode("ascii", "replace")
    if at + 2 > len(data):
        raise Truncated
    if not found.get(0x00020010):
        raise NotDicom("no transfer syntax in the file meta information")
    return FileMeta(found.get(0x00020002, ""), found.get(0x00020003, ""), found[0x00020010], at)


def scan(data: bytes, transfer_syntax: str, offset: int = 0, *, whole: bool = False) -> dict[int, bytes]:
    """Return the raw values of the elements in `KEYWORDS` by tag, from a data set that starts at `offset`.

    Those of `PROCEDURE` have keys of their own, which `study_tags` knows. `data` may be the beginning only: `Truncated`
    when that does not reach far enough. `whole` says it is all there is.
    """
    if transfer_syntax == DEFLATED:
        data, whole = inflate(data[offset:], _INFLATED)
        offset = 0
    order = BIG if transfer_syntax == BIG_ENDIAN else LITTLE
    try:
        return _scan(data, offset, order, explicit=transfer_syntax != IMPLICIT, whole=whole)
    except struct.error:
        raise Truncated from None


def _scan(data: bytes, offset: int, order: Order, *, explicit: bool, whole: bool) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for tag, begin, end, named in select(data, offset, order, explicit=explicit, whole=whole):
        if end > len(data):
            raise Truncated
        if tag == PROCEDURES:
            found |= first_code(data[begin:end], order, explicit=named)
        elif tag not in found:      # of an element that is there twice the first counts, as other readers have it
            found[tag] = data[begin:end]
    return found


def select(  # noqa: PLR0913 - how the bytes are to be read, and what of them
    data: bytes, at: int, order: Order, *, explicit: bool, whole: bool, wanted: Container[int] = WANTED, last: int = LAST,
) -> Iterator[tuple[int, int, int, bool]]:
    """Return tag, begin and end of each wanted element's value, and whether its items are Explicit VR.

    `last` is the greatest tag of `wanted`. A value may end behind the data. Raise struct.error when a head is cut off,
    `NotDicom` for sequences that cannot be passed. The loop runs for each element of each object that comes in: it does
    without `_element`.
    """
    unpack, long_size, end, named = order.explicit.unpack_from, order.length.unpack_from, len(data), explicit
    while at != end or not whole:
        if explicit:
            group, element, vr, size = unpack(data, at)
            value = at + 8
            if vr not in SHORT and has_long_size(vr):
                (size,) = long_size(data, value)
                value, named = at + 12, vr != b"UN"     # an unknown VR hides Implicit VR (PS3.5 6.2.2, note 4)
            tag = group << 16 | element
        else:
            tag, value, size = _element(data, at, order, explicit=False)
        if tag > last:
            return
        at = value + size if size != UNDEFINED else _skip_sequence(data, value, order if named else LITTLE, explicit=named)
        if tag in wanted:
            yield tag, value, at, named


def has_long_size(vr: bytes) -> bool:
    """Say whether a VR that is not one of the short ones has a length of 32 bits; what is no VR at all has not."""
    return vr.isalpha() and vr.isupper()


def first_code(data: bytes, order: Order, *, explicit: bool) -> dict[int, bytes]:
    """Return the code in the first item of a sequence's value; what is there of it when it is damaged."""
    found: dict[int, bytes] = {}
    try:
        order = order if explicit else LITTLE
        tag, at, size = _element(data, 0, order, explicit=False)
        end = min(at + size, len(data)) if tag == ITEM else 0
        while at < end:
            tag, value, size = _element(data, at, order, explicit=explicit)
            at = value + size
            if at > end or tag == ITEM_END:
                break
            if tag in PROCEDURE:
                found.setdefault(PROCEDURES << 32 | tag, data[value:at])
    except struct.error:
        pass
    return found


def _element(data: bytes, at: int, order: Order, *, explicit: bool) -> tuple[int, int, int]:
    """Return tag, offset of the value and its length of the element at `at`."""
    if not explicit:
        group, element, size = order.implicit.unpack_from(data, at)
        return group << 16 | element, at + 8, size
    group, element, vr, size = order.explicit.unpack_from(data, at)
    if vr not in SHORT and has_long_size(vr):
        return group << 16 | element, at + 12, order.length.unpack_from(data, at + 8)[0]
    return group << 16 | element, at + 8, size


def _skip_sequence(data: bytes, at: int, order: Order, *, explicit: bool, depth: int = 0) -> int:
    """Return the offset behind a sequence of undefined length whose first item is at `at` (PS3.5 7.5)."""
    if depth > DEPTH:
        raise NotDicom("sequences are nested too deeply")
    while True:
        tag, value, size = _element(data, at, order, explicit=False)
        if tag == SEQUENCE_END:
            return value
        if tag != ITEM:
            raise NotDicom("a sequence holds something else than items")
        at = value + size if size != UNDEFINED else _skip_item(data, value, order, depth, explicit=explicit)


def _skip_item(data: bytes, at: int, order: Order, depth: int, *, explicit: bool) -> int:
    while True:
        tag, value, size = _element(data, at, order, explicit=explicit)
        if tag == ITEM_END:
            return value
        if size == UNDEFINED:
            named = explicit and data[at + 4:at + 6] != b"UN"
            at = _skip_sequence(data, value, order if named else LITTLE, explicit=named, depth=depth + 1)
        else:
            at = value + size


def inflate(data: bytes, limit: int) -> tuple[bytes, bool]:
    """Return what a deflated data set holds, up to `limit` bytes, and whether that is all. Raise `NotDicom` when damaged."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return engine.decompress(data, limit), engine.eof
    except zlib.error:
        raise NotDicom("the deflated data set is damaged") from None


def study_tags(raw: Mapping[int, bytes], sets: CharacterSets = NO_SETS) -> dict[str, str]:
    """Return decoded text by DICOM keyword, of several values the first; without empty ones and without control characters.

    `sets` says how text is read that declares no character set, or a wrong one. Values are decoded before they are
    split: GBK characters may end in a backslash or a caret.
    """
    found: dict[str, str] = {}
    for tag, text in charsets.decode(raw, raw.get(_CHARSET, b""), sets).items():
        first = text.partition("\\")[0].strip()
        if first and tag in _NAMES and tag != _CHARSET:
            found[_NAMES[tag]] = first
    return found


def unknown_labels(raw: Mapping[int, bytes], sets: CharacterSets) -> tuple[str, ...]:
    """Return what the Specific Character Set of a data set names that nobody knows."""
    return charsets.unknown_labels(raw.get(_CHARSET, b""), sets)


def write_identifier(values: Mapping[str, str]) -> bytes:
    """Return a query identifier in Implicit VR Little Endian; `values` by keyword, empty = please return it (PS3.4 C.2)."""
    found = bytearray()
    for tag, keyword in KEYWORDS.items():
        if keyword in values:
            value = values[keyword].encode("utf-8")
            if len(value) % 2:
                value += b"\0" if keyword.endswith("UID") else b" "
            found += LITTLE.implicit.pack(tag >> 16, tag & 0xFFFF, len(value)) + value
    return bytes(found)
