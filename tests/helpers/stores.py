"""Ready databases: the newest schema of SQLite is made once in a process, each test gets a copy of the file."""

import contextlib
import os
import tempfile
from functools import cache
from pathlib import Path

from broker.db import Database, schema
from tests.helpers import postgresql


def sqlite(file: Path) -> Database:
    """Return a store with empty tables at the newest schema, in `file`; close it in the end."""
    file.write_bytes(_at_newest_schema())
    return Database(f"sqlite:///{file}")


def empty(file: Path) -> str:
    """Return the URL of a store with empty tables: SQLite in `file`, or on the PostgreSQL that BROKER_TEST_POSTGRESQL names."""
    if server := os.environ.get("BROKER_TEST_POSTGRESQL", ""):
        return postgresql.empty(server)
    sqlite(file).close()
    return f"sqlite:///{file}"


@cache
def _at_newest_schema() -> bytes:
    with tempfile.TemporaryDirectory(prefix="broker-schema-") as folder:
        file = Path(folder) / "broker.db"
        with contextlib.closing(Database(f"sqlite:///{file}")) as database:
            schema.upgrade(database)
        return file.read_bytes()
