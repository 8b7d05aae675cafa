"""What containers would do, without an engine: the compose file as Compose reads it, and the script they run, natively."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from broker.config import profile as profiles
from broker.run.roles import ROLES
from tests.helpers.postgresql import Postgres
from tests.helpers.region import Region
from tests.peers.test_redis import Server as Redis

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
OURS = {*ROLES, "upgrade"}
REGION = {"postgres", "redis", "namenode", "datanode-1", "datanode-2", "pacs-a", "pacs-b"}


def compose(**environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["docker-compose", "-f", str(DOCKER / "compose.yaml"), "config"], env={"PATH": os.environ["PATH"], **environment},
        capture_output=True, text=True, check=False, timeout=60)


def services(text: str) -> dict[str, str]:
    """The part of each service in what `docker-compose config` prints."""
    section = text.partition("services:\n")[2].partition("\nversion:")[0].partition("\nvolumes:")[0]
    pieces = re.split(r"^  ([a-z0-9-]+):\n", section, flags=re.MULTILINE)[1:]
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


@pytest.mark.peer("compose")
def test_compose_takes_the_region() -> None:
    done = compose(POSTGRES_PASSWORD="secret")
    assert done.returncode == 0, done.stderr
    found = services(done.stdout)
    assert found.keys() == OURS | REGION
    assert [name for name, text in found.items() if "\n    user: " not in text] == [], "nothing runs as root"
    for role in OURS:
        assert f"command:\n    - {role}\n" in found[role]
        assert "user: '10001'" in found[role]
        assert "BROKER_DATABASE__URL: postgresql+psycopg://broker:secret@postgres/broker" in found[role]


@pytest.mark.peer("compose")
@pytest.mark.parametrize(("settings", "address"), [({}, "127.0.0.1"), ({"BROKER_PUBLISH": "10.1.2.3"}, "10.1.2.3")])
def test_ports_are_published_on_this_machine_unless_a_variable_says_otherwise(settings: dict[str, str], address: str) -> None:
    found = services(compose(POSTGRES_PASSWORD="secret", **settings).stdout)
    published = {name: re.findall(r"- (\S+):(\d+):(\d+)/tcp", text) for name, text in found.items() if "ports:" in text}
    assert published == {
        name: [(address, port, port)] for name, port in (("web", "8080"), ("receiver", "11112"), ("mllp", "2575"))}


@pytest.mark.peer("compose")
def test_compose_invents_no_password() -> None:
    done = compose()
    assert done.returncode != 0
    assert "set it in .env" in done.stderr


@pytest.mark.peer("compose")
def test_the_mounted_profile_calls_the_pacs_of_the_region(tmp_path: Path) -> None:
    web = services(compose(POSTGRES_PASSWORD="secret").stdout)["web"]
    mounted = re.findall(r"(\S+):/etc/broker/region/(\w+\.toml):ro", web)
    for source, name in mounted:
        shutil.copy(source, tmp_path / name)
    assert len(mounted) == 5
    found = profiles.load(str(tmp_path))
    assert [(hospital.host, hospital.port) for hospital in found.hospitals if hospital.port] == [("pacs-b", 4242)]
    here = [hospital.model_copy(update={"host": "127.0.0.1", "port": 11113}) if hospital.port else hospital
            for hospital in found.hospitals]
    assert here == list(profiles.load("demo").hospitals), "only the address differs from the demonstration's"


def test_the_image_is_built_from_named_sources_that_install(tmp_path: Path) -> None:
    lines = (DOCKER / "Dockerfile").read_text("utf-8").splitlines()
    sources = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    allowed = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in allowed
    assert sorted(sources) == sorted(line[1:] for line in allowed if line.startswith("!"))
    for source in sources:
        (tmp_path / source).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, tmp_path / source)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", "to", "."],
        cwd=tmp_path, check=True, timeout=150)
    for name in ("wsdl/pix.wsdl", "profiles/demo/region.toml"):
        assert (tmp_path / "to/broker/_data" / name).read_bytes() == (ROOT / name).read_bytes()
    assert "USER broker" in lines
    assert 'ENTRYPOINT ["sh", "/opt/broker/docker/start.sh"]' in lines


# --- the scripts the images run


def test_the_namenode_is_formatted_once(tmp_path: Path) -> None:
    program, log = tmp_path / "hdfs", tmp_path / "log"
    program.write_text(f'#!/bin/sh\necho "$*" >> {log}\n[ "${{2-}}" != -format ] || mkdir -p {tmp_path}/name/current\n', "utf-8")
    program.chmod(0o755)
    for _ in range(2):
        subprocess.run(
            ["sh", str(DOCKER / "namenode.sh"), str(tmp_path / "name")], check=True, timeout=30,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert log.read_text("utf-8").splitlines() == ["namenode -format -nonInteractive", "namenode", "namenode"]


class Containers:
    """Runs start.sh with the containers' settings; only places and ports are this machine's."""

    def __init__(self, folder: Path, database_url: str, redis_url: str = "") -> None:
        self.region = Region(folder)
        program = folder / "bin" / "broker"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m broker "$@"\n', "utf-8")
        program.chmod(0o755)
        self._environment = {
            **os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "BROKER_CONFIG": str(DOCKER / "broker.toml"),
            "BROKER_PROFILE": str(folder / "region"), "BROKER_DATA": str(self.region.data), "BROKER_REDIS__URL": redis_url,
            "BROKER_DATABASE__URL": database_url, "BROKER_SERVER__HOST": "127.0.0.1",
            "BROKER_SERVER__HTTP_PORT": str(self.region.http_port), "BROKER_SERVER__MLLP_PORT": str(self.region.mllp_port),
            "BROKER_SERVER__DICOM_PORT": str(self.region.dicom_port)}
        self.log = folder / "start.log"

    def start(self, role: str, **environment: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["sh", str(DOCKER / "start.sh"), role], env=self._environment | environment, stdout=log, stderr=log)

    def run(self, role: str, **environment: str) -> int:
        return self.start(role, **environment).wait(60)

    @contextlib.contextmanager
    def running(self, environments: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
        """Run these roles; each must end well when it is told to."""
        processes = [self.start(role, **environment) for role, environment in environments.items()]
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            ended = [process.wait(60) for process in processes]
        assert ended == [0] * len(processes), self.log.read_text("utf-8")[-4000:]


def test_a_role_that_is_none_is_refused(tmp_path: Path) -> None:
    containers = Containers(tmp_path, "")
    assert containers.run("everything") == 2
    assert "there is no role 'everything'" in containers.log.read_text("utf-8")


def test_a_role_gives_up_waiting_for_the_schema(tmp_path: Path) -> None:
    containers = Containers(tmp_path, f"sqlite:///{tmp_path / 'broker.db'}")
    assert containers.run("web", BROKER_WAIT="1") == 1
    assert "the database is not ready" in containers.log.read_text("utf-8")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


@pytest.mark.peer("postgresql")
@pytest.mark.peer("redis")
@pytest.mark.timeout(300)
def test_roles_wait_for_the_upgrade_and_make_a_whole_broker(postgres: Postgres, redis: Redis, tmp_path: Path) -> None:
    containers = Containers(tmp_path, postgres.url, f"redis://127.0.0.1:{redis.port}/0")
    with containers.running({role: {"BROKER_WAIT": "100"} for role in ROLES}):
        time.sleep(3)
        assert containers.region.health() == {}, "nobody serves before the schema is there"
        assert containers.run("upgrade") == 0
        containers.region.wait_healthy()
