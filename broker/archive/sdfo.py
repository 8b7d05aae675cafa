"""SDFO: the one door to both tiers. Whoever reads a picture does not learn where it lies.

The archive holds `<2 digits>/<study uid>-<token>.seq`, the digits from the SHA-256 of the study UID, and `.tmp/` with
containers being written. A container is never changed: a new version is a new file. Paths are relative. `.recalled/` of the
online tier holds whole containers under the same paths, copies that are read first and may go at any time.
"""

import contextlib
import hashlib
import math
import os
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from broker.archive import proof
from broker.archive.formats import sdicom
from broker.archive.formats.header import Header
from broker.archive.formats.sdicom import ContainerIndex, Entry, PackImage, Progress
from broker.archive.formats.sequencefile import MARKER_LENGTH, Damaged
from broker.archive.reading import Noticed, Reading
from broker.archive.tiers.base import TEMPORARY, WHAT, ContainerReader, ContainerStore, ContainerWriter
from broker.archive.tiers.online import RECALLED, OnlineStore
from broker.archive.tiers.online import WHAT as ONLINE
from broker.archive.tiers.posix import PosixStore
from broker.files.durable import reachable
from broker.files.sources import ByteSource
from broker.model.charsets import NO_SETS, CharacterSets
from broker.model.errors import Unavailable
from broker.model.imaging import Archived, Online

_PAUSE = 1.0                # seconds between two tries to write a container
CACHED_IMAGES = 100_000     # index entries kept in memory; about 60 MB

_SAFE = re.compile(r"[0-9a-f]{2}/[0-9][0-9.]*-[0-9a-f]+\.seq")
_FOLDER = re.compile(r"[0-9a-f]{2}")

log = structlog.get_logger("broker.archive")


@dataclass(frozen=True, slots=True)
class Packed:
    """A container under its final name: relative path, size, SHA-256 of the whole file (hex), and its index."""

    path: str
    size: int
    sha256: str
    index: ContainerIndex


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A container that was looked at: relative path, size in bytes, its index, and what it tells of its study."""

    path: str
    size: int
    index: ContainerIndex
    manifest: dict[str, Any]


class Sdfo:
    """Both tiers of one broker. Safe to share between threads and processes.

    `noticed` is told of a packed picture that turns out not to be what was packed, while somebody reads it, and by who
    finds its container gone or without an index.
    """

    def __init__(self, online: OnlineStore, store: ContainerStore, noticed: Noticed = lambda _: None) -> None:
        self.online, self.store, self.noticed = online, store, noticed
        self._near = PosixStore(online.folder / RECALLED)
        self._indexes = _Indexes(CACHED_IMAGES)

    def reading(self) -> "Pictures":
        """Return what opens the pictures of one answer."""
        return Pictures(self)

    def open(self, location: Online | Archived) -> ByteSource:
        """Return the bytes of one picture, as `Pictures.open` does."""
        return self.reading().open(location)

    def index(self, container: str, *, fresh: bool = False) -> ContainerIndex:
        """Return the index of a container, from its own footer; the last ones used are remembered, unless it is to be `fresh`.

        Raise `Damaged` when its file is not there or has no index, `Unavailable` when its store fails.
        """
        found = None if fresh else self._indexes.get(container)
        if found is None:
            reader = self._reader(container, cold=fresh)
            found = sdicom.read_index(reader.pread, reader.size)
            self._indexes.put(container, found)
        return found

    def locate(self, container: str, sop_uid: str) -> Archived | None:
        """Return the place of an image inside a container, or None when it is not there."""
        entry = self.index(container).entries.get(sop_uid)
        return archived(container, entry) if entry else None

    def described(self, container: str) -> tuple[ContainerIndex, Header | None]:
        """Return the index of a container and its header, in one range read as a rule; version 1 has no header."""
        reader = self._reader(container)
        return sdicom.read_described(reader.pread, reader.size)

    def reader(self, container: str) -> ContainerReader:
        """Return range reads of a container. Raise `Damaged` when it is not there."""
        return self._reader(container)

    def survey(self, container: str) -> Surveyed:
        """Return what a container tells of its study; one range read as a rule, two for version 1."""
        reader = self._reader(container)
        index = sdicom.read_index(reader.pread, reader.size)
        return Surveyed(container, reader.size, index, index.manifest or sdicom.read_manifest(reader.pread, reader.size))

    def manifest(self, container: str) -> dict[str, Any]:
        """Return the manifest of a container: what SQL knew of the study when it was packed."""
        reader = self._reader(container)
        return sdicom.read_manifest(reader.pread, reader.size)

    def pack(
        self, study_uid: str, images: Iterable[PackImage], manifest: Mapping[str, Any], progress: Progress | None = None,
        sets: CharacterSets = NO_SETS,
    ) -> Packed:
        """Write a new container under a temporary name, prove it as its store gives it back, and give it its final name.

        Durable on return, nothing left behind when it raises. Raise `TooLarge` for an image of 2 GB, `Damaged` when
        stored bytes are not those of ingest, `Unavailable` when a store fails, and does so for as long as it may need to
        get over the loss of a server: each try has a new name. It counts for nothing until a row names it.
        `sets` says how text of the images is read that declares no character set, or a wrong one.
        """
        images = list(images)
        until = time.monotonic() + self.store.heals
        while True:
            try:
                return self._pack(study_uid, images, manifest, progress, sets)
            except Unavailable as error:
                if isinstance(error, Damaged) or error.full or time.monotonic() >= until:
                    raise
                log.info("a container is written anew", study=study_uid, reason=str(error))
                time.sleep(_PAUSE)

    def _pack(
        self, study_uid: str, images: list[PackImage], manifest: Mapping[str, Any], progress: Progress | None,
        sets: CharacterSets,
    ) -> Packed:
        token = uuid.uuid4().hex[:12]
        path = f"{hashlib.sha256(study_uid.encode()).hexdigest()[:2]}/{study_uid}-{token}.seq"
        temporary = f"{TEMPORARY}/{study_uid}-{token}"
        with _new(self.store, temporary, sum(image.source.size for image in images)) as file:
            with reachable(WHAT):
                written = sdicom.write_container(file, study_uid, images, manifest, os.urandom(MARKER_LENGTH), progress, sets)
            file.close()
            proof.prove(self._open(temporary, cold=True), written.sha256, {image.sop_uid: image.sha256 for image in images})
            if not self.store.rename(temporary, path):
                raise Damaged("another one has its name")
        return Packed(path, written.size, written.sha256, written.index)

    def prove(self, container: str, sha256: str, expected: Mapping[str, str]) -> ContainerIndex:
        """Read a container back from its store and compare everything; return its index as the footer has it.

        What is compared, and when `Damaged` is raised: `proof.prove`.
        """
        return proof.prove(self._reader(container, cold=True), sha256, expected)

    def check_mounted(self) -> None:
        """Raise `Unavailable` when the store has no container at all: a disk that is not mounted is an empty folder."""
        if not any(_FOLDER.fullmatch(folder) for folder in self.store.folders()):
            raise Unavailable(f"{WHAT}, which is empty (is it mounted?),")

    def unchanged(self, container: str, sha256: str) -> ContainerIndex:
        """Read a container that was proven before back from its store; return its index when no byte has changed since.

        Raise `Damaged` when one has, `Unavailable` when its store fails.
        """
        return proof.unchanged(self._reader(container, cold=True), sha256)

    def rotten(self, container: str, *, or_unread: bool = False) -> list[str]:
        """Return the SOP Instance UIDs of a container's images that are not what was packed, `or_unread` that cannot be read.

        Raise `Damaged` when its file is not there or has no index, `Unavailable` when its store fails.
        """
        index = self.index(container, fresh=True)
        return proof.rotten(self._reader(container, cold=True), index, or_unread=or_unread)

    def drop_online(self, paths: Iterable[str]) -> None:
        """Remove files of the online tier; durable on return. Absent files are no error."""
        self.online.drop(paths)

    def drop_container(self, path: str) -> None:
        """Remove a container and the copy that was recalled of it; durable on return. An absent one is no error."""
        _check(path)
        self._indexes.forget(path)
        self._near.delete(path)
        self.store.delete(path)

    def recall(self, container: str, sha256: str, progress: Progress | None = None) -> int:
        """Copy a container to the online tier, from where it is read from now on; return its size in bytes.

        `progress(done, total)` counts bytes; an empty `sha256` is not known. Raise `Damaged` when it is not what was packed,
        `Unavailable` when a store fails; then there is no copy.
        """
        _check(container)
        reader = self._reader(container, cold=True)
        temporary = f"{TEMPORARY}/{study_of(container)}-{uuid.uuid4().hex[:12]}"
        digest, done = hashlib.sha256(), 0
        with _new(self._near, temporary, reader.size) as file:
            for piece in reader.stream(0, reader.size):
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                if progress:
                    progress(done, reader.size)
            file.close()
            if not sha256:
                proof.prove(self._near.open(temporary), "", {})
            elif digest.hexdigest() != sha256:
                raise Damaged("its SHA-256 is not that of its row")
            if not self._near.rename(temporary, container):     # somebody was quicker
                self._near.delete(temporary)
        return done

    def forget_recalled(self, container: str) -> None:
        """Remove the copy that was recalled of a container. An absent one is no error; who reads it goes on."""
        _check(container)
        self._near.delete(container)

    def is_recalled(self, container: str) -> bool:
        """Say whether there is a copy that was recalled of a container."""
        try:
            self._near.open(container)
        except (FileNotFoundError, Unavailable):
            return False
        return True

    def has_good_copy(self, container: str, sha256: str) -> bool:
        """Say whether there is a copy that was recalled of a container, and all of it is what was packed."""
        try:
            proof.prove(self._near.open(container), sha256, {})
        except (FileNotFoundError, Unavailable):
            return False
        return True

    def recalled(self) -> list[str]:
        """Return the containers of which there is a copy."""
        return [file.name for folder in filter(_FOLDER.fullmatch, self._near.folders()) for file in self._near.files(folder)
                if _SAFE.fullmatch(file.name)]

    def containers(self, older_than: float | None = None) -> Iterator[tuple[str, str]]:
        """Return (path, Study Instance UID) of all containers, or of those last written more than `older_than` seconds ago."""
        before = math.inf if older_than is None else self.store.clock() - older_than
        for folder in filter(_FOLDER.fullmatch, self.store.folders()):
            for file in self.store.files(folder):
                if _SAFE.fullmatch(file.name) and file.modified < before:
                    yield file.name, study_of(file.name)

    def sweep(self, older_than: float = 86400.0, keep: Collection[str] = ()) -> int:
        """Remove unfinished files of both tiers, last written more than `older_than` seconds ago; return how many.

        Containers of the studies in `keep` are being written now, whatever their store's clock says of them.
        """
        removed = 0
        for store in (self.store, self._near):
            before = store.clock() - older_than
            unfinished = [file.name for file in store.files(TEMPORARY) if file.modified < before]
            for name in [name for name in unfinished if study_of(name) not in keep]:
                store.delete(name)
                removed += 1
        return removed + self.online.sweep(older_than)

    def _reader(self, container: str, *, cold: bool = False) -> ContainerReader:
        _check(container)
        return self._open(container, cold=cold)

    def _open(self, name: str, *, cold: bool) -> ContainerReader:
        try:
            return self.open_container(name, cold=cold)
        except FileNotFoundError:
            raise Damaged("its file is not there") from None

    def open_container(self, name: str, *, cold: bool = False) -> ContainerReader:
        """Open the copy that was recalled of a container, else itself; only itself when it is to be read from its disks.

        Raise FileNotFoundError when there is none, `Unavailable` when its store fails.
        """
        if not cold:
            with contextlib.suppress(FileNotFoundError, Unavailable):
                return _Recalled(self, name, self._near.open(name))
        return self.store.open(name, cold=cold)


class Pictures:
    """Opens the pictures of one answer; they are read one after the other, in any order.

    Those of one container are read in large ranges, each compared with its SHA-256 on the way.
    """

    def __init__(self, sdfo: Sdfo) -> None:
        self._sdfo = sdfo
        self._archived = Reading(sdfo.open_container, sdfo.store.gap, self._rotten)

    def open(self, location: Online | Archived) -> ByteSource:
        """Return the bytes of a picture. Raise `Unavailable` when its file is absent, `Damaged` when it has another size.

        Only sizes are looked at. Who reads the bytes later may find the file gone (FileNotFoundError): the picture has
        moved on, and is to be located again. Bytes of a container that are not those that were packed end with an OSError.
        """
        if isinstance(location, Archived):
            _check(location.container)
            try:
                return self._archived.add(location)
            except FileNotFoundError:
                raise Damaged("its file is not there") from None
        source = self._sdfo.online.open(location)
        with reachable(ONLINE):
            size = os.stat(source.path).st_size
        if size != source.size:
            raise Damaged("it has another size than the index says", f"a file of the {ONLINE}")
        return source

    def _rotten(self, location: Archived) -> None:
        if self._sdfo.is_recalled(location.container):
            log.error("a recalled copy is not what was packed, and goes", container=location.container)
            self._sdfo.forget_recalled(location.container)
            return
        log.error("a picture is not what was packed", container=location.container, offset=location.offset)
        self._sdfo.noticed(location)


@contextlib.contextmanager
def _new(store: ContainerStore, name: str, size: int) -> Iterator[ContainerWriter]:
    """Begin a file that is dropped when anything is raised.

    A new name that is taken means that a store whose answer was lost was asked twice: the next try has another one.
    """
    try:
        file = store.create(name, size)
    except FileExistsError as error:
        raise Unavailable(WHAT, reason="a file was begun twice") from error
    try:
        yield file
    except BaseException:
        file.abort()
        raise


def study_of(container: str) -> str:
    """Return the Study Instance UID in the path of a container."""
    return container.rpartition("/")[2].partition("-")[0]


class _Recalled:
    """A reader of a copy that goes when it cannot be read: the next one reads the container itself."""

    def __init__(self, sdfo: Sdfo, container: str, reader: ContainerReader) -> None:
        self._sdfo, self._container, self._reader, self.size = sdfo, container, reader, reader.size

    def pread(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer only at the end of the file."""
        with self._or_gone():
            return self._reader.pread(offset, length)

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """Return the bytes there in pieces, fewer only at the end of the file."""
        with self._or_gone():
            yield from self._reader.stream(offset, length)

    @contextlib.contextmanager
    def _or_gone(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            with contextlib.suppress(Unavailable):
                self._sdfo.forget_recalled(self._container)
            raise


def _check(container: str) -> None:
    if not _SAFE.fullmatch(container):
        raise Damaged("not a path of the archive")


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
