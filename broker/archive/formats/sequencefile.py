"""Hadoop SequenceFile version 6, uncompressed, `Text` keys and `BytesWritable` values (org.apache.hadoop.io.SequenceFile).

    header   `SEQ` 06, key class, value class, two zero bytes (uncompressed), int32 count of (Text, Text) metadata, 16-byte marker
    record   int32 record length, int32 key length, key as Text, value as int32 length + bytes
    sync     int32 -1 and the marker, before a record, so that a reader can begin in mid-file

All integers are big-endian; Text is a Hadoop variable-length integer and UTF-8. Values are streamed, never held.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from broker.files.sources import ByteSource
from broker.model.errors import TooLarge, Unavailable

TEXT = "org.apache.hadoop.io.Text"
BYTES = "org.apache.hadoop.io.BytesWritable"
MARKER_LENGTH = 16
SYNC_INTERVAL = 1 << 20
LARGEST = (1 << 31) - 1

_MAGIC = b"SEQ\x06"
_ESCAPE = b"\xff\xff\xff\xff"
_SYNC_LENGTH = 4 + MARKER_LENGTH
_HEADER_LIMIT = 1 << 16
_KEY_LIMIT = 1 << 12
_SCAN = 1 << 18

Pread = Callable[[int, int], bytes]
"""`pread(offset, length)` gives the bytes there; fewer only at the end of the file."""


class Damaged(Unavailable):
    """What is stored cannot be read as what it should be: `why`, in words. Answered like a store that is down.

    `what` is the thing: a container, unless told otherwise. Who reads it logs it.
    """

    def __init__(self, why: str, what: str = "a container") -> None:
        super().__init__(f"{what} ({why})", retry_after=3600)
        self.why = why


class Sink(Protocol):
    """Where a file is written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of `data`."""
        ...


@dataclass(frozen=True, slots=True)
class Header:
    """The head of a file; `size` is the offset of the first record."""

    key_class: str
    value_class: str
    metadata: Mapping[str, str]
    marker: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its key, and where the payload of its value lies in the file."""

    key: str
    offset: int
    size: int


def write_vint(number: int) -> bytes:
    """Write a Hadoop variable-length integer (WritableUtils.writeVLong): 1..9 bytes."""
    if -112 <= number <= 127:
        return struct.pack("b", number)
    tag = -112
    if number < 0:
        number, tag = ~number, -120
    length = (number.bit_length() + 7) // 8
    return struct.pack("b", tag - length) + number.to_bytes(length, "big")


def read_vint(data: bytes, position: int) -> tuple[int, int]:
    """Read a Hadoop variable-length integer; return it and the position behind it. Raise `Damaged` when it is cut off."""
    if position >= len(data):
        raise Damaged("cut off in a number")
    first = data[position] - 256 if data[position] > 127 else data[position]
    position += 1
    if first >= -112:
        return first, position
    length = -120 - first if first < -120 else -112 - first
    body = data[position:position + length]
    if len(body) != length:
        raise Damaged("cut off in a number")
    number = int.from_bytes(body, "big")
    return (~number if first < -120 else number), position + length


def write_text(text: str) -> bytes:
    """Write a Hadoop `Text`."""
    data = text.encode()
    return write_vint(len(data)) + data


def read_text(data: bytes, position: int) -> tuple[str, int]:
    """Read a Hadoop `Text`; return it and the position behind it."""
    length, position = read_vint(data, position)
    body = data[position:position + length] if length >= 0 else b""
    if length < 0 or len(body) != length:
        raise Damaged("cut off in a text")
    try:
        return body.decode(), position + length
    except UnicodeDecodeError as error:
        raise Damaged("a text is not UTF-8") from error


def record_length(key: str, size: int) -> int:
    """Return the length of a record with a value of `size` bytes. Raise `TooLarge` when the format cannot hold it."""
    length = len(write_text(key)) + 4 + size
    if length > LARGEST:
        raise TooLarge(f"{LARGEST} bytes in one record of a container ({key})")
    return length


class Writer:
    """Writes one file to `sink`, header first. `marker` is 16 random bytes; `position` the bytes written so far."""

    def __init__(self, sink: Sink, metadata: Mapping[str, str], marker: bytes, interval: int = SYNC_INTERVAL) -> None:
        self._sink, self._marker, self._interval = sink, marker, interval
        self.position = 0
        head = [_MAGIC, write_text(TEXT), write_text(BYTES), b"\0\0", struct.pack(">i", len(metadata))]
        head += [write_text(name) + write_text(metadata[name]) for name in sorted(metadata)]
        self._put(b"".join(head) + marker)
        self._synced = self.position

    def append(self, key: str, value: ByteSource) -> int:
        """Write one record, streaming `value`; return the offset of its first byte.

        Raise `TooLarge` before anything is written when the record does not fit the format's signed 32-bit length,
        OSError when the source gives another number of bytes than its size.
        """
        text = write_text(key)
        length = record_length(key, value.size)
        if self.position - self._synced >= self._interval:
            self._put(_ESCAPE + self._marker)
            self._synced = self.position
        self._put(struct.pack(">ii", length, len(text)) + text + struct.pack(">i", value.size))
        start = self.position
        for chunk in value.chunks():
            self._put(chunk)
        if self.position - start != value.size:
            raise OSError("a source gave another number of bytes than its size")
        return start

    def _put(self, data: bytes) -> None:
        self._sink.write(data)
        self.position += len(data)


class Reader:
    """Reads one file of `size` bytes by `pread`. Raise `Damaged` when it is not one we can read."""

    def __init__(self, pread: Pread, size: int) -> None:
        self._pread, self._size = pread, size
        self.header = read_header(pread(0, min(size, _HEADER_LIMIT)))

    def records(self, start: int = 0) -> Iterator[Record]:
        """Return the records from `start`, an offset `sync` gave (0: from the first). Raise `Damaged` at the first fault."""
        position = max(start, self.header.size)
        while position < self._size:
            head = self._pread(position, min(_SYNC_LENGTH, self._size - position))
            if head[:4] == _ESCAPE:
                if head[4:] != self.header.marker:
                    raise Damaged("a sync marker is wrong")
                position += _SYNC_LENGTH
                continue
            record = self._record(position)
            yield record
            position = record.offset + record.size

    def sync(self, start: int) -> int:
        """Return the offset of the first record behind a sync marker at or after `start`; the file's size when there is none."""
        if start <= self.header.size:
            return self.header.size
        wanted = _ESCAPE + self.header.marker
        position = start
        while position < self._size:
            data = self._pread(position, min(_SCAN, self._size - position))
            found = data.find(wanted)
            if found >= 0:
                return position + found + _SYNC_LENGTH
            if position + len(data) >= self._size or len(data) <= _SYNC_LENGTH:
                break
            position += len(data) - _SYNC_LENGTH + 1
        return self._size

    def _record(self, position: int) -> Record:
        data = self._pread(position, min(8 + _KEY_LIMIT + 4, self._size - position))
        if len(data) < 8:
            raise Damaged("cut off in a record's lengths")
        length, key_length = struct.unpack_from(">ii", data)
        if not 0 < key_length <= min(_KEY_LIMIT, length - 4):
            raise Damaged("the lengths of a record contradict each other")
        key, end = read_text(data, 8)
        if end != 8 + key_length or len(data) < end + 4:
            raise Damaged("a key has another length than its record says")
        size = struct.unpack_from(">i", data, end)[0]
        if size != length - key_length - 4:
            raise Damaged("a value has another length than its record says")
        record = Record(key, position + end + 4, size)
        if record.offset + size > self._size:
            raise Damaged("cut off in a value")
        return record


def read_header(data: bytes) -> Header:
    """Read the head of a file. Raise `Damaged` unless it is version 6, uncompressed, with Text keys and BytesWritable values."""
    if data[:len(_MAGIC)] != _MAGIC:
        raise Damaged("not a SequenceFile of version 6")
    key_class, position = read_text(data, len(_MAGIC))
    value_class, position = read_text(data, position)
    if (key_class, value_class, data[position:position + 2]) != (TEXT, BYTES, b"\0\0"):
        raise Damaged("not an uncompressed SequenceFile of Text and BytesWritable")
    position += 2
    count = int.from_bytes(data[position:position + 4], "big", signed=True)
    position += 4
    if not 0 <= count <= len(data):
        raise Damaged("the head has an impossible number of entries")
    metadata: dict[str, str] = {}
    for _ in range(count):
        name, position = read_text(data, position)
        metadata[name], position = read_text(data, position)
    marker = data[position:position + MARKER_LENGTH]
    if len(marker) != MARKER_LENGTH:
        raise Damaged("cut off in the head")
    return Header(key_class, value_class, metadata, marker, position + MARKER_LENGTH)
