"""The bare file work of a durable receive: what no receiver on the same disk can do without, one object after the other."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import scene


def rate(folders: Sequence[Path], where: Path) -> float:
    """Return objects/s of writing every file of `folders` to a folder of its own below `where`, durably.

    Each is written under a temporary name, fsynced, linked to its final name, and the final folder is fsynced. The time
    in which the bytes are read is not counted: a receiver has them from its socket.
    """
    incoming = where / "incoming"
    incoming.mkdir(parents=True)
    passed, count = 0.0, 0
    for folder in folders:
        final = where / folder.name
        final.mkdir()
        for file in sorted(folder.iterdir()):
            data = file.read_bytes()
            started = time.perf_counter()
            _keep(data, str(incoming / file.name), str(final / file.name), str(final))
            passed += time.perf_counter() - started
            count += 1
    scene.discard(where)
    return count / passed


def _keep(data: bytes, temporary: str, final: str, folder: str) -> None:
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        assert os.write(handle, data) == len(data)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.link(temporary, final)
    os.unlink(temporary)
    scene.sync(Path(folder))
