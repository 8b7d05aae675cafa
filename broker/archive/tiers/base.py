"""What SDFO needs of a place where containers lie: the same words for a folder and for HDFS. No path, no descriptor.

A container has a relative name of plain parts (`aa/1.2.3-0f.seq`, `.tmp/1.2.3-0f`); folders come and go with their files.
It is written once, never changed, and read by ranges. Every call ends within the store's own deadlines: with what it
promises, with FileNotFoundError where a name does not exist, or with `Unavailable` for all else that a store can do: what
was asked for may then have been done, or may still be done.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

WHAT = "archive"
TEMPORARY = ".tmp"      # the folder of files that nobody may take for containers


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a store: its name, size in bytes and when it was last written (seconds since the epoch, the store's clock)."""

    name: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Space:
    """What a store can hold, and what is left of it for us, in bytes of containers (copies that it keeps are taken off)."""

    total: int
    free: int


class ContainerWriter(Protocol):
    """A file being written. It is nobody's until `close` has returned; end it with `close` or `abort`."""

    def write(self, data: bytes, /) -> object:
        """Take all of `data`. Raise `Unavailable` when the store does not."""
        ...

    def close(self) -> None:
        """Return when every byte and the file's name are durable. Raise `Unavailable` when that cannot be said."""
        ...

    def abort(self) -> None:
        """Drop what was written, as far as the store can be reached. May be called after anything, any number of times."""
        ...


class ContainerReader(Protocol):
    """A file open for range reads, by several threads at once. Let go of it to close it."""

    @property
    def size(self) -> int:
        """Size in bytes when it was opened."""
        ...

    def pread(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer only at the end of the file."""
        ...

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """Return the bytes there in pieces as they come, fewer only at the end of the file; memory stays flat."""
        ...


class ContainerStore(Protocol):
    """A place for containers. Safe to share between threads; several processes and machines may use the same place."""

    @property
    def heals(self) -> float:
        """Seconds within which it gets over the loss of one of its servers: so long a write that failed is tried anew."""
        ...

    @property
    def gap(self) -> int:
        """Bytes between two pictures that are sooner read and thrown away than asked for anew."""
        ...

    def create(self, name: str, size: int) -> ContainerWriter:
        """Begin a new file of about `size` bytes. Raise FileExistsError when the name is taken."""
        ...

    def open(self, name: str, *, cold: bool = False) -> ContainerReader:
        """Open a closed file. `cold`: what it gives is to come from the store's disks, not from a cache of ours."""
        ...

    def rename(self, name: str, new: str) -> bool:
        """Give a closed file another name, durable on return. False, and nothing changed, when that name is taken."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file, durable on return, and the folders that become empty where they cost something. Absent: no error."""
        ...

    def files(self, folder: str) -> Iterator[Listed]:
        """Return the files right inside a folder, those being written too; none when there is no such folder."""
        ...

    def folders(self) -> list[str]:
        """Return the names of the folders of the first level, sorted."""
        ...

    def space(self) -> Space | None:
        """Return what the store can hold and what is left; None when it does not say."""
        ...

    def clock(self) -> float:
        """Return the time by which the store says when a file was last written, in seconds since the epoch."""
        ...

    def health(self) -> str:
        """Return in one line what is wrong with the store, empty when a container could be written now."""
        ...

    def end(self) -> None:
        """Let go of what the store holds open. Calls that hang are left behind."""
        ...
