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


@pytest.mark.parametrize(("text", "short"), [
    ("", ""), ("2024", "2024"), ("20240101000000", "2024"), ("202401", "2024"), ("20240501", "202405"),
    ("2024050600", "20240506"), ("202405060700", "2024050607"), ("20240506070800", "202405060708"),
    ("20240506070809", "20240506070809"), ("20241001", "202410"), ("20240110", "20240110"), ("20240506000001", "20240506000001"),
])
def test_the_shortest_time_begins_at_the_same_second(text: str, short: str) -> None:
    assert form.shorten_dtm(text) == short
    assert form.pad_dtm(short) == form.pad_dtm(text)


MOMENTS = ("20231231235959", "20240101000000", "20240506000000", "20240506070809", "20241010101010")
PARTIAL = sorted({moment[:length] for moment in MOMENTS for length in (4, 6, 8, 10, 12, 14)})


@pytest.mark.parametrize("bound", PARTIAL)
def test_a_time_begins_before_a_bound_when_its_text_sorts_before_the_shortest(bound: str) -> None:
    for time in PARTIAL:
        assert (time < form.shorten_dtm(bound)) is (form.pad_dtm(time) < form.pad_dtm(bound)), time


@pytest.mark.parametrize("one", PARTIAL)
def test_later_is_what_is_later_whatever_is_left_out(one: str) -> None:
    for other in PARTIAL:
        last = other + "9" * (14 - len(other))      # no digit of a time is larger
        assert form.is_later(one, other) is (form.pad_dtm(one) > last), other
