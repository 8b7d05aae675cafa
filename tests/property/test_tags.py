"""The tag scanner against pydicom, which writes what it reads; and its beginnings, which never say something else."""

import contextlib
import io
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from broker.model.charsets import CharacterSets
from broker.model.errors import Rejected
from broker.wire import tags
from broker.wire.tags import Truncated, scan, study_tags

EXAMPLES = settings(derandomize=True, max_examples=120, deadline=None)
SYNTAXES = {tags.IMPLICIT: (True, True), "1.2.840.10008.1.2.1": (False, True), tags.BIG_ENDIAN: (False, False)}
# Characters of GB 2312 and of GBK, whose second bytes are backslashes, carets and equal signs as well.
CHINESE = st.sampled_from("葉區瑋錦誠张伟芳王曉東乗俓") | st.sampled_from("ABC 123")
WORDS = st.text(CHINESE, max_size=12).map(str.strip)
UIDS = st.integers(0, 10**20).map(lambda number: f"2.25.{number}")
NAMES = ("PatientName", "StudyDescription", "InstitutionName", "ReferringPhysicianName", "PatientID", "SeriesDescription")
CHARSETS = {"ISO_IR 192": "", "GB18030": "", "GBK": "", "": "GB18030"}


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[Dataset, dict[str, str]]:
    """A data set with sequences of every kind between the wanted elements, and the text in it."""
    dataset = Dataset()
    said = {keyword: text for keyword in NAMES if (text := draw(WORDS))}
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        said[keyword] = draw(UIDS)
    for keyword, text in said.items():
        setattr(dataset, keyword, text)
    for keyword in ("ReferencedStudySequence", "RequestAttributesSequence", "ReferencedPatientSequence"):
        dataset.add_new(keyword, "SQ", Sequence([draw(items(2)) for _ in range(draw(st.integers(0, 2)))]))
    dataset.add_new(0x00091001, "UN", draw(st.binary(max_size=20).filter(lambda data: len(data) % 2 == 0)))
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = draw(st.booleans())
    return dataset, said


@st.composite
def items(draw: st.DrawFn, depth: int) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = draw(UIDS)      # the same tags as at the top: they must not be taken for it
    item.PatientID = "WRONG"
    item.is_undefined_length_sequence_item = draw(st.booleans())
    if depth:
        item.add_new("ReferencedSOPSequence", "SQ", Sequence([draw(items(depth - 1)) for _ in range(draw(st.integers(0, 2)))]))
    return item


def written(dataset: Dataset, syntax: str, charset: str) -> bytes:
    if charset:
        dataset.SpecificCharacterSet = charset
    else:
        for keyword in NAMES:       # a sender that declares nothing and writes its own
            if keyword in dataset:
                element = dataset[keyword]
                dataset[keyword] = DataElement(element.tag, "UN", str(element.value).encode("gb18030"))
    buffer = io.BytesIO()
    implicit, little = SYNTAXES[syntax]
    dataset.save_as(buffer, implicit_vr=implicit, little_endian=little)
    return buffer.getvalue()


@EXAMPLES
@given(data_sets(), st.sampled_from(sorted(SYNTAXES)), st.sampled_from(sorted(CHARSETS)))
def test_text_comes_back_whatever_the_syntax_and_character_set(
    made: tuple[Dataset, dict[str, str]], syntax: str, charset: str,
) -> None:
    dataset, said = made
    data = written(dataset, syntax, charset)
    text = study_tags(scan(data, syntax, whole=True), CharacterSets(CHARSETS[charset]))
    assert {keyword: value for keyword, value in text.items() if keyword in said} == said
    assert set(text) <= set(said)


@EXAMPLES
@given(data_sets(), st.sampled_from(sorted(SYNTAXES)), st.data())
def test_a_beginning_says_the_same_or_asks_for_more(
    made: tuple[Dataset, dict[str, str]], syntax: str, draw: st.DataObject,
) -> None:
    data = written(made[0], syntax, "GB18030")
    behind = b"\x30\0\x10\0" + bytes(60) if syntax != tags.BIG_ENDIAN else b"\0\x30\0\x10" + bytes(60)
    whole = scan(data + behind, syntax)
    assert whole == scan(data, syntax, whole=True)
    with contextlib.suppress(Truncated):
        assert scan((data + behind)[:draw.draw(st.integers(0, len(data) + 60))], syntax) == whole


@EXAMPLES
@given(st.binary(max_size=400), st.sampled_from((*sorted(SYNTAXES), tags.DEFLATED)), st.sampled_from(("", "GB18030", "no such")))
def test_any_bytes_are_read_or_refused(data: bytes, syntax: str, charset: str) -> None:
    for prefix in (b"", b"\x08\0\x05\0CS\x0a\0ISO_IR 100", b"\x08\0\x32\x10SQ\0\0\xff\xff\xff\xff"):
        found: dict[int, Any] = {}
        with contextlib.suppress(Truncated, Rejected):
            found = dict(scan(prefix + data, syntax, whole=True))
        for value in study_tags(found, CharacterSets(charset)).values():
            assert value.isprintable() or value.strip() == value
        with contextlib.suppress(Truncated, Rejected):
            tags.read_meta(b"\0" * 128 + b"DICM" + data)
