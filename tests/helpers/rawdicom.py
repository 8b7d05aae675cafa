"""Data sets written byte by byte, also such as no toolkit would write."""

import struct
import zlib
from collections.abc import Iterable, Mapping

from broker.wire import tags

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.1", tags.IMPLICIT, tags.BIG_ENDIAN, tags.DEFLATED
STUDY, SERIES, SOP = "2.25.700", "2.25.700.1", "2.25.700.1.1"
UNDEFINED = 0xFFFFFFFF

Elements = Mapping[int, tuple[bytes, bytes]]

USUAL: Elements = {
    0x00080005: (b"CS", b"ISO_IR 192"), 0x00080016: (b"UI", CT.encode()), 0x00080018: (b"UI", SOP.encode()),
    0x00080020: (b"DA", b"20240105"), 0x00080030: (b"TM", b"101500"), 0x00080050: (b"SH", b"ACC1"), 0x00080060: (b"CS", b"CT"),
    0x00080080: (b"LO", b"Inst"), 0x00080090: (b"PN", b""), 0x00081030: (b"LO", b"Desc"),
    0x00100010: (b"PN", "Wang^Xiao=王^小东".encode()), 0x00100020: (b"LO", b"P1"), 0x00100030: (b"DA", b"19790214"),
    0x00100040: (b"CS", b"F"), 0x0020000D: (b"UI", STUDY.encode()), 0x0020000E: (b"UI", SERIES.encode()),
    0x00200010: (b"SH", b"S1"), 0x00200011: (b"IS", b"1"), 0x00200013: (b"IS", b"1"), 0x00280010: (b"US", b"\2\0"),
    0x00280011: (b"US", b"\2\0"), 0x7FE00010: (b"OW", b"\1\2\3\4"),
}


def element(tag: int, vr: bytes, value: bytes, syntax: str = EXPLICIT, size: int | None = None) -> bytes:
    """One element; `size` is what its header says where that is not the length of the value."""
    if len(value) % 2:
        value += b"\0" if vr in {b"UI", b"OB", b"UN"} else b" "
    length = len(value) if size is None else size
    order = ">" if syntax == BIG_ENDIAN else "<"
    if syntax == IMPLICIT:
        return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length) + value
    long = struct.pack(order + "HL", 0, length & 0xFFFFFFFF)
    return (struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr
            + (struct.pack(order + "H", length) if vr in tags.SHORT or not vr.isupper() else long) + value)


def item(content: bytes, *, defined: bool = True, order: str = "<") -> bytes:
    """One item of a sequence, or a fragment of pixels."""
    if defined:
        return struct.pack(order + "HHL", 0xFFFE, 0xE000, len(content)) + content
    return (struct.pack(order + "HHL", 0xFFFE, 0xE000, UNDEFINED) + content + struct.pack(order + "HHL", 0xFFFE, 0xE00D, 0))


def end(order: str = "<") -> bytes:
    """The delimiter behind a sequence of undefined length."""
    return struct.pack(order + "HHL", 0xFFFE, 0xE0DD, 0)


def data_set(elements: Elements = USUAL, syntax: str = EXPLICIT, order: Iterable[int] | None = None) -> bytes:
    """The elements by tag, or in `order`."""
    return b"".join(element(tag, *elements[tag], syntax) for tag in (order or sorted(elements)))


def split(at: int, middle: bytes, elements: Elements = USUAL, syntax: str = EXPLICIT) -> bytes:
    """The elements by tag, with bytes of your own before the first tag that is not below `at`."""
    before, behind = ([tag for tag in elements if (tag < at) is low] for low in (True, False))
    return data_set(elements, syntax, sorted(before)) + middle + data_set(elements, syntax, sorted(behind))


def deflate(data: bytes) -> bytes:
    """What a deflated data set is on the wire."""
    engine = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()
