"""The online tier: original Part-10 files in a POSIX folder, one file per SOP instance.

Layout below the folder: `<hospital>/<yyyy>/<mm>/<dd of arrival, UTC>/<study uid>/<sop uid>`. `.incoming/` holds files being
written, `.conflict/<hospital>/<study uid>/<sop uid>.<12 digits of SHA-256>` what came under the UID of other bytes, `.recalled/`
copies of containers (`sdfo`).
Paths given out are relative to the folder.
"""

import contextlib
import datetime as dt
import functools
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from broker.archive.tiers.base import Space
from broker.files.digests import LateSha256
from broker.files.durable import Folders, clock_of, create, failed, fsync_file, reachable, sha256_of, space_of, sweep_folder
from broker.files.ordered import is_ordered, write_back
from broker.files.sources import FileSlice
from broker.model.errors import Rejected, XdsCode
from broker.model.ids import is_uid
from broker.model.imaging import Online

HEAD = 16 << 10
WHAT = "online store"
RECALLED = ".recalled"
_GATHERED = 64 << 10    # bytes of small pieces that are written at once

_INCOMING, _CONFLICT = ".incoming", ".conflict"
ASIDE = f"{_CONFLICT}/"     # begins the paths of what is kept aside
_KEY = re.compile(r"[a-z0-9][a-z0-9-]*")
_SAFE = re.compile(r"(\.conflict/)?[a-z0-9][a-z0-9-]*(/[0-9][0-9a-f.]*)+")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Where an object is now. `conflict`: the UID already stood for other bytes, `path` is the copy kept aside."""

    path: str
    conflict: bool
    part: "Part" = field(compare=False, repr=False)

    @property
    def online(self) -> Online:
        """The object with its size and SHA-256."""
        return Online(self.path, self.part.size, self.part.sha256)


class OnlineStore:
    """The folder of the online tier. Safe to share between threads and processes.

    `one_commit` lets a file system that keeps order make an object and its name durable together (`ordered`).
    """

    def __init__(self, folder: Path, fsync: bool = True, one_commit: bool = True) -> None:
        self.folder, self.fsync, self._one_commit = folder, fsync, one_commit
        self._root = str(folder)
        self.folders = Folders(folder, fsync)

    @functools.cached_property
    def in_order(self) -> bool:
        """Whether an object may be named before it is durable: its bytes are on the disk before its name all the same."""
        return self.fsync and self._one_commit and is_ordered(self.folder)

    def begin(self) -> "Part":
        """Begin an object. End it with `commit` or `abort`. Raise `Unavailable` when the store cannot take it."""
        temporary = f"{self._root}/{_INCOMING}/{uuid.uuid4().hex}.part"
        with reachable(WHAT):
            try:
                return Part(self, temporary)
            except FileNotFoundError:
                self.folders.ensure(self.folder / _INCOMING)
                return Part(self, temporary)

    def path(self, relative: str) -> Path:
        """Return the file of a relative path this store gave out. Raise `Rejected` for a path that leads elsewhere."""
        return self.folder / _safe(relative)

    def open(self, online: Online) -> FileSlice:
        """Return the bytes of a stored object. Reading raises OSError when the file is shorter than `online.size`."""
        return FileSlice(str(self.path(online.path)), online.size)

    def has(self, relative: str) -> bool:
        """Say whether there is a file under a relative path."""
        return os.path.isfile(f"{self._root}/{_safe(relative)}")

    def make_durable(self, relative: str) -> None:
        """Return when a stored file and its name are durable: another writer that named it may not have synced it yet."""
        file = self.path(relative)
        with reachable(WHAT):
            if self.fsync:
                fsync_file(file)
            self.folders.sync(file.parent)

    def sha256(self, relative: str) -> str:
        """Return the SHA-256 of a stored file as it is now (hex); empty when it is not there."""
        file = self.path(relative)
        with reachable(WHAT):
            return sha256_of(file) if file.is_file() else ""

    def drop(self, paths: Iterable[str]) -> None:
        """Remove these files and the folders that become empty; durable on return. Absent files are no error."""
        files = [self.path(path) for path in paths]
        with reachable(WHAT):
            self.folders.drop(files)

    def keep_as_conflict(self, online: Online) -> Online:
        """Keep a stored object under `.conflict/` too (a hard link), before its own name is dropped. Return that place.

        One that lies there already stays where it is.
        """
        if online.path.startswith(ASIDE):
            return online
        aside = _aside_of(online.path, online.sha256)
        source = self.path(online.path)
        with reachable(WHAT):
            if not self.folders.link(source, self.folder / aside):
                self.folders.sync((self.folder / aside).parent)
        return Online(aside, online.size, online.sha256)

    def has_aside(self, relative: str, sha256: str) -> bool:
        """Say whether this object, of this SHA-256, was kept under `.conflict/` too."""
        return self.path(_aside_of(relative, sha256)).is_file()

    def of_study(self, hospital: str, study_uid: str) -> list[str]:
        """Return the relative paths of all files of a study, whatever day they came. Looks into every day's folder."""
        if not (_KEY.fullmatch(hospital) and is_uid(study_uid)):
            return []
        with reachable(WHAT):
            return sorted(str(file.relative_to(self.folder))
                          for file in (self.folder / hospital).glob(f"[0-9]*/[0-9]*/[0-9]*/{study_uid}/*"))

    def space(self) -> Space:
        """Return what the disk of the online tier can hold and what is left."""
        with reachable(WHAT):
            return Space(*space_of(self.folder))

    def sweep(self, older_than: float = 86400.0) -> int:
        """Remove unfinished files last written more than `older_than` seconds ago; return how many."""
        with reachable(WHAT):
            self.folders.ensure(self.folder)
            return sweep_folder(self.folder / _INCOMING, clock_of(self.folder) - older_than)

    def recent(self, days: int) -> Iterator[tuple[str, str]]:
        """Return (hospital, relative path) of every object that arrived today or on one of the `days` days before."""
        today = dt.datetime.now(dt.UTC).date()
        # one day ahead: another machine's clock may already be there
        dates = [today - dt.timedelta(days=back) for back in range(days, -2, -1)]
        with reachable(WHAT):
            for hospital in sorted(path.name for path in self.folder.glob("*") if _KEY.fullmatch(path.name)):
                for date in dates:
                    for file in sorted((self.folder / hospital / date.strftime("%Y/%m/%d")).glob("*/*")):
                        if is_uid(file.parent.name) and is_uid(file.name):
                            yield hospital, str(file.relative_to(self.folder))

    def recent_aside(self, days: int) -> Iterator[tuple[str, str]]:
        """Return (hospital, relative path) of every object kept aside that was written in the last `days` days."""
        since = time.time() - days * 86400.0
        with reachable(WHAT):
            for file in sorted((self.folder / _CONFLICT).glob("*/*/*")):
                path = str(file.relative_to(self.folder))
                if _SAFE.fullmatch(path) and file.stat().st_mtime >= since:
                    yield file.parent.parent.name, path


class Part:
    """An object being written. `head` is the first 16 KB of what was written, for the tag scanner.

    The SHA-256 of its last bytes is computed when it is asked for: a sender need not wait for it.
    """

    def __init__(self, store: OnlineStore, temporary: str) -> None:
        self._store, self._temporary = store, temporary
        self._digest = LateSha256()
        self._head = bytearray()
        self.size = 0
        self._file = create(temporary, _GATHERED)

    @property
    def head(self) -> bytes:
        """The first 16 KB of what was written so far."""
        return bytes(self._head)

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written so far (hex)."""
        return self._digest.hexdigest()

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of what was written so far, fewer at its end; read back from the disk where the head does not do."""
        if offset + length <= HEAD or self.size <= HEAD:
            return bytes(self._head[offset:offset + length])
        with self._or_abort():
            self._file.flush()
            with open(self._temporary, "rb") as stream:
                return os.pread(stream.fileno(), length, offset)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes. Raise `Unavailable` (and leave nothing behind) when the disk does not."""
        try:
            self._file.write(data)
        except OSError as error:
            self.abort()
            raise failed(WHAT, error) from error
        self._digest.update(data)
        self.size += len(data)
        if len(self._head) < HEAD:
            self._head += data[:HEAD - len(self._head)]

    def abort(self) -> None:
        """Drop what was written; nothing is left behind. May be called after anything, any number of times."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)

    def commit(self, hospital: str, study_uid: str, sop_uid: str, existing: str | None = None) -> StoredFile:
        """Return the object its durable name; never overwrite other bytes.

        `existing` is the relative path where the index already has this instance (it may have come on another day).
        The same bytes there: that file stays and is given back. Other bytes: this object is kept aside as a conflict.
        """
        with self._or_abort():
            final = _final_path(hospital, study_uid, sop_uid)
            self._file.flush()
            if existing is not None and self._store.path(existing).is_file():
                return self._compare(existing, hospital, study_uid, sop_uid)
            if self._name(final):
                return StoredFile(final, conflict=False, part=self)
            return self._compare(final, hospital, study_uid, sop_uid)

    def _name(self, relative: str) -> bool:
        """Make the object durable under this path. False when the path is taken: it has its temporary name still."""
        store, handle = self._store, self._file.fileno()
        final = f"{store.folder}/{relative}"
        if store.in_order:
            write_back(handle)
        elif store.fsync:
            os.fsync(handle)
        if not store.folders.add_name(self._temporary, final):
            return False
        os.unlink(self._temporary)
        if store.in_order:
            os.fsync(handle)        # the journal commits the bytes and both changes of names at once
        self._file.close()
        store.folders.sync(os.path.dirname(final))
        return True

    def _compare(self, path: str, hospital: str, study_uid: str, sop_uid: str) -> StoredFile:
        stored = self._store.path(path)
        if stored.stat().st_size == self.size and sha256_of(stored) == self.sha256:
            return self._came_before(path, conflict=False)
        aside = _conflict_path(hospital, study_uid, sop_uid, self.sha256)
        if self._name(aside):
            return StoredFile(aside, conflict=True, part=self)
        return self._came_before(aside, conflict=True)      # the name holds the hash: it is the same copy

    def _came_before(self, path: str, *, conflict: bool) -> StoredFile:
        self._file.close()
        os.unlink(self._temporary)
        self._store.make_durable(path)
        return StoredFile(path, conflict=conflict, part=self)

    @contextlib.contextmanager
    def _or_abort(self) -> Iterator[None]:
        try:
            with reachable(WHAT):
                yield
        except BaseException:
            self.abort()
            raise


def _safe(relative: str) -> str:
    if not _SAFE.fullmatch(relative) or ".." in relative:
        raise Rejected(XdsCode.INVALID_DOCUMENT_CONTENT, "not a path of the online store")
    return relative


def _final_path(hospital: str, study_uid: str, sop_uid: str) -> str:
    if not (_KEY.fullmatch(hospital) and is_uid(study_uid) and is_uid(sop_uid)):
        raise Rejected(XdsCode.INVALID_DOCUMENT_CONTENT, "not a hospital key, Study and SOP Instance UID")
    today = dt.datetime.now(dt.UTC)
    return f"{hospital}/{today:%Y/%m/%d}/{study_uid}/{sop_uid}"


def _aside_of(path: str, sha256: str) -> str:
    hospital, *_, study_uid, sop_uid = path.split("/")
    return _conflict_path(hospital, study_uid, sop_uid, sha256)


def _conflict_path(hospital: str, study_uid: str, sop_uid: str, sha256: str) -> str:
    return f"{_CONFLICT}/{hospital}/{study_uid}/{sop_uid}.{sha256[:12]}"
