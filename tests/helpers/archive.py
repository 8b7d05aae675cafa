"""Containers in memory, small studies in a store, and a reader that follows SQL like the broker does."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

from broker.archive.sdicom import PackImage, Written, write_container
from broker.archive.sequencefile import Pread
from broker.model.blob import CHUNK, Octets

STUDY = "1.2.840.99.1"
MARKER = bytes(range(16))


def pread_of(data: bytes) -> Pread:
    """Range reads of bytes in memory."""
    return lambda offset, length: data[offset:offset + length]


def image(sop_uid: str, data: bytes, number: int = 0, series_uid: str = f"{STUDY}.1") -> PackImage:
    """An image to pack."""
    return PackImage(
        sop_uid=sop_uid, series_uid=series_uid, sop_class="1.2.840.10008.5.1.4.1.1.2", transfer_syntax="1.2.840.10008.1.2.1",
        sha256=hashlib.sha256(data).hexdigest(), source=Octets(data), number=number,
    )


def packed(images: dict[str, bytes]) -> tuple[bytes, Written]:
    """A container with these images, and what was said of it."""
    sink = io.BytesIO()
    written = write_container(
        sink, STUDY, [image(uid, data, n) for n, (uid, data) in enumerate(images.items())], {"hospital": "a"}, MARKER)
    return sink.getvalue(), written


@dataclass(frozen=True)
class Zeros:
    """`size` zero bytes that were never in memory at once."""

    size: int

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Give the bytes."""
        block, left = bytes(length), self.size
        while left:
            yield block[:left]
            left -= min(left, length)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes (hex)."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()
