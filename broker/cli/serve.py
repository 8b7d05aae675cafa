"""`broker serve`: everything on one machine, or one role of it."""

import errno
import os
import resource
import signal
import socket
import sys
import threading
from enum import StrEnum
from types import FrameType
from typing import Annotated

import structlog
import typer

from broker.cli import _log
from broker.cli._config import ConfigFile, load
from broker.cli._kept import kept
from broker.config.settings import ConfigError, Settings
from broker.db import Database, schema
from broker.model.errors import Unavailable
from broker.run import roles
from broker.run.supervisor import supervise
from broker.security import tls

log = structlog.get_logger("broker.serve")

_DESCRIPTORS = 65536

Role = StrEnum("Role", {name: name for name in roles.ROLES})  # type: ignore[misc]  # members come from the table


def serve(
    config: ConfigFile = None,
    role: Annotated[Role | None, typer.Option(help="run only this kind of process")] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True, help="stop when standard input ends")] = False,
) -> None:
    """Run the broker: all roles under one supervisor, or one role (that is how containers run it)."""
    settings, profile = load(config)
    _log.configure(role or "supervisor")
    _raise_descriptor_limit()
    try:
        tls.check(settings)
    except ConfigError as error:
        typer.echo(f"broker: {error}", err=True)
        raise typer.Exit(2) from error
    try:
        _prepare(settings, upgrade=role is None and not settings.database.url)
    except Unavailable as error:
        typer.echo(f"broker: {error}", err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        typer.echo(f"broker: {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(1) from error
    if role is None:
        _refuse_taken_ports(settings)
        base = [sys.executable, "-m", "broker", "serve", *(["--config", str(config)] if config else []), "--supervised", "--role"]
        raise typer.Exit(supervise({name: [*base, kind] for name, kind in _children(settings).items()}))
    roles.run(role, settings, profile, _stop_event(supervised=supervised))


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as we may: the usual 1024 are fewer than the connections that may wait."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _prepare(settings: Settings, *, upgrade: bool) -> None:
    """Make folders and schema ready. Raise OSError where a folder is not ours, `Unavailable` for the database."""
    for one in kept(settings):
        if not one.prepare():
            log.warning("others may read this, and that cannot be changed", what=one.name, path=str(one.path))
    meeting = settings.run_folder
    if meeting.stat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(meeting))
    database = Database(settings.database_url)
    try:
        if upgrade:
            schema.upgrade(database)
        found = schema.current(database)
        if found != schema.head():
            raise Unavailable(f"database schema {schema.head()} (found {found or 'none'}; run `broker db upgrade`)")
    finally:
        database.close()


def _children(settings: Settings) -> dict[str, str]:
    receivers = {f"receiver-{n}": "receiver" for n in range(1, settings.server.receivers + 1)}
    return {"web": "web", **receivers, "mllp": "mllp", "fetch": "fetch", "worker": "worker"}


def _refuse_taken_ports(settings: Settings) -> None:
    server = settings.server
    for key, port in (("http_port", server.http_port), ("mllp_port", server.mllp_port), ("dicom_port", server.dicom_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((server.host, port))
            except OSError as error:
                typer.echo(f"broker: server.{key}: cannot listen on {server.host}:{port}: {error.strerror}", err=True)
                raise typer.Exit(2) from error


def _stop_event(*, supervised: bool) -> threading.Event:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    if supervised:
        threading.Thread(target=_follow_supervisor, args=(stop,), daemon=True).start()
    return stop


def _follow_supervisor(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()
    os.kill(os.getpid(), signal.SIGTERM)
