"""Errors of the database, SQLAlchemy's and the driver's alike: which mean that the store cannot work."""

import sqlite3

import psycopg
from sqlalchemy.exc import DBAPIError

from broker.model.errors import Unavailable

_DISK_FULL = "53100"                    # SQLSTATE disk_full of PostgreSQL

DRIVER_ERRORS = (DBAPIError, sqlite3.Error, psycopg.Error)


def unavailable(error: Exception) -> Unavailable | None:
    """Return what to raise for an error that means that the store is down, locked or full; None for any other error."""
    origin = getattr(error, "orig", None) or error
    if not isinstance(origin, sqlite3.OperationalError | psycopg.OperationalError) and not getattr(
            error, "connection_invalidated", False):
        return None
    full = getattr(origin, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL or getattr(origin, "sqlstate", "") == _DISK_FULL
    return Unavailable("database", full=full)
