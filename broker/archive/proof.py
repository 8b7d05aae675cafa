"""The proof of a container: one pass over its bytes, as its store gives them, compared with all that is known of it."""

import hashlib
from collections.abc import Iterator, Mapping

from broker.archive.formats import sdicom
from broker.archive.formats.sdicom import ContainerIndex, Entry
from broker.archive.formats.sequencefile import Damaged
from broker.archive.tiers.base import ContainerReader
from broker.files.digests import Digests
from broker.model.errors import Unavailable


def prove(reader: ContainerReader, sha256: str, expected: Mapping[str, str]) -> ContainerIndex:
    """Return the index of a container as its footer has it, when the container is what it should be.

    The whole file must have this SHA-256 (empty: it is not known, since its rows were lost), each image the one its index
    says, the records must be those of the index, and each SOP Instance UID of `expected` must be there with the SHA-256
    given. Raise `Damaged` otherwise.
    """
    index = sdicom.read_index(reader.pread, reader.size)
    for sop_uid, digest in expected.items():
        entry = index.entries.get(sop_uid)
        if entry is None or entry.sha256 != digest:
            raise Damaged(f"{sop_uid} is not in it as it was received")
    with Digests() as digests:
        passed = _Pass(reader, index, digests)
        sdicom.check_structure(passed.pread, reader.size, index)
        passed.go_to(reader.size)
    for entry, image in passed.images:
        if image.hexdigest() != entry.sha256:
            raise Damaged(f"the bytes of {entry.sop_uid} are not those that were packed")
    if sha256 and passed.whole.hexdigest() != sha256:
        raise Damaged("it was written with another checksum")
    return index


def unchanged(reader: ContainerReader, sha256: str) -> ContainerIndex:
    """Return the index of a container that was proven when its file had this SHA-256, when it still has it.

    Half the work of `prove`: bytes that are those of then need not be compared one picture at a time. Where the SHA-256 is not
    known, since its rows were lost, it is proven anew. Raise `Damaged` otherwise.
    """
    if not sha256:
        return prove(reader, "", {})
    index, whole, size = sdicom.read_index(reader.pread, reader.size), hashlib.sha256(), 0
    for data in reader.stream(0, reader.size):
        whole.update(data)
        size += len(data)
    if (size, whole.hexdigest()) != (reader.size, sha256):
        raise Damaged("it is not the file that was proven")
    return index


def rotten(reader: ContainerReader, index: ContainerIndex, *, or_unread: bool = False) -> list[str]:
    """Return the SOP Instance UIDs of the images whose bytes are not those that were packed, in the order of the index.

    With `or_unread` also of those that the store does not give; else that raises `Unavailable`.
    """
    return [entry.sop_uid for entry in index.entries.values() if not _is_good(reader, entry, or_unread=or_unread)]


def _is_good(reader: ContainerReader, entry: Entry, *, or_unread: bool) -> bool:
    digest = hashlib.sha256()
    try:
        for data in reader.stream(entry.offset, entry.size):
            digest.update(data)
    except Unavailable:
        if not or_unread:
            raise
        return False
    return digest.hexdigest() == entry.sha256


class _Pass:
    """A file that goes by once, from its beginning: every byte is hashed, for the file and for the image it belongs to.

    `pread` gives what lies at or behind the last place that was asked for.
    """

    def __init__(self, reader: ContainerReader, index: ContainerIndex, digests: Digests) -> None:
        self._stream, self._size = reader.stream(0, reader.size), reader.size
        self._digests, self.whole = digests, hashlib.sha256()
        self.images = [(entry, hashlib.sha256()) for entry in _in_order(index)]
        self._ahead = iter(self.images)
        self._image = next(self._ahead, None)
        self._read, self._from, self._kept = 0, 0, b""     # `_kept` ends where was read to, and begins at `_from` or before

    def pread(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer only at the end of the file."""
        self._from = offset
        self.go_to(min(offset + length, self._size))
        start = offset - (self._read - len(self._kept))
        return self._kept[start:start + length]

    def go_to(self, end: int) -> None:
        """Have all bytes before `end` gone by. Raise `Damaged` when they are not there."""
        while self._read < end:
            data = next(self._stream, b"")
            if not data:
                raise Damaged("cut off in an image")
            self._digests.update(self.whole, data)
            self._hash_images(data)
            self._read += len(data)
            kept = self._kept + data
            self._kept = kept[max(0, self._from - (self._read - len(kept))):]

    def _hash_images(self, data: bytes) -> None:
        view = memoryview(data)
        while self._image is not None:
            entry, digest = self._image
            begin, end = max(entry.offset - self._read, 0), min(entry.offset + entry.size - self._read, len(data))
            if begin < end:
                self._digests.update(digest, view[begin:end])
            if entry.offset + entry.size > self._read + len(data):
                return
            self._image = next(self._ahead, None)


def _in_order(index: ContainerIndex) -> Iterator[Entry]:
    position = 0
    for entry in sorted(index.entries.values(), key=lambda entry: entry.offset):
        if entry.offset < position:
            raise Damaged("its images overlap")
        position = entry.offset + entry.size
        yield entry
