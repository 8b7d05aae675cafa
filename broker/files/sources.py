"""Bytes that travel without being held in memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

CHUNK = 1 << 18


class ByteSource(Protocol):
    """Something with a known size that can be read from its beginning, more than once."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        ...

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Return the bytes in pieces of at most `length`. Raise OSError when fewer than `size` bytes are there."""
        ...


@dataclass(frozen=True, slots=True)
class FileSlice:
    """`size` bytes of the file at `path` from `offset`: a whole file, or one image inside a container."""

    path: str
    size: int
    offset: int = 0

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Return the bytes; a file that shrank raises OSError, it is never padded."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            at, end = self.offset, self.offset + self.size
            while at < end:
                data = os.pread(handle, min(length, end - at), at)
                if not data:
                    raise OSError("stored object is shorter than its index says")
                at += len(data)
                yield data
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class Octets:
    """Bytes already in memory, as a source."""

    data: bytes

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.data)

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Return the bytes in pieces."""
        for start in range(0, len(self.data), length):
            yield self.data[start:start + length]


@dataclass(frozen=True, slots=True)
class Spooled:
    """An attachment received into a temporary file: its media type, path, size in bytes and SHA-1 (40 hex digits)."""

    media_type: str
    path: str
    size: int
    sha1: str
