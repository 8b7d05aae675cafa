"""Bytes that come from elsewhere, written into a temporary file with their digest."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from broker.files.digests import Digests
from broker.files.durable import begin_writing
from broker.files.sources import Spooled
from broker.model.errors import Unavailable

_PREFIX = "in."
_WRITE_OUT = 16 << 20       # bytes


def spool(media_type: str, chunks: Iterable[bytes], folder: Path) -> Spooled:
    """Write the chunks into a new file of `folder`, with their SHA-1. Raise `Unavailable` when the disk takes no more.

    Whatever is raised, nothing is left.
    """
    size, begun, digest = 0, 0, hashlib.sha1(usedforsecurity=False)
    try:
        handle, path = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
        try:
            with open(handle, "wb", buffering=0) as file, Digests() as digests:
                for data in chunks:
                    digests.update(digest, data)
                    size += len(data)
                    if size - begun >= _WRITE_OUT:
                        begin_writing(file.fileno(), begun, size)
                        begun = size
                    left = memoryview(data)
                    while left:
                        left = left[file.write(left):]
        except BaseException:
            os.unlink(path)
            raise
    except OSError as error:
        raise Unavailable.store("the spool folder", error) from error
    return Spooled(media_type, path, size, digest.hexdigest())
