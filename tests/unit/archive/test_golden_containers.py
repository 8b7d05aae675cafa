"""Containers as they lie in archives: every version that was ever written is read, whatever is written today."""

import hashlib
from pathlib import Path

from broker.archive.formats.sdicom import check_structure, read_described, read_index, read_manifest
from tests.helpers.archive import MANIFEST, STUDY, pread_of

GOLDEN = Path(__file__).parents[2] / "golden/container"


def test_version_1() -> None:
    data = (GOLDEN / "study-1.seq").read_bytes()
    index, header = read_described(pread_of(data), len(data))
    assert header is None
    assert index.manifest == {}
    assert index.study_uid == STUDY
    assert {uid: data[entry.offset:entry.offset + entry.size] for uid, entry in index.entries.items()} == {
        f"1.2.3.{n}": bytes([n]) * 50 for n in range(3)}
    assert read_manifest(pread_of(data), len(data)) == {"hospital": "a"}
    check_structure(pread_of(data), len(data), index)


def test_version_2() -> None:
    data = (GOLDEN / "study-2.seq").read_bytes()
    index, header = read_described(pread_of(data), len(data))
    assert header is not None
    assert index.manifest == read_manifest(pread_of(data), len(data)) == MANIFEST
    for entry in index.entries.values():
        assert hashlib.sha256(data[entry.offset:entry.offset + entry.size]).hexdigest() == entry.sha256
    assert list(index.entries) == [f"{STUDY}.1.1", f"{STUDY}.1.2", f"{STUDY}.2.1"]
    assert header.study["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Ye^XiaoDong", "Ideographic": "葉^曉東"}]}
    assert [series.attributes["00200011"]["Value"] for series in header.series] == [[1], [2]]
    assert header.series[0].images[f"{STUDY}.1.2"] == {
        "00200013": {"vr": "IS", "Value": [2]}, "00200032": {"vr": "DS", "Value": [0, -1.5, 4.5]}}
    assert header.image(f"{STUDY}.2.1")["00280010"] == {"vr": "US", "Value": [2]}
    check_structure(pread_of(data), len(data), index)


def test_empty_studies() -> None:
    for name in ("empty-1.seq", "empty-2.seq"):
        data = (GOLDEN / name).read_bytes()
        index = read_index(pread_of(data), len(data))
        assert not index.entries
        check_structure(pread_of(data), len(data), index)
