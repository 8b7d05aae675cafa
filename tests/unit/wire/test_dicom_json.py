import importlib
import io
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from broker.model.charsets import CharacterSets
from broker.wire import tags
from broker.wire.dicom_json import ATTRIBUTES, HEAD, describe
from tests.corpus.files import PACKAGES
from tests.helpers.dicom import ct_dataset

# not by pydicom's own list, which begins to download what is not installed
FILES = sorted(file for name in PACKAGES.values() for place in importlib.import_module(name).__path__
               for file in Path(place).rglob("*.dcm"))


def part10(**changes: Any) -> bytes:
    dataset = ct_dataset("1.2.3", "1.2.3.1", "1.2.3.1.1", size=2, charset=changes.pop("charset", "GB18030"))
    syntax = changes.pop("syntax", None)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    if syntax:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_attributes_are_those_of_the_json_model(syntax: str | None) -> None:
    found = describe(part10(
        syntax=syntax, ImagePositionPatient=[0, -1.5, "2.250"], InstanceNumber=7, ImageType=["ORIGINAL", "PRIMARY"],
        PatientComments="not asked for", FrameIncrementPointer=0x00181063))
    assert found["00200032"] == {"vr": "DS", "Value": [0, -1.5, 2.25]}
    assert found["00200013"] == {"vr": "IS", "Value": [7]}
    assert found["00080008"] == {"vr": "CS", "Value": ["ORIGINAL", "PRIMARY"]}
    assert found["00280010"] == {"vr": "US", "Value": [2]}
    assert found["00280009"] == {"vr": "AT", "Value": ["00181063"]}
    assert found["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Ye^XiaoDong", "Ideographic": "葉^曉東"}]}
    assert found.keys() <= {f"{tag:08X}" for tag in ATTRIBUTES}


def test_text_without_a_label_is_read_as_its_hospital_writes_it() -> None:
    head = part10(charset="GB18030").replace(b"GB18030 ", b"        ")
    assert describe(head, CharacterSets("GB18030"))["00100010"]["Value"][0]["Ideographic"] == "葉^曉東"


@pytest.mark.parametrize(("raw", "value"), [
    ("0.50", 0.5), ("1e400", "1e400"), ("nan", "nan"), ("12 mm", "12 mm"), ("9" * 20, "9" * 20), ("-3", -3), ("", None)])
def test_what_is_no_number_stays_text(raw: str, value: object) -> None:
    center = struct.pack("<HH2sH", 0x0028, 0x1050, b"DS", len(raw)) + raw.encode()
    head = tags.part10_header("1.2", "1.2.3", "1.2.840.10008.1.2.1") + center
    assert describe(head) == {"00281050": {"vr": "DS", **({"Value": [value]} if value is not None else {})}}


def test_what_cannot_be_read_is_left_out() -> None:
    whole = part10(ImageType=["X" * 16] * 100, SeriesDescription="last")
    assert "00080008" not in describe(whole)
    assert describe(whole)["0008103E"] == {"vr": "LO", "Value": ["last"]}
    assert describe(b"") == describe(bytes(1000)) == {}
    for cut in range(0, len(whole), 50):
        assert describe(whole[:cut]).items() <= describe(whole).items()


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_pydicom_says_the_same(file: Path) -> None:
    head = file.read_bytes()[:HEAD]
    found = describe(head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
            theirs = json.loads(dataset.to_json())
    except Exception:  # noqa: BLE001 - what pydicom cannot read is no measure
        pytest.skip("pydicom does not read it")
    for tag, attribute in found.items():
        if tag in theirs and theirs[tag]["vr"] == attribute["vr"]:
            assert plain(attribute.get("Value", [])) == plain(theirs[tag].get("Value", [])), tag


def plain(values: list[Any]) -> list[Any]:
    """Values as they compare: numbers as numbers, text without padding, what is empty left out."""
    def one(value: Any) -> Any:
        if isinstance(value, dict):
            return {group: text.strip() for group, text in value.items() if text.strip()}
        try:
            return float(value)
        except (TypeError, ValueError):
            return value.strip() if isinstance(value, str) else value
    return [one(value) for value in values if value not in {None, ""}] if not any(
        isinstance(value, dict) for value in values) else [one(value) for value in values]
