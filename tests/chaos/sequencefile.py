"""A small reader of Hadoop SequenceFiles of its own: version 6, uncompressed, Text keys, BytesWritable values."""

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any


class Broken(Exception):
    """It is not what it should be."""


def records(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Return key and value of every record, in order."""
    if data[:4] != b"SEQ\x06":
        raise Broken("no SequenceFile of version 6")
    position = 4
    for name in ("org.apache.hadoop.io.Text", "org.apache.hadoop.io.BytesWritable"):
        text, position = _text(data, position)
        if text != name:
            raise Broken(f"class {text}")
    position += 2
    (count,) = struct.unpack_from(">i", data, position)
    position += 4
    for _ in range(2 * count):
        _, position = _text(data, position)
    marker = data[position:position + 16]
    position += 16
    while position < len(data):
        (length,) = struct.unpack_from(">i", data, position)
        position += 4
        if length == -1:
            if data[position:position + 16] != marker:
                raise Broken("wrong sync marker")
            position += 16
            continue
        (key_length,) = struct.unpack_from(">i", data, position)
        key, end = _text(data, position + 4)
        (size,) = struct.unpack_from(">i", data, end)
        if end - position - 4 != key_length or length != key_length + 4 + size or end + 4 + size > len(data):
            raise Broken("lengths of a record do not fit")
        yield key, data[end + 4:end + 4 + size]
        position = end + 4 + size


def container(data: bytes) -> tuple[dict[str, bytes], list[list[Any]]]:
    """Return the images of an S-DICOM container by SOP Instance UID, and the rows of its index; both checked for form."""
    found = list(records(data))
    if not found or found[0][0] != "\x01manifest" or found[-1][0] != "\x01index":
        raise Broken("no manifest in front or no index at the end")
    body = found[-1][1]
    length, crc, magic = struct.unpack(">II8s", body[-16:])
    if magic != b"SDCMIDX1" or length != len(body) - 16 or zlib.crc32(body[:-16]) != crc:
        raise Broken("its index is not whole")
    pictures = [(key, value) for key, value in found if not key.startswith("\x01")]
    images = dict(pictures)
    if len(images) != len(pictures):
        raise Broken("an image is there twice")
    rows: list[list[Any]] = json.loads(zlib.decompress(body[:-16]))["images"]
    return images, rows


def _text(data: bytes, position: int) -> tuple[str, int]:
    first = struct.unpack_from("b", data, position)[0]
    position += 1
    length = first
    if first < -112:
        size = -112 - first
        length = int.from_bytes(data[position:position + size], "big")
        position += size
    return data[position:position + length].decode(), position + length
