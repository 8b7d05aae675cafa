"""Objects in disorder, kind by kind: (data set, transfer syntax). Each is read by other programs, dcmtk first of all."""

import struct

from tests.helpers.rawdicom import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    USUAL,
    data_set,
    deflate,
    element,
    end,
    item,
    split,
)

TAGS = sorted(USUAL)
BEHIND = [*(tag for tag in TAGS if tag < 0x0020000D), *(tag for tag in TAGS if 0x00280000 <= tag < 0x7FE00000),
          *(tag for tag in TAGS if 0x0020000D <= tag < 0x00280000), TAGS[-1]]
IMAGES, PRIVATE, CODE = 0x00081140, 0x00191010, 0x00080100
STRAY_END, STRAY_SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0), end()
LARGE = 17 << 20


def nested(depth: int, syntax: str = EXPLICIT) -> bytes:
    content = element(0x0020000D, b"UI", b"9.9", syntax) + element(0x00100020, b"LO", b"WRONG", syntax)
    for _ in range(depth):
        content = element(IMAGES, b"SQ", item(content, defined=False) + end(), syntax, UNDEFINED)
    return content


def unknown(inner: bytes, syntax: str) -> bytes:
    return element(PRIVATE, b"UN", item(inner, defined=False) + end(), syntax, UNDEFINED)


DISORDER = {
    "UIDs behind group 0028": (data_set(order=BEHIND), EXPLICIT),
    "UIDs behind group 0028, implicit": (data_set(syntax=IMPLICIT, order=BEHIND), IMPLICIT),
    "UIDs behind group 0028, big endian": (data_set(syntax=BIG_ENDIAN, order=BEHIND), BIG_ENDIAN),
    "UIDs behind group 0028, deflated": (deflate(data_set(order=BEHIND)), DEFLATED),
    "the patient behind the pixels": (data_set(order=sorted(TAGS, key=lambda tag: (tag >> 16 == 0x10, tag))), EXPLICIT),
    "from the last to the first": (data_set(order=TAGS[::-1]), EXPLICIT),
    "pixels in fragments before the UIDs": (
        element(0x7FE00010, b"OB", item(b"") + item(b"ABCD") + end(), size=UNDEFINED) + data_set(), EXPLICIT),
    "a high tag in front": (element(0x00290010, b"LO", b"CSA") + data_set(), EXPLICIT),
    "a stray item delimiter": (split(0x00100010, STRAY_END), EXPLICIT),
    "a stray item delimiter, implicit": (split(0x00100010, STRAY_END, syntax=IMPLICIT), IMPLICIT),
    "a stray sequence delimiter": (split(0x00100010, STRAY_SEQUENCE_END), EXPLICIT),
    "a stray item": (split(0x00100010, item(b"ABCDEFGH")), EXPLICIT),
    "a stray item without length": (split(0x00100010, item(element(0x00100020, b"LO", b"WRONG"), defined=False)), EXPLICIT),
    "two delimiters behind an item": (split(
        0x00100010, element(IMAGES, b"SQ", item(b"", defined=False) + STRAY_END + end(), size=UNDEFINED)), EXPLICIT),
    "sequences in sequences": (split(0x00090000, nested(30)), EXPLICIT),
    "sequences in sequences, implicit": (split(0x00090000, nested(30, IMPLICIT), syntax=IMPLICIT), IMPLICIT),
    "sequences in sequences, deflated": (deflate(split(0x00090000, nested(30))), DEFLATED),
    "UN without length in Little Endian": (
        split(0x00190000, unknown(element(CODE, b"SH", b"X", IMPLICIT), EXPLICIT)), EXPLICIT),
    "UN without length in Big Endian": (
        split(0x00190000, unknown(element(CODE, b"SH", b"X", IMPLICIT), BIG_ENDIAN), syntax=BIG_ENDIAN), BIG_ENDIAN),
    "UN in a sequence": (split(0x00190000, element(
        PRIVATE, b"SQ", item(unknown(element(CODE, b"SH", b"X", IMPLICIT), EXPLICIT), defined=False) + end(),
        size=UNDEFINED)), EXPLICIT),
    "a VR of the future": (split(0x00190000, element(PRIVATE, b"XX", b"ABCDEF")), EXPLICIT),
    "another VR of the future": (split(0x00190000, element(PRIVATE, b"OX", b"ABCDEF")), EXPLICIT),
    "a VR of the future before the patient": (split(0x00090000, element(0x00091010, b"ZZ", bytes(20))), EXPLICIT),
    "VR in small letters": (split(0x00190000, element(PRIVATE, b"lo", b"ABCDEF")), EXPLICIT),
    "VR ??": (split(0x00190000, element(PRIVATE, b"??", b"ABCDEF")), EXPLICIT),
    "VR of blanks": (split(0x00190000, element(PRIVATE, b"  ", b"ABCDEF")), EXPLICIT),
    "VR of zeros": (split(0x00190000, element(PRIVATE, b"\0\0", b"ABCDEF")), EXPLICIT),
    "an Implicit VR element among Explicit ones": (split(0x00190000, element(PRIVATE, b"LO", b"ABCDEF", IMPLICIT)), EXPLICIT),
    "a length that is odd": (split(0x00190000, struct.pack("<HH2sH", 0x19, 0x1010, b"LO", 3) + b"abc"), EXPLICIT),
    "zeros between": (split(0x00180000, bytes(16)), EXPLICIT),
    "zeros behind": (data_set() + bytes(20), EXPLICIT),
    "rubbish behind": (data_set() + b"Z" * 21, EXPLICIT),
    "cut off in the pixels": (data_set()[:-2], EXPLICIT),
    "a group length that lies": (split(0x00100010, element(0x00100000, b"UL", b"\4\0\0\0")), EXPLICIT),
    "17 MB before the UIDs": (split(0x00190000, element(PRIVATE, b"OB", bytes(LARGE))), EXPLICIT),
    "17 MB before the UIDs, implicit": (
        split(0x00190000, element(PRIVATE, b"OB", bytes(LARGE), IMPLICIT), syntax=IMPLICIT), IMPLICIT),
    "17 MB before the UIDs, deflated": (deflate(split(0x00190000, element(PRIVATE, b"OB", bytes(LARGE)))), DEFLATED),
    "17 MB before the UIDs, in an item": (split(
        0x00190000, element(PRIVATE, b"SQ", item(element(PRIVATE, b"OB", bytes(LARGE)), defined=False) + end(), size=UNDEFINED)),
        EXPLICIT),
    "Implicit VR under the name of Explicit VR": (data_set(syntax=IMPLICIT), EXPLICIT),
}
