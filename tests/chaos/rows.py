"""The broker's database, read from outside."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def opened(data: Path) -> Iterator[sqlite3.Connection]:
    """Open the broker's database for reading."""
    connection = sqlite3.connect(f"file:{data / 'broker.db'}?mode=ro", uri=True, timeout=30)
    connection.row_factory = sqlite3.Row
    try:
        yield connection
    finally:
        connection.close()
