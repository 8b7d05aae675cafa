"""Fixtures for all tests, the rule of real peers, and the quick lane.

`@pytest.mark.peer("orthanc")` skips where the program is absent, and fails where BROKER_PEERS names it, so that a
release run cannot pass by skipping. The peer "mount" is the right to mount a small disk.

`pytest --quick` (`make quick`) leaves out whole folders and every test marked `outside` or `slow`; a test of this lane that
opens a socket to a port or starts a process fails.
"""

import importlib.util
import multiprocessing.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from broker.config import profile as profiles
from broker.config.profile import Profile
from broker.db import Database
from tests.helpers import postgresql, stores
from tests.helpers.hdfs.cluster import Cluster, Folder
from tests.helpers.hdfs.kerberos import Kdc, SecureCluster
from tests.helpers.waiting import eventually

PROGRAMS = {
    "dcmtk": ("storescu", "storescp", "dcmqrscp", "findscu", "movescu", "echoscu"),
    "orthanc": ("Orthanc",),
    "redis": ("redis-server",),
    "dicom3tools": ("dciodvfy",),
    "java": ("java", "mvn"),
    "nginx": ("nginx",),
    "postgresql": ("initdb", "pg_ctl"),
    "compose": ("docker-compose",),
    "hdfs": ("java", "mvn", "setpriv"),
    "kerberos": ("krb5kdc", "kadmin.local", "kinit"),
}

# Folders whose tests all run servers or take long, and the marks of other tests that do.
NOT_QUICK_FOLDERS = ("chaos", "corpus", "flows", "fuzz", "hostile", "peers", "property")
NOT_QUICK = ("outside", "slow", "peer")
REACHING = ("socket.bind", "socket.connect", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.system")
TESTS = Path(__file__).parent

_reached: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests without a server, a process and a long wait")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--quick") and collection_path in [TESTS / name for name in NOT_QUICK_FOLDERS] else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        left_out = [item for item in items if any(item.get_closest_marker(mark) for mark in NOT_QUICK)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not any(item.get_closest_marker(mark) for mark in NOT_QUICK)]
        sys.addaudithook(_stay_inside)
        pytest.MonkeyPatch().setattr(multiprocessing.util, "spawnv_passfds", _spawn_nothing)   # it tells no audit hook


def _stay_inside(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what a quick test must not do. Sockets of the file system are allowed: they need no port and wait for nobody."""
    if event in REACHING and not (event.startswith("socket") and arguments[0].family == socket.AF_UNIX):
        _reached.append(event)
        raise AssertionError(f"{event} in a quick test: mark it `outside`")


def _spawn_nothing(*_: object) -> int:
    sys.audit("subprocess.Popen")
    return 0


@pytest.fixture(autouse=True)
def inside() -> Iterator[None]:
    """Fail a quick test whose thread reached outside or that swallowed the refusal."""
    _reached.clear()
    yield
    assert _reached == [], "mark it `outside`"


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
    """Return what this machine lacks of a peer: its programs, for `mount` the right to mount, for `spark` the package."""
    if peer == "mount":
        return unmountable()
    if peer == "spark":
        return [] if importlib.util.find_spec("pyspark") else ["pyspark (the extra `spark`)"]
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
    store = Database(postgresql.empty(server)) if server else stores.sqlite(tmp_path / "broker.db")
    yield store
    store.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Postgres]:
    """A PostgreSQL server for all tests of this process; who stops it starts it again."""
    with postgresql.Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def hdfs_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A NameNode and three DataNodes for all tests of this process. Their test has the mark `peer("hdfs")`."""
    with Cluster(tmp_path_factory.mktemp("hdfs") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def hdfs(hdfs_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Folder]:
    """A new folder in the shared cluster where every user may write. Who hurts the cluster mends it before the test ends."""
    folder = Folder(hdfs_cluster, f"/tests/{uuid.uuid4().hex}")
    hdfs_cluster.mkdir(folder.path, mode="777")
    yield folder
    try:
        eventually(hdfs_cluster.whole)      # on a busy machine a heartbeat may be late
    except AssertionError:
        hdfs_cluster.mend()
        pytest.fail(f"{request.node.nodeid} left the cluster hurt")
    hdfs_cluster.delete(folder.path)


@pytest.fixture(scope="module")
def hdfs_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A name service of two NameNodes, the first of them active, with three DataNodes."""
    with Cluster(tmp_path_factory.mktemp("hdfs") / "pair", namenodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def hdfs_kerberos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    """A cluster with a key distribution centre (`.kdc`). Its test has the mark `peer("kerberos")` too."""
    folder = tmp_path_factory.mktemp("hdfs")
    with Kdc(folder / "kdc") as kdc, SecureCluster(folder / "secure", kdc) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def profile() -> Profile:
    """The demonstration region."""
    return profiles.load("demo")
