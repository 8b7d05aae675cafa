import io
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from broker.model.charsets import CharacterSets
from broker.wire import tags
from tests.helpers import dicom

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b" "
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def uid(tag: int, value: bytes) -> bytes:
    return element(tag, b"UI", value + b"\0" * (len(value) % 2))


END = element(0x00280010, b"US", b"\1\0")


def text_of(charset: bytes, values: dict[int, bytes], default: str = "") -> dict[str, str]:
    declared = element(0x00080005, b"CS", charset) if charset else b""
    data = declared + b"".join(element(tag, b"PN" if tag == 0x00100010 else b"LO", value) for tag, value in values.items()) + END
    return tags.study_tags(tags.scan(data, ExplicitVRLittleEndian), CharacterSets(default))


def readable() -> list[Path]:
    found = []
    for file in sorted(file for folder in (SAMPLES, SAMPLES.parent / "charset_files") for file in folder.rglob("*.dcm")):
        try:
            tags.read_meta(file.read_bytes())
        except (tags.NotDicom, tags.Truncated):
            continue
        found.append(file)
    return found


def test_agrees_with_pydicom_on_its_own_samples() -> None:
    compared, different = 0, []
    for file in readable():
        data = file.read_bytes()
        meta = tags.read_meta(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                reference = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            except (ValueError, EOFError, AttributeError, NotImplementedError, TypeError):
                continue
        try:
            found = tags.scan(data, meta.transfer_syntax, meta.end, whole=True)
        except (tags.Truncated, tags.NotDicom):
            different.append(file.name)
            continue
        compared += 1
        for tag in tags.KEYWORDS:
            raw = reference.get_item(tag)
            if isinstance(getattr(raw, "value", None), bytes) and found.get(tag) != raw.value:
                different.append(f"{file.name} {tags.KEYWORDS[tag]}")
    assert compared > 80
    # it is Implicit VR and says Explicit: header.identify asks pydicom when a UID is missing
    assert {name.split()[0] for name in different} == {"SC_rgb_jpeg.dcm"}


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_reads_every_encoding_past_nested_sequences(syntax: pydicom.uid.UID) -> None:
    dataset = dicom.ct_dataset("1.2.3", "1.2.3.4", "1.2.3.4.5")
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "X"
    outer.PurposeOfReferenceCodeSequence = [inner]
    outer.ReferencedSOPInstanceUID = "9.9"
    dataset.ReferencedImageSequence = [outer, outer]
    for sequence in (dataset["ReferencedImageSequence"], outer["PurposeOfReferenceCodeSequence"]):
        sequence.is_undefined_length = True
    outer.is_undefined_length_sequence_item = True
    inner.is_undefined_length_sequence_item = True
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset["PixelData"].VR = "OW"
    pydicom.dcmwrite(file, dataset, enforce_file_format=True, little_endian=syntax.is_little_endian,
                     implicit_vr=syntax.is_implicit_VR)
    data = file.getvalue()
    meta = tags.read_meta(data)
    assert meta.transfer_syntax == syntax
    found = tags.study_tags(tags.scan(data, meta.transfer_syntax, meta.end, whole=True))
    assert found["SOPInstanceUID"] == "1.2.3.4.5"
    assert found["StudyInstanceUID"] == "1.2.3"
    assert found["PatientName"] == "Ye^XiaoDong=葉^曉東"
    assert found["InstanceNumber"] == "1"


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_reads_the_first_procedure_code(syntax: pydicom.uid.UID, undefined: bool) -> None:
    dataset = dicom.ct_dataset("1.2.3", "1.2.3.4", "1.2.3.4.5")
    codes = []
    for value, meaning in (("CTCH", "胸部 CT"), ("OTHER", "x")):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "99HOSP", meaning
        code.is_undefined_length_sequence_item = undefined
        codes.append(code)
    dataset.ProcedureCodeSequence = codes
    dataset["ProcedureCodeSequence"].is_undefined_length = undefined
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    data = file.getvalue()
    meta = tags.read_meta(data)
    found = tags.study_tags(tags.scan(data, meta.transfer_syntax, meta.end, whole=True))
    assert [found[name] for name in tags.PROCEDURE.values()] == ["CTCH", "99HOSP", "胸部 CT"]
    assert found["StudyInstanceUID"] == "1.2.3"


def test_says_when_it_needs_more_and_never_a_wrong_value() -> None:
    dataset = dicom.ct_dataset("1.2.3", "1.2.3.4", "1.2.3.4.5")
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    data = file.getvalue()
    meta = tags.read_meta(data)
    full = tags.scan(data, meta.transfer_syntax, meta.end)
    for cut in range(meta.end, len(data), 7):
        try:
            assert tags.scan(data[:cut], meta.transfer_syntax, meta.end) == full
        except tags.Truncated:
            continue
    with pytest.raises(tags.Truncated):
        tags.read_meta(data[:meta.end - 1])
    with pytest.raises(tags.NotDicom):
        tags.read_meta(b"\0" * 400)


@pytest.mark.parametrize(("data", "error"), [
    (struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
     + (struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 5000,
     tags.NotDicom),
    (struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + b"garbage garbage ", tags.NotDicom),
    (struct.pack("<HH2sHL", 8, 0x1140, b"UN", 0, 0xFFFFFFF0), tags.Truncated),
    (b"\x08", tags.Truncated),
])
def test_hostile_bytes_end_in_an_error_of_its_own(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        tags.scan(data, ExplicitVRLittleEndian)


@given(st.binary(max_size=300), st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]))
@settings(derandomize=True, max_examples=300)
def test_any_bytes_end_in_a_value_or_an_error_of_its_own(data: bytes, syntax: str) -> None:
    for whole in (False, True):
        try:
            tags.study_tags(tags.scan(data, syntax, whole=whole), CharacterSets("GB18030"))
        except (tags.Truncated, tags.NotDicom):
            continue


def test_a_deflated_bomb_is_not_unpacked() -> None:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(engine.compress(b"\0" * (1 << 20)) for _ in range(64)) + engine.flush()
    with pytest.raises((tags.Truncated, tags.NotDicom)):
        tags.scan(bomb, DeflatedExplicitVRLittleEndian)
    with pytest.raises(tags.NotDicom):
        tags.scan(b"\xff" * 100, DeflatedExplicitVRLittleEndian)


NAME = "Ye^XiaoDong=葉^曉東"  # second bytes 0x7E and 0x5E in GB 18030
BACKSLASH = "誠"              # GBK 0xD55C: ends in a backslash

assert BACKSLASH.encode("gb18030").endswith(b"\\")


@pytest.mark.parametrize(("charset", "encoded", "default", "expected"), [
    (b"GB18030", NAME.encode("gb18030"), "", NAME),
    (b"GBK", NAME.encode("gbk"), "", NAME),
    (b"ISO_IR 192", NAME.encode(), "GB18030", NAME),
    (b"\\ISO 2022 IR 58", b"Zhang=\x1b$)A" + "张".encode("gb2312") + b"^\x1b$)A" + "三".encode("gb2312"), "", "Zhang=张^三"),
    (b"", NAME.encode("gbk"), "GB18030", NAME),
    (b"ISO_IR 6", NAME.encode("gbk"), "GB18030", NAME),
    (b"ISO_IR 192", NAME.encode("gbk"), "GB18030", NAME),      # declares UTF-8, holds GBK
    (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "GB18030", "Müller^Jörg"),
    (b"ISO 2022 IR 6\\ISO 2022 IR 87", b"Yamada=\x1b$B;3ED\x1b(B", "", "Yamada=山田"),
    (b"\\ISO 2022 IR 149", b"Hong=\x1b$)C" + "홍".encode("euc_kr"), "", "Hong=홍"),
    (b"", b"plain^ascii", "no such codec", "plain^ascii"),
])
def test_names_in_the_character_sets_of_the_field(charset: bytes, encoded: bytes, default: str, expected: str) -> None:
    assert text_of(charset, {0x00100010: encoded}, default)["PatientName"] == expected


def test_text_is_decoded_before_it_is_split_and_cleaned() -> None:
    found = text_of(b"GBK", {0x00100010: BACKSLASH.encode("gbk") + b"^A", 0x00100020: b" 12\0\n3 ", 0x00100021: b"  "})
    assert found == {"PatientName": f"{BACKSLASH}^A", "PatientID": "123"}
    assert text_of(b"", {0x00100020: b"one\\two"}) == {"PatientID": "one"}


def test_the_file_header_is_what_pydicom_expects() -> None:
    begin = tags.part10_header(dicom.CT, "1.2.3", str(ExplicitVRLittleEndian))
    meta = tags.read_meta(begin + b"\x08\0")
    assert meta == tags.FileMeta(dicom.CT, "1.2.3", str(ExplicitVRLittleEndian), len(begin))
    read = pydicom.dcmread(io.BytesIO(begin + uid(0x00080018, b"1.2.3")))
    assert read.file_meta.ImplementationClassUID == tags.IMPLEMENTATION_UID
    assert read.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert read.file_meta.FileMetaInformationVersion == b"\0\1"


def test_a_query_identifier_reads_back() -> None:
    asked = {"StudyInstanceUID": "1.2.3", "QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": "",
             "SpecificCharacterSet": "ISO_IR 192"}
    data = tags.write_identifier(asked)
    assert len(data) % 2 == 0
    assert tags.study_tags(tags.scan(data, ImplicitVRLittleEndian, whole=True)) == {
        "StudyInstanceUID": "1.2.3", "QueryRetrieveLevel": "IMAGE"}
