"""`broker serve`: everything on one machine, or one role of it."""

import importlib
import multiprocessing
import os
import resource
import signal
import socket
import threading
from enum import StrEnum
from types import FrameType
from typing import Annotated

import typer

from broker.cli import _log
from broker.cli._config import ConfigFile, load
from broker.config.settings import ConfigError, Settings
from broker.run import roles
from broker.run.supervisor import supervise
from broker.security import tls

_DESCRIPTORS = 65536
_FORK = multiprocessing.get_context("fork")

Role = StrEnum("Role", {name: name for name in roles.ROLES})  # type: ignore[misc]  # members come from the table


def serve(
    config: ConfigFile = None,
    role: Annotated[Role | None, typer.Option(help="run only this kind of process")] = None,
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
    if role is None:
        _refuse_taken_ports(settings)
    preparing = _FORK.Process(target=_prepare, args=(settings, role is None and not settings.database.url))
    preparing.start()
    roles.load(roles.ROLES if role is None else [role])     # meanwhile
    preparing.join()
    if preparing.exitcode:
        raise typer.Exit(1)
    if role is not None:
        roles.run(role, settings, profile, _stop_event())
        return
    children = _children(settings)
    name = supervise(children)
    if name is not None:        # we are that child
        _log.configure(children[name])
        stop = _stop_event()
        threading.Thread(target=_follow_supervisor, args=(stop,), daemon=True).start()
        roles.run(children[name], settings, profile, stop)


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as we may: the usual 1024 are fewer than the connections that may wait."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _prepare(settings: Settings, upgrade: bool) -> None:
    """Run in a process of its own: what prepares a database is not held by those that use it, nor any connection to it."""
    importlib.import_module("broker.cli._prepare").run(settings, upgrade=upgrade)


def _children(settings: Settings) -> dict[str, str]:
    """Return the role of each child by its name."""
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


def _stop_event() -> threading.Event:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def _follow_supervisor(stop: threading.Event) -> None:
    """Stop as soon as standard input ends: the supervisor is gone."""
    while os.read(0, 4096):
        pass
    stop.set()
    os.kill(os.getpid(), signal.SIGTERM)
