"""Containers in a POSIX folder: `<folder>/<name>`. A laptop's archive, or a mount that keeps what it promised to keep."""

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from broker.archive.tiers.base import WHAT, Listed, Space
from broker.files.durable import Folders, begin_writing, clock_of, create, failed, reachable, space_of
from broker.files.sources import CHUNK

_WRITE_OUT = 16 << 20         # bytes
_GATHERED = 1 << 14           # bytes: heads of records, not images
_PROBE = ".probe"


class PosixStore:
    """The `ContainerStore` of one folder."""

    gap, heals = 0, 0.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # always fsync, whatever the online store is set to: an online copy ends on the word of its archived one
        self._folders = Folders(folder, fsync=True)

    def create(self, name: str, size: int) -> "Writer":  # noqa: ARG002 - a folder need not know it beforehand
        """Begin a new file. Raise FileExistsError when the name is taken."""
        file = self.folder / name
        with _reachable():
            self._folders.ensure(file.parent)
            return Writer(self._folders, file, create(file, _GATHERED))

    def open(self, name: str, *, cold: bool = False) -> "Reader":
        """Open a closed file. `cold`: let the system forget what it holds of it, so that the disk answers."""
        with _reachable():
            reader = Reader(os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC))
            if cold and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(reader.handle, 0, 0, os.POSIX_FADV_DONTNEED)
            return reader

    def rename(self, name: str, new: str) -> bool:
        """Give a closed file another name, durable on return. False, and nothing changed, when that name is taken."""
        with _reachable():
            return self._folders.name(self.folder / name, self.folder / new)

    def delete(self, name: str) -> None:
        """Remove a file, durable on return, and the folders that became empty. Absent: no error."""
        with reachable(WHAT):
            self._folders.drop([self.folder / name])

    def files(self, folder: str) -> Iterator[Listed]:
        """Return the files right inside a folder, those being written too; none when there is no such folder."""
        for entry in self._entries(folder):
            with reachable(WHAT), contextlib.suppress(FileNotFoundError):    # removed since
                if entry.is_file(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    yield Listed(f"{folder}/{entry.name}", state.st_size, state.st_mtime)

    def folders(self) -> list[str]:
        """Return the names of the folders of the first level, sorted."""
        return [entry.name for entry in self._entries(".") if entry.is_dir(follow_symlinks=False)]

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        with reachable(WHAT):
            try:
                return sorted(os.scandir(self.folder / folder), key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def space(self) -> Space:
        """Return what the disk of the folder can hold and what is left."""
        with reachable(WHAT):
            return Space(*space_of(self.folder))

    def clock(self) -> float:
        """Return the time of the machine that has the disk: another one's, where the folder is mounted from there."""
        with reachable(WHAT):
            self._folders.ensure(self.folder)
            return clock_of(self.folder)

    def health(self) -> str:
        """Return in one line what is wrong, empty when a container could be written now."""
        try:
            self._folders.ensure(self.folder)
            (self.folder / _PROBE).touch()
            (self.folder / _PROBE).unlink(missing_ok=True)
        except OSError as error:
            return f"{self.folder}: {error.strerror or type(error).__name__}"
        return ""

    def end(self) -> None:
        """Nothing is held open."""


class Writer:
    """A file whose bytes are on their way to the disk before its fsync."""

    def __init__(self, folders: Folders, path: Path, file: BinaryIO) -> None:
        self._folders, self._path, self._file = folders, path, file
        self._written, self._begun = 0, 0

    def write(self, data: bytes, /) -> None:
        """Take all of `data`."""
        try:
            self._written += self._file.write(data)
            if self._written - self._begun >= _WRITE_OUT:
                begin_writing(self._file.fileno(), self._begun, self._written)
                self._begun = self._written
        except OSError as error:
            raise failed(WHAT, error) from error

    def close(self) -> None:
        """Return when every byte and the name are durable."""
        with reachable(WHAT):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._folders.sync(self._path.parent)

    def abort(self) -> None:
        """Drop what was written."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class Reader:
    """Range reads of an open file. It is closed when nobody holds it any more, so that no thread reads another's file."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        weakref.finalize(self, os.close, handle)
        self.size = os.fstat(handle).st_size

    def pread(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer only at the end of the file."""
        with reachable(WHAT):
            return os.pread(self.handle, length, offset)

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """Return the bytes there in pieces, fewer only at the end of the file."""
        end = offset + length
        while offset < end and (data := self.pread(offset, min(CHUNK, end - offset))):
            offset += len(data)
            yield data


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Let through what a `ContainerStore` says of names; every other OSError is `Unavailable`."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise failed(WHAT, error) from error
