import io
import json
import zlib
from typing import Any

import pytest

from broker.archive.formats import header, sdicom
from broker.archive.formats.header import Describing
from broker.archive.formats.sdicom import read_described, write_container
from broker.archive.formats.sequencefile import Damaged
from broker.model.charsets import CharacterSets
from tests.helpers.archive import MARKER, STUDY, described_study, image, packed, pread_of
from tests.helpers.dicom import ct_dataset


def picture(uid: str, **changes: Any) -> bytes:
    dataset = ct_dataset(STUDY, f"{STUDY}.1", uid, size=2)
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_an_image_has_the_attributes_of_its_study_its_series_and_its_own() -> None:
    describing = Describing(CharacterSets())
    given = {
        "1.1": ("1", {"InstanceNumber": 1, "WindowCenter": 40, "SeriesDescription": "first"}),
        "1.2": ("1", {"InstanceNumber": 2, "SeriesDescription": "first"}),
        "1.3": ("1", {"InstanceNumber": 3, "WindowCenter": 40, "SeriesDescription": "first"}),
        "2.1": ("2", {"InstanceNumber": 1, "SeriesDescription": "second"}),
    }
    for uid, (series, changes) in given.items():
        describing.add(series, uid, picture(uid, **changes))
    describing.add("2", "2.2", b"no picture")
    found = header.read(describing.written().data, 1 << 20)
    assert "00100010" not in found.study        # one image does not tell
    assert found.series[0].attributes["00100010"]["Value"] == [{"Alphabetic": "Ye^XiaoDong", "Ideographic": "葉^曉東"}]
    assert {uid: own.keys() for uid, own in found.series[0].images.items()} == {
        "1.1": {"00200013", "00281050"}, "1.2": {"00200013"}, "1.3": {"00200013", "00281050"}}
    for uid, (_, changes) in given.items():
        all_of_it = found.image(uid)
        assert all_of_it["00200013"]["Value"] == [changes["InstanceNumber"]]
        assert all_of_it["0008103E"]["Value"] == [changes["SeriesDescription"]]
        assert ("00281050" in all_of_it) == ("WindowCenter" in changes)
        assert all_of_it["00280010"]["Value"] == [2]
    assert found.image("2.2") == found.image("9") == {}


def test_text_is_read_as_the_hospital_writes_it() -> None:
    data = picture("1.2.3").replace(b"GB18030 ", b"        ")
    sink = io.BytesIO()
    write_container(sink, STUDY, [image("1.2.3", data)], {}, MARKER, sets=CharacterSets("GB18030"))
    _, found = read_described(pread_of(sink.getvalue()), len(sink.getvalue()))
    assert found is not None
    assert found.image("1.2.3")["00100010"]["Value"][0]["Ideographic"] == "葉^曉東"


def test_all_that_is_known_of_a_study_is_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data, reads = described_study(), list[tuple[int, int]]()

    def pread(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return data[offset:offset + length]

    whole = read_described(pread, len(data))
    assert len(reads) == 1
    for tail in (1, 100, 700, 1500):      # an index that is longer, a header that begins before it
        monkeypatch.setattr(sdicom, "_TAIL", max(tail, 16))
        assert read_described(pread, len(data)) == whole


def test_two_hundred_slices_are_told_in_one_read() -> None:
    images = {f"1.2.{n}": picture(f"1.2.{n}", InstanceNumber=n, ImagePositionPatient=[0, 0, n / 4]) for n in range(200)}
    data, _ = packed(images)
    reads = list[int]()

    def pread(offset: int, length: int) -> bytes:
        reads.append(length)
        return data[offset:offset + length]

    _, found = read_described(pread, len(data))
    assert found is not None
    assert len(reads) == 1
    assert found.image("1.2.199")["00200032"]["Value"] == [0, 0, 49.75]


@pytest.mark.parametrize("value", [
    [], 5, {}, {"study": {}}, {"study": [], "series": []}, {"study": {}, "series": [3]}, {"study": {"a": 1}, "series": []},
    {"study": {}, "series": [{"uid": 1, "attributes": {}, "images": {}}]},
    {"study": {}, "series": [{"uid": "1", "attributes": 1, "images": {}}]},
    {"study": {}, "series": [{"uid": "1", "attributes": {}, "images": []}]},
    {"study": {}, "series": [{"uid": "1", "attributes": {}, "images": {"1": 1}}]},
])
def test_a_header_of_another_form_is_damaged(value: object) -> None:
    with pytest.raises(Damaged):
        header.read(zlib.compress(json.dumps(value).encode()), 1000)


def test_a_header_is_not_unpacked_without_end() -> None:
    with pytest.raises(Damaged, match="too large"):
        header.read(zlib.compress(b" " * (1 << 20)), 1000)


def test_a_header_of_another_checksum_is_damaged() -> None:
    data = bytearray(described_study())
    block = read_described(pread_of(bytes(data)), len(data))[0].block
    assert block is not None
    data[block.offset + 9] ^= 1
    with pytest.raises(Damaged, match="checksum"):
        read_described(pread_of(bytes(data)), len(data))
