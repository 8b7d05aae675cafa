"""A PostgreSQL of its own, which can be stopped, and a fresh database in it for each test."""

import contextlib
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg

from broker.db import Database, schema
from tests.helpers.ports import free_port

_OPTIONS = ("max_connections=200", "listen_addresses=127.0.0.1")
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

_SECONDS = "150"        # that a busy machine may need to start or stop it


def _program(name: str) -> str:
    """Return a program of PostgreSQL; Debian keeps its own outside the PATH."""
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
    assert found is not None, f"{name} is not installed"
    return found


class Postgres:
    """A server on a free port. Use as a context manager; `stop` and `start` it as the test needs.

    What it holds outlives no crash of the machine, but for `durable`: then its settings are PostgreSQL's own.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._options = _OPTIONS if durable else (*_OPTIONS, *_FAST)
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="broker-pg-"))
        # It refuses to run as root.
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def __enter__(self) -> Self:
        self._run("initdb", "-D", str(self._folder / "data"), "-U", "broker", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the maintenance database."""
        return f"postgresql+psycopg://broker@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start and wait until it answers."""
        own = (f"port={self.port}", f"unix_socket_directories={self._folder}")
        options = " ".join(f"-c {option}" for option in (*self._options, *own))
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-l", str(self._folder / "log"), "-w", "-t", _SECONDS,
                  "-o", options, "start")

    def stop(self) -> None:
        """Stop at once, as a crash would."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "-t", _SECONDS, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([_program(program), *arguments], check=True, cwd=self._folder, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **self._as)


def fresh(server_url: str, revision: str = "head") -> str:
    """Return the URL of a new database at this schema, the newest unless told; it lives as long as its server."""
    name = f"broker_{uuid.uuid4().hex}"
    with _maintaining(server_url) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = _other(server_url, name)
    with contextlib.closing(Database(url)) as database:
        schema.upgrade(database, revision)
    return url


_ours = functools.cache(fresh)      # one for all tests of a process


def empty(server_url: str) -> str:
    """Return the URL of a database with empty tables, the same one for each test of a process."""
    url = _ours(server_url)
    with _maintaining(url) as connection:
        tables = [name for (name,) in connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'")]
        connection.execute("SET lock_timeout = '10s'")
        connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
    return url


def _other(server_url: str, name: str) -> str:
    return server_url.rpartition("/")[0] + "/" + name


@contextlib.contextmanager
def _maintaining(server_url: str) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    with psycopg.connect(server_url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection
