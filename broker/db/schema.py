"""Schema history: bring a store to the newest revision, or say that it is not there."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from broker.db.engine import Database
from broker.db.locks import Lock, lock

_SCRIPTS = Path(__file__).parent / "migrations"


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """Return the newest revision this program knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(database: Database) -> str:
    """Return the revision the store is at; empty when it has none."""
    with database.read() as unit:
        return MigrationContext.configure(unit.connection).get_current_revision() or ""


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the store to `revision`, usually the newest, in one transaction; safe to call from several processes at once."""
    with database.write() as unit:
        lock(unit, Lock.SCHEMA)
        if not unit.connection.in_transaction():
            unit.connection.begin()     # sends nothing; Alembic commits by itself what it began itself
        command.upgrade(_config(unit.connection), revision)
