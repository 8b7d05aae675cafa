"""Pictures of containers as sources of bytes: compared with their SHA-256 while they stream, never read twice.

The last piece of a picture is given only when all of it is what was packed; else the reading ends with an error, so that
nobody takes a rotten picture for a whole one. Pictures of one container that follow each other come from one large range
where asking is dearer than reading.
"""

import errno
import hashlib
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from broker.archive.formats.sequencefile import Damaged
from broker.archive.tiers.base import ContainerReader
from broker.files.sources import CHUNK
from broker.model.errors import Unavailable
from broker.model.imaging import Archived

_RANGE = 256 << 20      # bytes asked for at once, at most
_OPEN = 8               # containers

Noticed = Callable[[Archived], None]
"""Told of a picture whose bytes are not those that were packed."""


class Reading:
    """The pictures of one answer. Add all of them, then read them one after the other, in any order; not two at once."""

    def __init__(self, readers: Callable[[str], ContainerReader], gap: int, noticed: Noticed) -> None:
        self._open_container, self._gap, self._noticed = readers, gap, noticed
        self._wanted: dict[str, list[tuple[int, int]]] = {}
        self._open: OrderedDict[str, _Container] = OrderedDict()

    def add(self, location: Archived) -> "ArchivedPicture":
        """Return a picture to be read. Raise FileNotFoundError when its container is not there,

        `Damaged` when that is too short for it, `Unavailable` when the store fails.
        """
        if self._container(location.container).reader.size < location.offset + location.size:
            raise Damaged("it has another size than the index says")
        insort(self._wanted.setdefault(location.container, []), (location.offset, location.size))
        return ArchivedPicture(self, location)

    def verified(self, location: Archived, length: int) -> Iterator[bytes]:
        """Return the bytes of a picture in pieces of at most `length`. Raise OSError when they are not what was packed."""
        digest, held = hashlib.sha256(), b""
        try:
            for piece in self._pieces(location, length):
                digest.update(piece)
                if held:
                    yield held
                held = piece
        except Unavailable as error:
            self._leave_range(location.container)
            raise OSError(errno.EIO, str(error)) from error
        except OSError:
            self._leave_range(location.container)
            raise
        if digest.hexdigest() != location.sha256:
            self._noticed(location)
            raise OSError(errno.EIO, "the bytes of a picture are not those that were packed")
        yield held

    def _pieces(self, location: Archived, length: int) -> Iterator[bytes]:
        container = self._container(location.container)
        if container.range is None or not container.range.reaches(location.offset, location.size, self._gap):
            container.range = _Range(container.reader, location.offset, self._end(location))
        return container.range.take(location.offset, location.size, length)

    def _leave_range(self, name: str) -> None:
        """Have the next picture ask anew: a stream that failed gives no more."""
        if name in self._open:
            self._open[name].range = None

    def _container(self, name: str) -> "_Container":
        found = self._open.get(name)
        if found is None:
            found = self._open[name] = _Container(self._open_container(name))
        self._open.move_to_end(name)
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return found

    def _end(self, location: Archived) -> int:
        """Return where the range that begins with this picture ends: as far as wanted ones follow it closely."""
        end = location.offset + location.size
        wanted = self._wanted[location.container]
        for offset, size in wanted[bisect_right(wanted, (location.offset, location.size)):]:
            if offset > end + self._gap or offset + size > location.offset + _RANGE:
                break
            end = max(end, offset + size)
        return end


@dataclass(frozen=True, slots=True)
class ArchivedPicture:
    """One picture of a container, as a `ByteSource`."""

    reading: Reading
    location: Archived

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.location.size

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Return the bytes. Raise FileNotFoundError before the first when its container is gone: locate it again,

        OSError when the store fails, or instead of the last piece when they are not the bytes that were packed.
        """
        return self.reading.verified(self.location, length)


@dataclass(slots=True)
class _Container:
    reader: ContainerReader
    range: "_Range | None" = None


class _Range:
    """A range of a container that is read forward."""

    def __init__(self, reader: ContainerReader, start: int, end: int) -> None:
        self._stream = reader.stream(start, end - start)
        self._at, self._end, self._rest = start, end, b""

    def reaches(self, offset: int, size: int, gap: int) -> bool:
        """Say whether a picture lies ahead, and not too far."""
        return self._at <= offset <= self._at + gap and offset + size <= self._end

    def take(self, offset: int, size: int, length: int) -> Iterator[bytes]:
        """Return the bytes there in pieces of at most `length`. Raise OSError when the container ends before."""
        for _ in self._forward(offset - self._at, CHUNK):
            pass
        return self._forward(size, length)

    def _forward(self, size: int, length: int) -> Iterator[bytes]:
        while size:
            piece, rest = self._rest or next(self._stream, b""), b""
            if not piece:
                raise OSError(errno.EIO, "a container is shorter than its index says")
            most = min(size, length)
            if len(piece) > most:
                piece, rest = piece[:most], piece[most:]
            self._rest = rest
            self._at += len(piece)
            size -= len(piece)
            yield piece
