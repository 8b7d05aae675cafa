"""Fixtures for all tests, and the rule of real peers.

`@pytest.mark.peer("orthanc")` skips where the program is absent, and fails where BROKER_PEERS names it, so that a
release run cannot pass by skipping. The peer "mount" is the right to mount a small disk.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from broker.config import profile as profiles
from broker.config.profile import Profile
from broker.db import Database, schema
from tests.helpers import postgresql

PROGRAMS = {
    "dcmtk": ("storescu", "storescp", "dcmqrscp", "findscu", "movescu", "echoscu"),
    "orthanc": ("Orthanc",),
    "redis": ("redis-server",),
    "dicom3tools": ("dciodvfy",),
    "java": ("java", "mvn"),
    "nginx": ("nginx",),
    "postgresql": ("initdb", "pg_ctl"),
    "compose": ("docker-compose",),
}


def unmountable() -> list[str]:
    """A small disk of memory is mounted once and let go: being root is not enough in a locked container."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ["a small disk (mount -t tmpfs, as root)"]
        subprocess.run(["umount", folder], capture_output=True, check=True)
    return []


@cache
def absent(peer: str) -> list[str]:
    """Return what this machine lacks of a peer: its programs, or for `mount` the right to mount."""
    if peer == "mount":
        return unmountable()
    debian = (str(folder) for folder in Path("/usr/lib/postgresql").glob("*/bin"))
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *debian])
    return [program for program in PROGRAMS[peer] if shutil.which(program, path=path) is None]


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = os.environ.get("BROKER_PEERS", "").split(",")
    for mark in item.iter_markers("peer"):
        missing = absent(mark.args[0])
        if missing and mark.args[0] in required:
            pytest.fail(f"peer {mark.args[0]} is required but {', '.join(missing)} is not there")
        if missing:
            pytest.skip(f"{', '.join(missing)} not there")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A store at the newest schema: embedded, or on the PostgreSQL server that BROKER_TEST_POSTGRESQL names by its URL."""
    server = os.environ.get("BROKER_TEST_POSTGRESQL", "")
    store = Database(postgresql.empty(server) if server else f"sqlite:///{tmp_path / 'broker.db'}")
    if not server:
        schema.upgrade(store)
    yield store
    store.close()


@pytest.fixture(scope="session")
def profile() -> Profile:
    """The demonstration region."""
    return profiles.load("demo")
