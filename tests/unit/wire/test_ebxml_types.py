"""Forms of attribute values."""

from collections.abc import Callable

import pytest

from broker.wire import ebxml_types as form

CASES: dict[Callable[[str], bool], tuple[list[str], list[str]]] = {
    form.is_dtm: (
        ["2024", "202401", "20240131", "2024013123", "202401312359", "20240131235959"],
        ["", "24", "20241", "202413", "20240100", "20240132", "2024013124", "20240131236060", "20240131T10", "2024+08", "٢٠٢٤"]),
    form.is_sha1: (["a" * 40, "A" * 40], ["", "a" * 39, "g" * 40]),
    form.is_size: (["0", "2842"], ["", "-1", "1.5", "1" * 19, "٣"]),
    form.is_language: (["zh-CN", "en", "zh-Hans-CN"], ["", "zh_CN", "-"]),
    form.is_mime_type: (["application/dicom", 'text/plain; charset="utf-8"'], ["", "dicom", "a/", "a/b c"]),
    form.is_document_id: (["2.999.1", "1.2^ext", "urn:uuid:x"], ["", "a b", "号", "x" * 257]),
    form.is_cx: (
        ["W-1^^^&2.999.1&ISO", "W\\T\\1^^^&2.999.1&ISO", "张^^^&2.999.1&ISO"],
        ["", "W-1", "W^^^NS&2.999.1&ISO", "W^^^&x&ISO"]),
    form.is_cxi: (
        ["1.2^^^^urn:ihe:iti:xds:2016:studyInstanceUID",
         "A^^^&2.999.2&ISO^urn:x", "A^^^NS^t", "A^^^NS&2.999.2&ISO^t^urn:oid:1.2"],
        ["", "A", "A^^^&2.999.2&ISO", "A^x^^^t", "A^^^&bad&ISO^t", "^^^^t"]),
    form.is_xcn: (["^李^明", "123", "D1^^^^^^^^&2.999&ISO"], ["", "^^明"]),
    form.is_xon: (["第一人民医院", "H^^^^^^^^^2.999.2", "H^^^^^&2.999.2&ISO^^^^7"], ["", "^^^^^^^^^2.999.2", "H^^^^^&x&ISO"]),
    form.is_recipient: (["H", "|^李", "||^^Internet^a@b", "H|^L|t"], ["", "||", "a|b|c|d"]),
    form.is_patient_field: (["PID-3|x", "PID-11|"], ["", "PID-5", "5|x"]),
}


@pytest.mark.parametrize(("good", "text", "expected"), [
    pytest.param(good, text, expected, id=f"{good.__name__}-{text[:24]!r}")
    for good, (fine, bad) in CASES.items() for expected, texts in ((True, fine), (False, bad)) for text in texts
])
def test_forms(good: Callable[[str], bool], text: str, expected: bool) -> None:
    assert good(text) is expected


@pytest.mark.parametrize(("text", "padded"), [
    ("", ""), ("2024", "20240101000000"), ("202405", "20240501000000"), ("2024050607", "20240506070000"),
    ("20240506070809", "20240506070809"),
])
def test_times_are_padded_with_lowest_values(text: str, padded: str) -> None:
    assert form.pad_dtm(text) == padded
