"""The durable store: engine, unit of work, locks, schema history. SQLite (WAL) on one machine, PostgreSQL for a region."""

from broker.db.engine import Database, metadata
from broker.db.locks import Lock, lock, lock_all
from broker.db.statement import Prepared, batches, unanswered
from broker.db.unit import SqlUnit, sql

__all__ = ["Database", "Lock", "Prepared", "SqlUnit", "batches", "lock", "lock_all", "metadata", "sql", "unanswered"]
