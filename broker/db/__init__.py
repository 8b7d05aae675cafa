"""The durable store: engine, unit of work, schema history. SQLite (WAL) on one machine, PostgreSQL for a region."""

from broker.db.engine import Database, metadata, sql
from broker.db.prepared import Prepared

__all__ = ["Database", "Prepared", "metadata", "sql"]
