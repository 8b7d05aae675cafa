"""The durable store: engine, unit of work, locks, schema history. SQLite (WAL) on one machine, PostgreSQL for a region."""

from broker.db.engine import Database, metadata
from broker.db.locks import Lock, lock
from broker.db.statement import Prepared, batches
from broker.db.unit import SqlUnit, sql

__all__ = ["Database", "Lock", "Prepared", "SqlUnit", "batches", "lock", "metadata", "sql"]
