import contextlib
import hashlib
import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.archive.formats.sdicom import read_index, read_manifest
from broker.archive.formats.sequencefile import Damaged, Reader, Record, Writer, read_text, read_vint, write_text, write_vint
from broker.files.sources import Octets
from tests.helpers.archive import MARKER, packed, pread_of

EXAMPLES = settings(derandomize=True, max_examples=150, deadline=None)
RECORDS = st.lists(st.tuples(st.text(max_size=40), st.binary(max_size=300)), max_size=12)

# From Hadoop's WritableUtils.writeVLong
VINTS = [
    (0, "00"), (1, "01"), (127, "7f"), (-1, "ff"), (-112, "90"), (-113, "8770"), (128, "8f80"), (255, "8fff"), (256, "8e0100"),
    (65535, "8effff"), (65536, "8d010000"), (2**31 - 1, "8c7fffffff"), (-(2**31), "847fffffff"), (2**31, "8c80000000"),
    (2**63 - 1, "887fffffffffffffff"), (-(2**63), "807fffffffffffffff"), (-256, "87ff"), (-257, "860100"),
]


def write(records: list[tuple[str, bytes]], interval: int = 64, metadata: dict[str, str] | None = None) -> bytes:
    sink = io.BytesIO()
    writer = Writer(sink, metadata or {"b": "二", "a": "1"}, MARKER, interval)
    for key, value in records:
        offset = writer.append(key, Octets(value))
        assert sink.getvalue()[offset:offset + len(value)] == value
    assert writer.position == len(sink.getvalue())
    return sink.getvalue()


def read(data: bytes, start: int = 0) -> list[tuple[str, bytes]]:
    return [(r.key, data[r.offset:r.offset + r.size]) for r in Reader(pread_of(data), len(data)).records(start)]


@pytest.mark.parametrize(("number", "written"), VINTS)
def test_variable_length_integers_are_those_of_hadoop(number: int, written: str) -> None:
    assert write_vint(number).hex() == written
    assert read_vint(bytes.fromhex(written) + b"\x55", 0) == (number, len(written) // 2)
    for cut in range(len(written) // 2):
        with pytest.raises(Damaged):
            read_vint(bytes.fromhex(written)[:cut], 0)


@EXAMPLES
@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_comes_back(number: int) -> None:
    assert read_vint(write_vint(number), 0) == (number, len(write_vint(number)))


@EXAMPLES
@given(st.text(max_size=300))
def test_every_text_comes_back(text: str) -> None:
    assert read_text(b"x" + write_text(text), 1) == (text, 1 + len(write_text(text)))


@EXAMPLES
@given(RECORDS, st.integers(0, 600))
def test_what_is_written_is_read(records: list[tuple[str, bytes]], interval: int) -> None:
    data = write(records, interval)
    assert read(data) == records
    header = Reader(pread_of(data), len(data)).header
    assert header.metadata == {"a": "1", "b": "二"}
    assert header.marker == MARKER


@EXAMPLES
@given(RECORDS, st.integers(0, 4000))
def test_reading_may_begin_at_any_sync_marker(records: list[tuple[str, bytes]], start: int) -> None:
    data = write(records)
    reader = Reader(pread_of(data), len(data))
    everything = list(reader.records())
    position = reader.sync(start)
    assert position >= min(start, len(data))
    rest: list[Record] = list(reader.records(position))
    assert rest == everything[len(everything) - len(rest):]


@EXAMPLES
@given(RECORDS, st.integers(1, 8))
def test_splits_see_every_record_once(records: list[tuple[str, bytes]], parts: int) -> None:
    data = write(records, interval=0)
    reader = Reader(pread_of(data), len(data))
    bounds = [reader.sync(len(data) * n // parts) for n in range(parts)] + [len(data)]
    seen = [r for begin, end in itertools.pairwise(bounds) for r in reader.records(begin) if begin < r.offset <= end]
    assert seen == list(reader.records())


@EXAMPLES
@given(RECORDS.filter(bool), st.data())
def test_a_file_cut_off_gives_whole_records_or_says_so(records: list[tuple[str, bytes]], draw: st.DataObject) -> None:
    data = write(records)
    cut = draw.draw(st.integers(0, len(data) - 1))
    found: list[tuple[str, bytes]] = []
    with contextlib.suppress(Damaged):
        found.extend((r.key, data[r.offset:r.offset + r.size]) for r in Reader(pread_of(data[:cut]), cut).records())
    assert found == records[:len(found)]


@EXAMPLES
@given(st.binary(max_size=400))
def test_any_bytes_are_records_or_damaged(noise: bytes) -> None:
    for data in (noise, write([("k", b"v")])[:-3] + noise, write([]) + noise):
        with contextlib.suppress(Damaged):
            read(data)
        with contextlib.suppress(Damaged):
            read_index(pread_of(data), len(data))
        with contextlib.suppress(Damaged):
            read_manifest(pread_of(data), len(data))


def test_a_flipped_byte_in_lengths_and_markers_is_seen() -> None:
    value, records = b"v" * 40, [(f"key{n}", b"v" * 40) for n in range(4)]
    data = write(records, interval=0)
    for position in range(len(write([], metadata={"b": "二", "a": "1"})), len(data)):
        if data[position:position + 1] == b"v":
            continue        # the value itself: protected by the container's hashes
        flipped = bytearray(data)
        flipped[position] ^= 0x04
        with contextlib.suppress(Damaged):
            found = read(bytes(flipped))
            # only the letters of a key may differ unseen
            assert [v for _, v in found] == [value] * 4
            assert sum(a != b for a, b in zip(found, records, strict=True)) == 1


CONTAINER, WRITTEN = packed({f"1.2.3.{n}": bytes([n]) * 50 for n in range(3)})


def test_a_container_cut_off_anywhere_has_no_index() -> None:
    for cut in range(len(CONTAINER)):
        with pytest.raises(Damaged):
            read_index(pread_of(CONTAINER[:cut]), cut)


def test_a_flipped_byte_of_the_index_is_seen() -> None:
    start = CONTAINER.rfind(b"\x01index") + len("\x01index") + 4
    for position in range(start, len(CONTAINER)):
        flipped = bytearray(CONTAINER)
        flipped[position] ^= 0x20
        with pytest.raises(Damaged):
            read_index(pread_of(bytes(flipped)), len(flipped))


@EXAMPLES
@given(st.dictionaries(st.from_regex(r"[12](\.[1-9][0-9]{0,5}){2,6}", fullmatch=True), st.binary(max_size=2000), max_size=8))
def test_every_image_is_two_range_reads_away(images: dict[str, bytes]) -> None:
    data, written = packed(images)
    assert hashlib.sha256(data).hexdigest() == written.sha256
    assert len(data) == written.size
    index = read_index(pread_of(data), len(data))
    assert index == written.index
    assert {uid: data[e.offset:e.offset + e.size] for uid, e in index.entries.items()} == images
