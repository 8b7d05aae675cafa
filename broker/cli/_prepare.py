"""Makes folders and schema ready before roles start, in a process of its own: see `serve`."""

import errno
import os
import sys

import structlog

from broker.cli._kept import kept
from broker.config.settings import Settings
from broker.db import Database, schema
from broker.model.errors import Unavailable

log = structlog.get_logger("broker.serve")


def run(settings: Settings, *, upgrade: bool) -> None:
    """Make them ready, the schema only where `upgrade` says so; what is wrong ends the process with one line and status 1."""
    try:
        _folders(settings)
        _schema(settings, upgrade=upgrade)
    except Unavailable as error:
        sys.exit(f"broker: {error}")
    except OSError as error:
        sys.exit(f"broker: {error.filename}: {error.strerror}")


def _folders(settings: Settings) -> None:
    for one in kept(settings):
        if not one.prepare():
            log.warning("others may read this, and that cannot be changed", what=one.name, path=str(one.path))
    meeting = settings.run_folder
    if meeting.stat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(meeting))


def _schema(settings: Settings, *, upgrade: bool) -> None:
    database = Database(settings.database_url)
    try:
        if upgrade:
            schema.upgrade(database)
        found = schema.current(database)
    finally:
        database.close()
    if found != schema.head():
        raise Unavailable(f"database schema {schema.head()} (found {found or 'none'}; run `broker db upgrade`)")
