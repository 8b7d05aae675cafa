"""Objects in disorder: what other readers take is read, and stored byte for byte."""

import random
import struct
import tracemalloc

import pytest

from broker.imaging import header
from broker.model.errors import Rejected
from broker.wire import tags, walk
from tests.helpers.dicom import HOSPITAL
from tests.helpers.disorder import DISORDER, LARGE, PRIVATE, TAGS, nested
from tests.helpers.rawdicom import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    SERIES,
    SOP,
    STUDY,
    USUAL,
    data_set,
    deflate,
    element,
    split,
)


def identify(body: bytes, syntax: str = EXPLICIT) -> dict[str, str]:
    begin = tags.part10_header(CT, SOP, syntax)
    file = begin + body
    return header.identify(lambda at, size: file[at:at + size], len(file), tags.FileMeta(CT, SOP, syntax, len(begin)), HOSPITAL)


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
