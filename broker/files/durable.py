"""Files that are durable when they are named: temporary file, fsync, a name that is never taken twice, fsync of the folder."""

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import structlog

from broker.files.modes import FILE, FOLDER, make_folder
from broker.files.sources import CHUNK
from broker.model.errors import Unavailable

_REMEMBERED = 4096

_log = structlog.get_logger("broker.archive")


@contextlib.contextmanager
def reachable(what: str) -> Iterator[None]:
    """Turn any OSError of the store `what` into `Unavailable(what)`, and log its reason."""
    try:
        yield
    except OSError as error:
        raise failed(what, error) from error


def failed(what: str, error: OSError) -> Unavailable:
    """Return what to raise for an OSError of the store `what`; its reason is logged."""
    _log.warning("store failed", store=what, reason=error.strerror or str(error))
    return Unavailable(what)


class Folders:
    """Folders below `root` that survive a power cut. Remembers which ones it already made durable in this process."""

    def __init__(self, root: Path, fsync: bool) -> None:
        self.root, self._fsync = root, fsync
        self._durable: set[str] = set()

    def ensure(self, folder: Path) -> None:
        """Make `folder` with its parents up to `root`; on return their names are durable."""
        if folder != self.root:
            self.ensure(folder.parent)
        try:
            if folder == self.root:
                make_folder(folder.parent)
            folder.mkdir(FOLDER)
        except FileExistsError:
            if str(folder) in self._durable:
                return
        self.sync(folder.parent)
        if len(self._durable) >= _REMEMBERED:
            self._durable.clear()
        self._durable.add(str(folder))

    def sync(self, folder: str | Path) -> None:
        """Make the names inside `folder` durable."""
        if self._fsync:
            fsync_folder(folder)

    def name(self, temporary: Path, final: Path) -> bool:
        """Return the finished file `temporary` its durable name `final`. False, and nothing changed, when the name is taken."""
        named = self.link(temporary, final)
        if named:
            temporary.unlink()
        return named

    def link(self, file: Path, final: Path) -> bool:
        """Add a second, durable name of `file`. False, and nothing changed, when that name is taken."""
        named = self.add_name(str(file), str(final))
        if named:
            self.sync(final.parent)
        return named

    def add_name(self, file: str, final: str) -> bool:
        """Add a second name of `file`, durable after `sync` of its folder. False, and nothing changed, when it is taken."""
        folder = os.path.dirname(final)
        for attempt in range(3):
            try:
                if attempt or folder not in self._durable:
                    self.ensure(Path(folder))
                os.link(file, final)
            except FileExistsError:
                return False
            except FileNotFoundError:       # the folder was emptied and removed by `drop` in this very moment
                if attempt == 2:
                    raise
                continue
            break
        return True

    def drop(self, files: list[Path]) -> None:
        """Remove these files (absent ones too) and the folders that became empty; durable on return."""
        for file in files:
            file.unlink(missing_ok=True)
        for folder in {file.parent for file in files}:
            self._sync_if_there(folder)
            self._remove_empty(folder)

    def _sync_if_there(self, folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):    # whoever else emptied it has removed it
            self.sync(folder)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.root and self.root in folder.parents:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:                 # not empty
                return
            self._durable.discard(str(folder))
            folder = folder.parent
            self._sync_if_there(folder)


def space_of(folder: Path) -> tuple[int, int]:
    """Return the bytes that the disk of a folder, or of where it will be, can hold, and how many of them are free."""
    usage = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
    return usage.total, usage.free


def clock_of(folder: Path) -> float:
    """Return the time of the machine that has the disk of a folder: another one's, where it is mounted from there."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def create(file: str | Path, buffer: int = CHUNK) -> BinaryIO:
    """Return a new file to write, readable by our user and group only. Raise FileExistsError when the name is taken.

    Pieces larger than `buffer` bytes go to the system as they are, smaller ones are gathered.
    """
    return open(file, "xb", buffering=buffer, opener=lambda path, flags: os.open(path, flags, FILE))


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file (hex)."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def sweep_folder(folder: Path, before: float) -> int:
    """Remove the plain files of `folder` that were last written before this time (seconds since the epoch); return how many.

    One that cannot be removed is logged and stops no other.
    """
    removed = 0
    if not folder.is_dir():
        return removed
    for file in folder.iterdir():
        try:
            if file.is_file() and file.stat().st_mtime < before:
                file.unlink()
                removed += 1
        except FileNotFoundError:   # another process sweeps too
            continue
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "OSError")
            _log.warning("a file that was left cannot be removed", file=file.name, reason=reason)
    return removed


def begin_writing(handle: int, start: int, end: int) -> None:
    """Hint the kernel to start writing these bytes of a file to disk now, so that a later fsync has less to wait for.

    It is no more than a hint. POSIX_FADV_DONTNEED, whose name asks for less cache, does it: Linux starts write-back of
    dirty pages before it may drop them (man 2 posix_fadvise).
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_DONTNEED)


def fsync_folder(folder: str | Path) -> None:
    """Make a rename or unlink in `folder` durable."""
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)


def fsync_file(file: str | Path) -> None:
    """Make the bytes of a file durable, whoever wrote them."""
    _fsync(file, os.O_RDONLY)


def _fsync(path: str | Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
