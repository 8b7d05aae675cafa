"""Objects in disorder: what other readers take is read, and stored byte for byte."""

import random
import struct
import tracemalloc

import pytest

from broker.imaging import header
from broker.model.errors import Rejected
from broker.wire import tags, walk
from tests.helpers.dicom import HOSPITAL
from tests.helpers.rawdicom import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    SERIES,
    SOP,
    STUDY,
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


def identify(body: bytes, syntax: str = EXPLICIT) -> dict[str, str]:
    begin = tags.part10_header(CT, SOP, syntax)
    file = begin + body
    return header.identify(lambda at, size: file[at:at + size], len(file), tags.FileMeta(CT, SOP, syntax, len(begin)), HOSPITAL)


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


@pytest.mark.parametrize("kind", DISORDER)
def test_what_others_can_read_is_read(kind: str) -> None:
    text = identify(*DISORDER[kind])
    assert {keyword: text.get(keyword) for keyword in (
        "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientName", "StudyDate", "Modality")} == {
        "SOPInstanceUID": SOP, "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "PatientID": "P1",
        "PatientName": "Wang^Xiao=王^小东", "StudyDate": "20240105", "Modality": "CT"}


def test_any_order_says_the_same() -> None:
    said, chance = identify(data_set()), random.Random(5)
    for _ in range(100):
        order = chance.sample(TAGS, len(TAGS))
        for syntax in (EXPLICIT, IMPLICIT, BIG_ENDIAN):
            assert identify(data_set(syntax=syntax, order=order), syntax).items() <= said.items()
            assert identify(data_set(syntax=syntax, order=order), syntax)["PatientID"] == "P1"


def test_of_an_element_that_is_there_twice_the_first_counts() -> None:
    for at in (0x00180000, 0x00300000):     # the second one in order, and behind everything
        assert identify(split(at, element(0x00100020, b"LO", b"SECOND")))["PatientID"] == "P1"


def test_a_large_element_in_front_is_passed_without_holding_it() -> None:
    front, behind = split(0x00190000, element(PRIVATE, b"OB", b"", size=LARGE * 8)), LARGE * 8
    at = front.index(struct.pack("<L", LARGE * 8)) + 4

    def read(offset: int, length: int) -> bytes:
        """The file with its large element, of which nothing exists."""
        head, gap = front[offset:min(offset + length, at)], max(0, min(offset + length, at + behind) - max(offset, at))
        tail = offset + length - at - behind
        return head + bytes(gap) + (front[max(at, offset - behind):at + tail] if tail > 0 else b"")

    tracemalloc.start()
    try:
        found, _ = walk.walk(read, 0, EXPLICIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[0x0020000D].rstrip(b"\0").decode() == STUDY
    assert peak < 1 << 20


def test_a_deflated_object_is_passed_without_holding_it() -> None:
    body = deflate(split(0x00190000, element(PRIVATE, b"OB", bytes(LARGE))))
    tracemalloc.start()
    try:
        found, _ = walk.walk(lambda at, size: body[at:at + size], 0, DEFLATED)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[0x0020000D].rstrip(b"\0").decode() == STUDY
    assert peak < 1 << 20


UNREADABLE = {
    "elements without end": (element(0x00091010, b"LO", b"") * 260_000, EXPLICIT, "too many elements"),
    "sequences without end": (nested(40), EXPLICIT, "nested too deeply"),
    "zeros inflated without end": (deflate(bytes(70 << 20)), DEFLATED, "no readable SOPInstanceUID"),
    "no Study Instance UID": (
        data_set({tag: said for tag, said in USUAL.items() if tag != 0x0020000D}), EXPLICIT, "no readable StudyInstanceUID"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_nobody_can_read_is_refused_with_its_reason(kind: str) -> None:
    body, syntax, why = UNREADABLE[kind]
    with pytest.raises(Rejected, match=why):
        identify(body, syntax)
