import io
import json
import tracemalloc
import zlib
from typing import Any

import pytest

from broker.archive.formats import sdicom
from broker.archive.formats.sdicom import PackImage, check_structure, read_index, read_manifest, write_container
from broker.archive.formats.sequencefile import Damaged, Reader, Writer
from broker.files.sources import Octets
from broker.model.errors import TooLarge
from tests.helpers.archive import MARKER, STUDY, Zeros, image, packed, pread_of


def test_a_container_is_manifest_images_and_index() -> None:
    images = {f"1.2.{n}": f"image {n}".encode() for n in range(3)}
    data, written = packed(images)
    reader = Reader(pread_of(data), len(data))
    assert reader.header.metadata == {"sdicom.version": "2", "study.uid": STUDY}
    assert [record.key for record in reader.records()] == ["\x01manifest", *images, "\x01header", "\x01index"]
    assert data.endswith(b"SDCMIDX1")
    assert read_manifest(pread_of(data), len(data)) == {"hospital": "a"}
    assert written.index.study_uid == STUDY
    check_structure(pread_of(data), len(data), written.index)


def test_images_are_in_order_of_series_number_and_uid() -> None:
    given = [image("1.2.9", b"a", 2), image("1.2.1", b"b", 10), image("1.2.5", b"c", 2), image("1.2.7", b"d", 1, "1.1")]
    sink = io.BytesIO()
    told: list[tuple[int, int]] = []
    written = write_container(sink, STUDY, given, {}, MARKER, lambda done, total: told.append((done, total)))
    assert list(written.index.entries) == ["1.2.7", "1.2.5", "1.2.9", "1.2.1"]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_tail_read_gives_the_index_two_when_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    data, written = packed({f"1.2.{n}": b"x" for n in range(100)})
    reads: list[int] = []

    def pread(offset: int, length: int) -> bytes:
        reads.append(length)
        return data[offset:offset + length]

    assert read_index(pread, len(data)) == written.index
    assert len(reads) == 1
    monkeypatch.setattr(sdicom, "_TAIL", 100)
    assert read_index(pread, len(data)) == written.index
    assert len(reads) == 3


def test_an_image_beyond_two_gigabytes_is_named_before_anything_is_written() -> None:
    huge = Zeros((1 << 31) - 10)
    sink = io.BytesIO()
    one = PackImage(sop_uid="1.2.3.4", series_uid="1", sop_class="1", transfer_syntax="1", sha256="", source=huge)
    with pytest.raises(TooLarge, match=r"1\.2\.3\.4"):
        write_container(sink, STUDY, [image("1.2.1", b"a"), one], {}, MARKER)
    assert sink.getvalue() == b""


def test_bytes_that_are_not_those_of_ingest_are_not_packed() -> None:
    good = image("1.2.1", b"as received")
    bad = PackImage(sop_uid="1.2.1", series_uid="1", sop_class="1", transfer_syntax="1", sha256=good.sha256,
                    source=Octets(b"as received?"))
    with pytest.raises(Damaged, match=r"1\.2\.1"):
        write_container(io.BytesIO(), STUDY, [bad], {}, MARKER)


def test_a_source_of_another_size_is_an_error() -> None:
    class Short:
        size = 5

        def chunks(self, length: int = 0) -> Any:
            yield b"four"

    with pytest.raises(OSError, match="another number of bytes"):
        Writer(io.BytesIO(), {}, MARKER).append("k", Short())


ROW = ["1.2.1", "1.2", "1.2", "1.2", 100, 5, "a" * 64]
BLOCKS: list[Any] = [[], {}, [1, 2], [1, 2, 3, 4], [-1, 2, 3], [1, 10**9, 3], [1, 2.0, 3], [True, 1, 1], ["1", 1, 1]]
FORMS: list[Any] = [
    [], {}, 5, {"study": "1.2"}, {"study": "x", "images": []}, {"study": None, "images": []}, {"study": "1.2", "images": {}},
    *({"study": "1.2", "images": [row]} for row in (
        [], 3, ROW[:6], [*ROW, 1], ["../x", *ROW[1:]], ["1.2.\ud800", *ROW[1:]], [1, *ROW[1:]], [ROW[0], None, *ROW[2:]],
        [*ROW[:4], -1, *ROW[5:]], [*ROW[:4], 10**9, *ROW[5:]], [*ROW[:4], 1.0, *ROW[5:]], [*ROW[:4], True, *ROW[5:]],
        [*ROW[:5], -1, ROW[6]], [*ROW[:5], 10**9, ROW[6]], [*ROW[:6], "A" * 64], [*ROW[:6], "a"], [*ROW[:6], None])),
    {"study": "1.2", "images": [ROW, ROW]}, {"study": "1.2", "images": [], "manifest": []},
    *({"study": "1.2", "images": [], "header": block} for block in BLOCKS),
]


def with_index(body: bytes) -> bytes:
    return bytes(1000) + body + sdicom._TRAILER.pack(len(body), zlib.crc32(body), b"SDCMIDX1")


@pytest.mark.parametrize("value", FORMS)
def test_an_index_of_another_form_is_damaged(value: Any) -> None:
    data = with_index(zlib.compress(json.dumps(value).encode()))
    with pytest.raises(Damaged):
        list(read_index(pread_of(data), len(data)).entries.values())


def test_an_impossible_entry_spoils_no_other() -> None:
    data = with_index(zlib.compress(json.dumps({"study": "1.2", "images": [ROW, ["1.2.2", *ROW[1:4], -1, 5, ROW[6]]]}).encode()))
    entries = read_index(pread_of(data), len(data)).entries
    assert entries["1.2.1"].offset == 100
    with pytest.raises(Damaged, match="impossible"):
        entries.get("1.2.2")


@pytest.mark.parametrize("body", [b"", b"not zlib", zlib.compress(b"{"), zlib.compress(b"\xff"), zlib.compress(b"[" * 100000)])
def test_an_index_that_cannot_be_unpacked_is_damaged(body: bytes) -> None:
    with pytest.raises(Damaged):
        read_index(pread_of(with_index(body)), len(with_index(body)))


def test_an_index_of_many_empty_lists_is_not_read() -> None:
    """A list takes 56 bytes of memory for two in the file: what is small packed would fill it."""
    text = b'{"study":"1.2","images":[' + b",".join([b"[]"] * 1_000_000) + b"]}"
    data = bytes(len(text)) + with_index(zlib.compress(text))
    tracemalloc.start()
    with pytest.raises(Damaged, match="holds more than its size tells"):
        read_index(pread_of(data), len(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(text)


def test_an_index_is_not_unpacked_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdicom, "_INDEX_LIMIT", 1000)
    data = with_index(zlib.compress(b" " * 100000))
    with pytest.raises(Damaged, match="too large"):
        read_index(pread_of(data), len(data))


@pytest.mark.parametrize("manifest", [b"{", b"[]", b"\xff", b"[" * 100000])
def test_a_manifest_that_is_none_is_damaged(manifest: bytes) -> None:
    sink = io.BytesIO()
    Writer(sink, {}, MARKER).append("\x01manifest", Octets(manifest))
    with pytest.raises(Damaged):
        read_manifest(pread_of(sink.getvalue()), len(sink.getvalue()))


def test_a_container_without_manifest_is_damaged() -> None:
    sink = io.BytesIO()
    Writer(sink, {}, MARKER).append("1.2.3", Octets(b"x"))
    for data in (sink.getvalue(), sink.getvalue()[:-12]):
        with pytest.raises(Damaged):
            read_manifest(pread_of(data), len(data))


def test_records_that_are_not_those_of_the_index_are_seen() -> None:
    data, written = packed({"1.2.1": b"one", "1.2.2": b"two"})
    other = data.replace(b"1.2.2", b"1.2.3", 1)
    with pytest.raises(Damaged, match="differ"):
        check_structure(pread_of(other), len(other), written.index)
    other = data.replace(STUDY.encode(), b"9" * len(STUDY), 1)
    with pytest.raises(Damaged, match="different studies"):
        check_structure(pread_of(other), len(other), written.index)
