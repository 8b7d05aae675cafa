"""Containers and coordination: what lies on disks and comes by way of Redis."""

import json
import socket
import struct
import zlib
from pathlib import Path
from typing import Any, cast

from broker.archive.formats import header as headers
from broker.archive.formats.sdicom import check_structure, read_described, read_index, read_manifest
from broker.archive.formats.sequencefile import Damaged, Reader, read_text, read_vint
from broker.coord.local import LocalCoord
from broker.coord.redis import RedisSubscription
from tests.fuzz import harness
from tests.fuzz.harness import Target
from tests.helpers.archive import pread_of

WORDS = (
    b"SEQ\x06", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\x88\x7f\xff\xff\xff\xff\xff\xff\xff", b"\x8f\xff",
    b"SDCMIDX1", b"\x01index", b"\x01manifest", b"org.apache.hadoop.io.Text", b"\0\0\0\x01")
JSON_WORDS = (
    b"[", b"]" * 9, b"[" * 5000, b"{", b"}", b"null", b"true", b"1e999", b"NaN", b"-1", b"9" * 5000, b'"\\ud800"', b'"', b",",
    b":", b"[],")


def _file(_scratch: Path) -> harness.Reader:
    def read(data: bytes) -> str:
        pread = pread_of(data)
        problem: Damaged | None = None
        found = 0
        try:
            reader = Reader(pread, len(data))
            found = sum(1 for _ in reader.records())
            assert reader.header.size <= reader.sync(len(data) // 2) <= len(data)
            read_manifest(pread, len(data))
        except Damaged as error:
            problem = error
        index, header = read_described(pread, len(data))
        for entry in index.entries.values():
            assert 0 <= entry.offset <= entry.offset + entry.size <= len(data)
        if problem is None:
            check_structure(pread, len(data), index)
        named = sum(len(series.images) for series in header.series) if header else 0
        return f"{found} records {len(index.entries)} images {named} described {problem is None}"
    return read


def _records(_scratch: Path) -> harness.Reader:
    """SequenceFiles without our index, other programs' ones too; the pieces they are made of."""
    def read(data: bytes) -> str:
        for part in (read_vint, read_text):
            try:
                part(data, 4)
            except Damaged:
                continue
        reader = Reader(pread_of(data), len(data))
        records = list(reader.records())
        if any(reader.header.marker in data[record.offset:record.offset + record.size] for record in records):
            return "a marker inside a value"        # 16 random bytes: to begin there is nobody's fault
        rest = list(reader.records(reader.sync(len(data) // 3)))
        assert rest == records[len(records) - len(rest):], "a reader that begins in mid-file sees something else"
        return f"{len(records)} records"
    return read


def _index(_scratch: Path) -> harness.Reader:
    """The JSON inside the index, whose checksum is right here."""
    def read(data: bytes) -> str:
        body = zlib.compress(data, 1)
        container = bytes(4096) + body + struct.pack(">II8s", len(body), zlib.crc32(body), b"SDCMIDX1")
        index = read_index(pread_of(container), len(container))
        return f"{len(list(index.entries.values()))} images"
    return read


def _header(_scratch: Path) -> harness.Reader:
    """The JSON inside the header."""
    def read(data: bytes) -> str:
        found = headers.read(zlib.compress(data, 1), 4096)
        images = [sop_uid for series in found.series for sop_uid in series.images]
        return f"{len(images)} images {sum(len(found.image(sop_uid)) for sop_uid in images[:3])} attributes"
    return read


class _PubSub:
    """Redis' side of a subscription: gives one message."""

    def __init__(self) -> None:
        self.message: dict[str, bytes] | None = None

    def subscribe(self, *_channels: str) -> None:
        """Confirmed by what `get_message` gives first."""
        self.message = {"channel": b"c", "data": b"{}"}

    def get_message(self, **_options: Any) -> dict[str, bytes] | None:
        return self.message

    def close(self) -> None:
        """Nothing is held."""


class _Redis:
    def __init__(self) -> None:
        self.heard = _PubSub()

    def pubsub(self) -> _PubSub:
        return self.heard


def _coord(scratch: Path) -> harness.Reader:
    """An announcement as another process sends it, on both ways; the input is its JSON."""
    coord = LocalCoord(scratch)
    listener = coord.subscribe("landed", "fetch")
    name = next(iter((scratch / "coord").iterdir()))
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    redis = _Redis()
    far = RedisSubscription(cast("Any", redis), "b:", ("landed",))

    def read(data: bytes) -> str:
        out.sendto(data[:50_000], str(name))
        near = listener.get(0)
        redis.heard.message = {"channel": b"b:landed", "data": data}
        told = far.get(0)
        for announcement in (near, told):
            assert announcement is None or json.dumps(announcement)
        return f"{near is not None} {told is not None}"
    return read


TARGETS = (
    Target(name="container", make=_file, golden=("container",), words=WORDS, slope=2e-5),
    Target(name="sequencefile", make=_records, golden=("container", "sequencefile"), words=WORDS, slope=5e-5),
    Target(name="index", make=_index, golden=("index",), words=JSON_WORDS),
    Target(name="header", make=_header, golden=("header",), words=JSON_WORDS),
    Target(name="coord", make=_coord, golden=("coord",), words=JSON_WORDS, longest=50_000),
)
