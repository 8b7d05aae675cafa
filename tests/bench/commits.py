"""`python -m tests.bench.commits CONFIG FILE`: the web role, which counts in FILE how often SQLite was told to commit."""

import mmap
import sqlite3
import struct
import sys
import threading
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.pool import Pool

from broker.config import profile as profiles
from broker.config.settings import load
from broker.run import web

_COUNT = struct.Struct("<q")
SIZE = _COUNT.size


def read(counter: mmap.mmap) -> int:
    """Return the count."""
    (count,) = _COUNT.unpack(counter[:SIZE])
    return int(count)


def main(config: Path, file: Path) -> None:
    """Serve, and count."""
    with file.open("r+b") as handle:
        counter = mmap.mmap(handle.fileno(), SIZE)

    def note(statement: str) -> None:
        if statement == "COMMIT":       # writers take turns: nobody else counts at this moment
            counter[:SIZE] = _COUNT.pack(read(counter) + 1)

    def listen(connection: sqlite3.Connection, _record: object) -> None:
        connection.set_trace_callback(note)

    event.listen(Pool, "connect", listen)
    settings = load(config)
    web.run(settings, profiles.load(settings.profile), threading.Event())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
