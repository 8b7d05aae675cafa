"""The stage of the demonstration: a region of its own in a fresh folder, a running broker, hospital B's running PACS."""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.client.status import health
from broker.config import profile as profiles
from broker.config import settings as settings_file
from broker.config.data import data
from broker.config.profile import Profile
from broker.config.settings import Server, Settings
from broker.demo.pacs import Node, Pacs, pacs, running
from broker.model.errors import Rejected, Unavailable

_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the story plays on. `config` is the broker's generated broker.toml, `broker` its DICOM node."""

    folder: Path
    config: Path
    settings: Settings
    profile: Profile
    broker: Node
    pacs: Pacs

    def command(self, *arguments: str) -> str:
        """Run `broker ARGUMENTS --config …` as an operator would; return what it printed. Raise `Rejected` when it failed."""
        command = [sys.executable, "-m", "broker", *arguments, "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Rejected("CommandFailed", f"broker {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout.strip()


@contextmanager
def stage(parent: Path, hdfs: str = "") -> Iterator[Stage]:
    """Set the stage under `parent` and clear it afterwards; the folder stays until the next run, for a look.

    With `hdfs`, the URL of a folder there, the archive lies in it, two replicas of each block.
    Default ports are used where they are free. Raise `Unavailable` when the broker or the PACS does not start.
    """
    with _folder(parent) as folder, _own_environment():
        server = Server()
        ports = {name: _free(getattr(server, name)) for name in ("http_port", "mllp_port", "dicom_port")}
        shutil.copytree(data("profiles") / "demo", folder / "profile")
        hospitals = folder / "profile" / "hospitals.toml"
        hospitals.write_text(re.sub(
            r"(?m)^port = (\d+)", lambda found: f"port = {_free(int(found[1]))}", hospitals.read_text("utf-8")), "utf-8")
        config = folder / "broker.toml"
        listed = "".join(f"{name} = {port}\n" for name, port in ports.items())
        archive = f'\n[archive]\nurl = "{hdfs}"\nhdfs.replication = 2\n' if hdfs else ""
        config.write_text(f'profile = "profile"\ndata = "data"\n\n[server]\n{listed}{archive}')
        profile, settings = profiles.load("profile", folder), settings_file.load(config)
        broker = Node(ae_title=settings.server.ae_title, port=settings.server.dicom_port, host=settings.server.host)
        origin = next(hospital for hospital in profile.hospitals if hospital.kind == "origin")
        serve = [sys.executable, "-m", "broker", "serve", "--config", str(config)]
        node = Node(ae_title=origin.ae_title, port=origin.port, host=origin.host)
        with pacs(folder / "hospital-b", node, broker) as other, running(serve, folder / "broker.log") as process:
            _await_health(settings.public_url, process)
            yield Stage(folder=folder, config=config, settings=settings, profile=profile, broker=broker, pacs=other)


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """Return `parent`/demo, emptied; a temporary folder beside it while another demonstration plays there."""
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / "demo.lock").open("w") as lock:
        folder = parent / "demo"
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with tempfile.TemporaryDirectory(prefix="demo-", dir=parent) as name:
                yield Path(name).resolve()
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder.resolve()


@contextmanager
def _own_environment() -> Iterator[None]:
    """Hide BROKER_… variables: the demonstration must not touch the installation they speak of."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("BROKER_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _free(port: int) -> int:
    """Return `port` if nothing listens on it, else one that is free."""
    for wanted in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Unavailable("a free port")


def _await_health(url: str, process: "subprocess.Popen[bytes]") -> None:
    states: dict[str, str] = {"broker": "not started"}
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        try:
            states = health(url)
        except Unavailable:
            if process.poll() is not None:
                raise
        if all(state == "ok" for state in states.values()):
            return
        time.sleep(0.1)
    wrong = ", ".join(f"{name}: {state}" for name, state in states.items() if state != "ok")
    raise Unavailable(f"the broker ({wrong})")
