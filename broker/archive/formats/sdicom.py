"""S-DICOM: all images of one study in one SequenceFile, with a leading manifest and a trailing index.

    metadata          sdicom.version, study.uid
    `\\x01manifest`    JSON: what SQL knew of the study
    SOP Instance UID  the original Part-10 bytes, one record per image, by series, instance number, SOP Instance UID
    `\\x01header`      from version 2: the attributes of study, series and images, see `formats/header`
    `\\x01index`       zlib JSON {"study": uid, "images": [[sop, series, class, syntax, offset, size, sha256], ...]},
                      from version 2 with "manifest": the manifest again, and "header": [offset, size, crc32];
                      then its length and CRC-32 (uint32, big-endian each) and `SDCMIDX1`, the last bytes of the file

The file is a legal SequenceFile for any Hadoop program, one image is two range reads for us, and all that is known of a study
one. docs/archive.md says it for those who have nothing but the file.
"""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.archive.formats import header
from broker.archive.formats.header import Describing, Header
from broker.archive.formats.sequencefile import Damaged, Pread, Reader, Sink, Writer, record_length
from broker.files.digests import Digests
from broker.files.sources import CHUNK, ByteSource, Octets
from broker.model.charsets import NO_SETS, CharacterSets
from broker.model.ids import is_uid
from broker.wire.dicom_json import HEAD

VERSION = "2"
MANIFEST = "\x01manifest"
HEADER = "\x01header"
INDEX = "\x01index"

_MAGIC = b"SDCMIDX1"
_TRAILER = struct.Struct(">II8s")
_TAIL = 1 << 16
_MANIFEST_LIMIT = 1 << 24
_INDEX_LIMIT = 1 << 26      # bytes unpacked: 250 000 images
_INDEX_SHARE = 16           # times the container: an image takes less room in the index than that, however small it is
_INDEX_SPARSE = 32          # bytes of an index for each list or object in it, at least: a row has four times as many
_ROW = [str, str, str, str, int, int, str]
_DIGEST = re.compile("[0-9a-f]{64}")

Progress = Callable[[int, int], None]
"""`progress(done, total)` in images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackImage:
    """One image to pack; `sha256` as written at ingest, `number` its Instance Number (0 when it has none)."""

    sop_uid: str
    series_uid: str
    sop_class: str
    transfer_syntax: str
    sha256: str
    source: ByteSource
    number: int = 0


class Entry(NamedTuple):
    """One image of a container: where its Part-10 bytes lie, and their SHA-256 (hex). A row of the index as it is stored."""

    sop_uid: str
    series_uid: str
    sop_class: str
    transfer_syntax: str
    offset: int
    size: int
    sha256: str


class Block(NamedTuple):
    """Where the header of a container lies, and its CRC-32."""

    offset: int
    size: int
    crc32: int


class _Rows(Mapping[str, Entry]):
    """Rows of an index as they were read; each is checked when it is asked for: a container of thousands is opened for one."""

    def __init__(self, rows: dict[str, Any], size: int) -> None:
        self._rows, self._size = rows, size

    def __getitem__(self, sop_uid: str) -> Entry:
        return _entry(self._rows[sop_uid], self._size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True, slots=True)
class ContainerIndex:
    """What a container holds: its entries by SOP Instance UID, in file order.

    `manifest` is what SQL knew of the study, `block` where the header lies; version 1 has neither in its index.
    """

    study_uid: str
    entries: Mapping[str, Entry]
    manifest: dict[str, Any] = field(default_factory=dict)
    block: "Block | None" = None


@dataclass(frozen=True, slots=True)
class Written:
    """A container as it was written: its bytes, their SHA-256 (hex) and its index."""

    size: int
    sha256: str
    index: ContainerIndex


class _HashedSink:
    def __init__(self, sink: Sink, digests: Digests) -> None:
        self._sink, self._digests, self.digest = sink, digests, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._digests.update(self.digest, data)
        self._sink.write(data)


class _HashedSource:
    """A source that is hashed while it is read; to be read once. `head` are its first bytes."""

    def __init__(self, source: ByteSource, digests: Digests) -> None:
        self._source, self._digests, self.digest = source, digests, hashlib.sha256()
        self.size, self.head = source.size, b""

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        for chunk in self._source.chunks(length):
            self._digests.update(self.digest, chunk)
            if len(self.head) < HEAD:
                self.head += chunk[:HEAD - len(self.head)]
            yield chunk


def write_container(  # noqa: PLR0913, PLR0917 - what is written where, and how the images are read
    sink: Sink,
    study_uid: str,
    images: Iterable[PackImage],
    manifest: Mapping[str, Any],
    marker: bytes,
    progress: Progress | None = None,
    sets: CharacterSets = NO_SETS,
) -> Written:
    """Write a container to `sink`, streaming every image. `marker` is 16 random bytes.

    `sets` says how text of the images is read for the header. Raise `TooLarge`, before anything is written, for an image
    beyond the format's 2 GB; `Damaged` when the bytes of an image are not those of its ingest any more; OSError from
    sources and sink.
    """
    ordered = sorted(images, key=lambda image: (image.series_uid, image.number, image.sop_uid))
    for image in ordered:
        record_length(image.sop_uid, image.source.size)
    digests: list[hashlib._Hash] = []
    entries: dict[str, Entry] = {}
    describing = Describing(sets)
    with Digests() as whole, Digests() as each:
        hashed = _HashedSink(sink, whole)
        writer = Writer(hashed, {"sdicom.version": VERSION, "study.uid": study_uid}, marker)
        writer.append(MANIFEST, Octets(json.dumps(dict(manifest), ensure_ascii=False).encode("utf-8", "backslashreplace")))
        for done, image in enumerate(ordered, 1):
            source = _HashedSource(image.source, each)
            digests.append(source.digest)
            entries[image.sop_uid] = Entry(image.sop_uid, image.series_uid, image.sop_class, image.transfer_syntax,
                                           writer.append(image.sop_uid, source), source.size, image.sha256)
            describing.add(image.series_uid, image.sop_uid, source.head)
            if progress:
                progress(done, len(ordered))
        about = describing.written()
        block = Block(writer.append(HEADER, about), about.size, zlib.crc32(about.data))
        index = ContainerIndex(study_uid, entries, dict(manifest), block)
        writer.append(INDEX, Octets(_write_index(index)))
    for image, digest in zip(ordered, digests, strict=True):
        if digest.hexdigest() != image.sha256:
            raise Damaged(f"the stored bytes of {image.sop_uid} are not those that were received")
    return Written(writer.position, hashed.digest.hexdigest(), index)


def read_index(pread: Pread, size: int) -> ContainerIndex:
    """Read the index at the end of a container of `size` bytes: one range read, two when it is longer than 64 KB.

    Raise `Damaged` when there is none, or when it is not whole; an entry that is impossible is `Damaged` when it is asked for.
    """
    tail = pread(max(0, size - _TAIL), min(_TAIL, size))
    if len(tail) < _TRAILER.size:
        raise Damaged("too short for an index")
    length, crc, magic = _TRAILER.unpack(tail[-_TRAILER.size:])
    if magic != _MAGIC or length + _TRAILER.size > size:
        raise Damaged("it does not end with an index")
    if length + _TRAILER.size > len(tail):
        tail = pread(size - length - _TRAILER.size, length + _TRAILER.size)
    body = tail[-_TRAILER.size - length:-_TRAILER.size]
    if len(body) != length or zlib.crc32(body) != crc:
        raise Damaged("its index has another checksum")
    return _parse_index(header.unpack(body, min(_INDEX_LIMIT, 4096 + _INDEX_SHARE * size), "index", _INDEX_SPARSE), size)


def read_described(pread: Pread, size: int) -> tuple[ContainerIndex, Header | None]:
    """Read index and header: one range read, as long as both lie in the last 64 KB. Version 1 has no header."""
    near = _Near(pread, size)
    index = read_index(near.pread, size)
    if index.block is None:
        return index, None
    body = near.pread(index.block.offset, index.block.size)
    if len(body) != index.block.size or zlib.crc32(body) != index.block.crc32:
        raise Damaged("its header has another checksum")
    return index, header.read(body, size)


class _Near:
    """Range reads of a file of which the last bytes are kept."""

    def __init__(self, pread: Pread, size: int) -> None:
        self._pread, self._from = pread, max(0, size - _TAIL)
        self._tail = pread(self._from, size - self._from)

    def pread(self, offset: int, length: int) -> bytes:
        if offset < self._from:
            return self._pread(offset, length)
        return self._tail[offset - self._from:offset - self._from + length]


def read_manifest(pread: Pread, size: int) -> dict[str, Any]:
    """Read the manifest, the first record of a container. Raise `Damaged` when it is not there."""
    record = next(Reader(pread, size).records(), None)
    if record is None or record.key != MANIFEST or record.size > _MANIFEST_LIMIT:
        raise Damaged("it does not begin with a manifest")
    try:
        manifest = json.loads(pread(record.offset, record.size))
    except (ValueError, RecursionError) as error:
        raise Damaged("its manifest is not JSON") from error
    if not isinstance(manifest, dict):
        raise Damaged("its manifest is not an object")
    return manifest


def check_structure(pread: Pread, size: int, index: ContainerIndex) -> None:
    """Walk the file as any SequenceFile reader would and compare with the index. Raise `Damaged` when they differ.

    Reads the heads of the records only; image bytes are not looked at.
    """
    reader = Reader(pread, size)
    version = "1" if index.block is None else VERSION
    if reader.header.metadata != {"sdicom.version": version, "study.uid": index.study_uid}:
        raise Damaged("its head and its index name different studies or versions")
    found = [(record.key, record.offset, record.size) for record in reader.records()]
    keys = [key for key, _, _ in found]
    expected = [(entry.sop_uid, entry.offset, entry.size) for entry in index.entries.values()]
    if index.block is not None:
        expected.append((HEADER, index.block.offset, index.block.size))
    if keys[:1] != [MANIFEST] or keys[-1:] != [INDEX] or found[1:-1] != expected:
        raise Damaged("its records and its index differ")


def _write_index(index: ContainerIndex) -> bytes:
    told = {"study": index.study_uid, "images": list(index.entries.values()), "manifest": index.manifest, "header": index.block}
    body = zlib.compress(json.dumps(told, separators=(",", ":")).encode())
    return body + _TRAILER.pack(len(body), zlib.crc32(body), _MAGIC)


def _parse_index(value: object, size: int) -> ContainerIndex:
    told = value if isinstance(value, dict) else {}
    rows, study, manifest = told.get("images"), told.get("study"), told.get("manifest", {})
    if not isinstance(rows, list) or not isinstance(study, str) or not is_uid(study) or not isinstance(manifest, dict):
        raise Damaged("its index has another form")
    try:
        by_uid = {row[0]: row for row in rows}
    except (TypeError, LookupError):
        raise Damaged("its index has another form") from None
    if len(by_uid) != len(rows):
        raise Damaged("its index names an image twice")
    return ContainerIndex(study, _Rows(by_uid, size), manifest, _block(told.get("header"), size))


def _block(value: object, size: int) -> Block | None:
    if value is None:
        return None
    if isinstance(value, list) and [type(part) for part in value] == [int, int, int]:
        block = Block._make(value)
        if min(block) >= 0 and block.offset + block.size <= size:
            return block
    raise Damaged("its index has an impossible header")


def _entry(row: object, size: int) -> Entry:
    """Return a row of the index of a container of `size` bytes. Raise `Damaged` when it is impossible."""
    if isinstance(row, list) and [type(value) for value in row] == _ROW:
        entry = Entry._make(row)
        if (is_uid(entry.sop_uid) and _DIGEST.fullmatch(entry.sha256)
                and min(entry.offset, entry.size) >= 0 and entry.offset + entry.size <= size):
            return entry
    raise Damaged("its index has an impossible entry")
