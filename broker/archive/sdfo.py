"""SDFO: the one door to both tiers. Whoever reads a picture does not learn where it lies.

The archive folder holds `<2 digits>/<study uid>-<token>.seq`, the digits from the SHA-256 of the study UID, and `.tmp/`
with containers being written. A container is never changed: a new version is a new file. Paths are relative.
"""

import contextlib
import errno
import hashlib
import os
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from broker.archive.formats import sdicom
from broker.archive.formats.sdicom import ContainerIndex, Entry, PackImage, Progress
from broker.archive.formats.sequencefile import MARKER_LENGTH, Damaged, Pread
from broker.archive.tiers.online import WHAT as ONLINE
from broker.archive.tiers.online import OnlineStore
from broker.files.durable import Folders, begin_writing, create, reachable, sweep_folder
from broker.files.sources import CHUNK, FileSlice
from broker.model.imaging import Archived, Online

WHAT = "archive"
CACHED_IMAGES = 100_000     # index entries kept in memory; about 60 MB

_TEMPORARY = ".tmp"
_WRITE_OUT = 16 << 20         # bytes
_GATHERED = 1 << 14          # bytes: heads of records, not images
_SAFE = re.compile(r"[0-9a-f]{2}/[0-9][0-9.]*-[0-9a-f]+\.seq")


@dataclass(frozen=True, slots=True)
class Packed:
    """A container under its final name: relative path, size, SHA-256 of the whole file (hex), and its index."""

    path: str
    size: int
    sha256: str
    index: ContainerIndex


class Sdfo:
    """Both tiers of one broker. Safe to share between threads and processes."""

    def __init__(self, online: OnlineStore, archive_folder: Path) -> None:
        self.online, self.folder = online, archive_folder
        # always fsync, whatever the online store is set to: an online copy ends on the word of its archived one
        self._folders = Folders(archive_folder, fsync=True)
        self._indexes = _Indexes(CACHED_IMAGES)

    def open(self, location: Online | Archived) -> FileSlice:
        """Return the bytes of a picture. Raise `Unavailable` when its file is absent, `Damaged` when it has another size.

        Only sizes are looked at; content is proven by `prove`. A reader that opens the bytes later may find the file
        gone (FileNotFoundError): the picture has moved on, and is to be located again.
        """
        if isinstance(location, Online):
            source, what = self.online.open(location), ONLINE
        else:
            source, what = FileSlice(str(self._path(location.container)), location.size, location.offset), WHAT
        with reachable(what):
            size = os.stat(source.path).st_size
        if size < source.offset + source.size or (isinstance(location, Online) and size != source.size):
            thing = f"a file of the {ONLINE}" if isinstance(location, Online) else "a container"
            raise Damaged("it has another size than the index says", thing)
        return source

    def open_whole(self, location: Online | Archived) -> FileSlice:
        """Return the bytes of a picture as `open` does; those of a container after comparing them with its index.

        A container lies for years: what rotted in it is `Damaged`, not given. The bytes stay in the system's cache.
        """
        source = self.open(location)
        if isinstance(location, Archived):
            digest = hashlib.sha256()
            with reachable(WHAT):
                for data in source.chunks():
                    digest.update(data)
            if digest.hexdigest() != location.sha256:
                raise Damaged("the bytes of a picture are not those that were packed")
        return source

    def index(self, container: str) -> ContainerIndex:
        """Return the index of a container, from its own footer; the last ones used are remembered."""
        found = self._indexes.get(container)
        if found is None:
            with self._opened(container) as (pread, size):
                found = sdicom.read_index(pread, size)
            self._indexes.put(container, found)
        return found

    def locate(self, container: str, sop_uid: str) -> Archived | None:
        """Return the place of an image inside a container, or None when it is not there."""
        entry = self.index(container).entries.get(sop_uid)
        return archived(container, entry) if entry else None

    def manifest(self, container: str) -> dict[str, Any]:
        """Return the manifest of a container: what SQL knew of the study when it was packed."""
        with self._opened(container) as (pread, size):
            return sdicom.read_manifest(pread, size)

    def pack(
        self, study_uid: str, images: Iterable[PackImage], manifest: Mapping[str, Any], progress: Progress | None = None,
    ) -> Packed:
        """Write a new container and give it its final name; durable on return, nothing left behind when it raises.

        Raise `TooLarge` for an image of 2 GB, `Damaged` when stored bytes are not those of ingest, `Unavailable` when
        a store fails. It counts for nothing until a row names it.
        """
        token = uuid.uuid4().hex[:12]
        path = f"{hashlib.sha256(study_uid.encode()).hexdigest()[:2]}/{study_uid}-{token}.seq"
        final, temporary = self._path(path), self.folder / _TEMPORARY / f"{study_uid}-{token}"
        try:
            with reachable(WHAT):
                self._folders.ensure(temporary.parent)
                with create(temporary, _GATHERED) as file:
                    written = sdicom.write_container(
                        _Early(file), study_uid, images, manifest, os.urandom(MARKER_LENGTH), progress)
                    file.flush()
                    os.fsync(file.fileno())
                self._name(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return Packed(path, written.size, written.sha256, written.index)

    def prove(self, container: str, sha256: str, expected: Mapping[str, str]) -> ContainerIndex:
        """Read a container back from its store and compare everything; return its index as the footer has it.

        The whole file must have this SHA-256, each image the one its index says, the records must be those of the
        index, and each SOP Instance UID of `expected` must be there with the SHA-256 given. Raise `Damaged` otherwise.
        """
        with self._opened(container, cold=True) as (pread, size):
            index = sdicom.read_index(pread, size)
            for sop_uid, digest in expected.items():
                entry = index.entries.get(sop_uid)
                if entry is None or entry.sha256 != digest:
                    raise Damaged(f"{sop_uid} is not in it as it was received")
            sdicom.check_structure(pread, size, index)
            if _hash_all(pread, size, index) != sha256:
                raise Damaged("it was written with another checksum")
        return index

    def drop_online(self, paths: Iterable[str]) -> None:
        """Remove files of the online tier; durable on return. Absent files are no error."""
        self.online.drop(paths)

    def drop_container(self, path: str) -> None:
        """Remove a container; durable on return. An absent one is no error."""
        file = self._path(path)
        self._indexes.forget(path)
        with reachable(WHAT):
            self._folders.drop([file])

    def containers(self, older_than: float) -> Iterator[tuple[str, str]]:
        """Return (path, Study Instance UID) of all containers last written more than `older_than` seconds ago."""
        before = time.time() - older_than
        with reachable(WHAT):
            for file in sorted(self.folder.glob("[0-9a-f][0-9a-f]/*.seq")):
                path = str(file.relative_to(self.folder))
                if _SAFE.fullmatch(path) and file.stat().st_mtime < before:
                    yield path, file.name.partition("-")[0]

    def sweep(self, older_than: float = 86400.0) -> int:
        """Remove unfinished files of both tiers, last written more than `older_than` seconds ago; return how many."""
        with reachable(WHAT):
            unfinished = sweep_folder(self.folder / _TEMPORARY, time.time() - older_than)
        return unfinished + self.online.sweep(older_than)

    def _name(self, temporary: Path, final: Path) -> None:
        if not self._folders.name(temporary, final):
            raise FileExistsError(errno.EEXIST, "a container of this name exists")

    def _path(self, container: str) -> Path:
        if not _SAFE.fullmatch(container):
            raise Damaged("not a path of the archive")
        return self.folder / container

    @contextlib.contextmanager
    def _opened(self, container: str, cold: bool = False) -> Iterator[tuple[Pread, int]]:
        """Open a container for range reads. `cold`: let the system forget what it holds of it, so that the disk answers."""
        path = self._path(container)
        with reachable(WHAT):
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise Damaged("its file is not there") from None
            try:
                if cold and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                yield (lambda offset, length: os.pread(handle, length, offset)), os.fstat(handle).st_size
            finally:
                os.close(handle)


class _Early:
    """A file whose bytes are on their way to the disk before its fsync."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._written, self._begun = file, 0, 0

    def write(self, data: bytes) -> None:
        self._written += self._file.write(data)
        if self._written - self._begun >= _WRITE_OUT:
            begin_writing(self._file.fileno(), self._begun, self._written)
            self._begun = self._written


class _Indexes:
    """The indexes last used, at most so many images in all."""

    def __init__(self, images: int) -> None:
        self._left, self._lock = images, threading.Lock()
        self._found: OrderedDict[str, ContainerIndex] = OrderedDict()

    def get(self, container: str) -> ContainerIndex | None:
        with self._lock:
            if container in self._found:
                self._found.move_to_end(container)
            return self._found.get(container)

    def put(self, container: str, index: ContainerIndex) -> None:
        self.forget(container)
        with self._lock:
            self._found[container] = index
            self._left -= len(index.entries)
            while self._left < 0:
                _, oldest = self._found.popitem(last=False)
                self._left += len(oldest.entries)

    def forget(self, container: str) -> None:
        with self._lock:
            index = self._found.pop(container, None)
            self._left += len(index.entries) if index else 0


def archived(container: str, entry: Entry) -> Archived:
    """Return the location of an entry of this container."""
    return Archived(container, entry.offset, entry.size, entry.sha256)


def _hash_all(pread: Pread, size: int, index: ContainerIndex) -> str:
    """Return the SHA-256 of the whole file, having compared that of every image on the way: one pass."""
    whole, position = hashlib.sha256(), 0
    for entry in sorted(index.entries.values(), key=lambda entry: entry.offset):
        if entry.offset < position:
            raise Damaged("its images overlap")
        image = hashlib.sha256()
        _feed(pread, position, entry.offset, whole)
        position = entry.offset + entry.size
        _feed(pread, entry.offset, position, whole, image)
        if image.hexdigest() != entry.sha256:
            raise Damaged(f"the bytes of {entry.sop_uid} are not those that were packed")
    _feed(pread, position, size, whole)
    return whole.hexdigest()


def _feed(pread: Pread, start: int, end: int, *digests: "hashlib._Hash") -> None:
    while start < end:
        data = pread(start, min(CHUNK, end - start))
        if not data:
            raise Damaged("cut off in an image")
        for digest in digests:
            digest.update(data)
        start += len(data)
