"""Errors of the database, SQLAlchemy's and the driver's alike: which mean that the store cannot work."""

import sqlite3

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from broker.model.errors import Unavailable

_DISK_FULL = "53100"                    # SQLSTATE disk_full of PostgreSQL

DRIVER_ERRORS = (DBAPIError, sqlite3.Error, psycopg.Error, PoolTimeout)


def unavailable(error: Exception) -> Unavailable | None:
    """Return what to raise for an error that means that the store is down, locked, full or overrun; None for any other error."""
    origin = getattr(error, "orig", None) or error
    if not isinstance(origin, sqlite3.OperationalError | psycopg.OperationalError | PoolTimeout) and not getattr(
            error, "connection_invalidated", False):
        return None
    full = getattr(origin, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL or getattr(origin, "sqlstate", "") == _DISK_FULL
    return Unavailable("database", full=full)
