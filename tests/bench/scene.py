"""What benchmarks share: a disk-backed folder, web processes with the shipped settings, a light load, a discarding reader."""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.app.whole import App
from broker.config import profile as profiles
from broker.config.settings import Settings, load
from broker.db import schema
from broker.edge.mllp.server import MllpServer
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Demographics, PersonName
from broker.model.transaction import ServedTransaction
from broker.patients import iti8_feed
from broker.wire.hl7v2 import Header
from broker.wire.hl7v2_pix import write_adt
from tests.helpers.ports import free_port, free_ports

ROOT = Path("build/bench-tmp")
LOCAL_DOMAIN, NAMESPACE = "2.999.2.1", "HOSPA"
_READ = 1 << 20
_START = 1 << 12


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Return an empty folder on the checkout's disk, discarded afterwards."""
    ROOT.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=ROOT)).resolve()
    try:
        yield made
    finally:
        discard(made)


def discard(folder: Path) -> None:
    """Empty the files of a folder and move it away; it is gone when the program ends.

    Not removed at once: ext4 without a journal hands out no inode within minutes of its removal, and new files would pay
    for the search.
    """
    for file in folder.rglob("*"):
        if file.is_file():
            os.truncate(file, 0)
    used = ROOT / "used"
    used.mkdir(exist_ok=True)
    folder.rename(used / uuid.uuid4().hex)
    atexit.register(shutil.rmtree, used, ignore_errors=True)


def settings(where: Path, database: str = "", archive: str = "") -> Settings:
    """Return the shipped settings with their data in `where`, on a free port; `broker.toml` there says the same.

    `database` is the URL of another store than SQLite's, `archive` the section of one elsewhere than in a folder.
    """
    port, mllp, dicom = free_ports(3)
    config = where / "broker.toml"
    config.write_text(
        f'data = "data"\n[server]\nhttp_port = {port}\nmllp_port = {mllp}\ndicom_port = {dicom}\n'
        f'[database]\nurl = "{database}"\n{archive}', "utf-8")
    return load(config)


@contextlib.contextmanager
def parts(made: Settings) -> Iterator[App]:
    """Return the broker's parts in this process, its schema in place."""
    app = App(made, profiles.load("demo"))
    made.run_folder.mkdir(parents=True, exist_ok=True)
    try:
        schema.upgrade(app.database)
        yield app
    finally:
        app.close()


def admit(app: App, number: int) -> PatientId:
    """Let hospital A feed a patient by ITI-8; return the id in the affinity domain."""
    local = PatientId(LOCAL_DOMAIN, f"BENCH-{number}")
    header = Header(
        sender=("HIS-A", NAMESPACE), receiver=("BROKER", "REGION"), charset="UNICODE UTF-8", version="2.3.1",
        message_id=MessageId.now())
    person = Demographics(names=(PersonName(f"张{number}", "伟"),), birth_date="19790214", sex="M")
    server = MllpServer([ServedTransaction(iti8_feed.ROW, app.patients)], app.gate, app.settings, ("BROKER", "REGION"))
    reply = server.answer(write_adt(header, "A04", local, person, namespace=NAMESPACE), "127.0.0.1")
    assert b"MSA|AA" in reply, reply
    with app.database.read() as unit:
        found = app.patients.affinity_id(unit, local)
    assert found is not None
    return found


@contextlib.contextmanager
def process(arguments: list[str], port: int, log: Path) -> Iterator[int]:
    """Run a server until left; return its pid once it listens."""
    with log.open("ab") as output:
        child = subprocess.Popen(arguments, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        _await(port, child, log)
        yield child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def _await(port: int, child: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert child.poll() is None, log.read_text("utf-8", "replace")[-4000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("the server does not listen")


@contextlib.contextmanager
def web(made: Settings) -> Iterator[int]:
    """Run the broker's web role as `broker serve` does; return the pid of its (one) worker process."""
    command = [sys.executable, "-m", "broker", "serve", "--role", "web", "--config", str(made.data.parent / "broker.toml")]
    with process(command, made.server.http_port, made.data.parent / "web.log") as pid:
        yield worker(pid)


@dataclass(frozen=True)
class Served:
    """A web server of its own: its port, and the pid of its (one) worker process."""

    port: int
    pid: int


@contextlib.contextmanager
def served_floor(made: Settings, file: Path, where: Path) -> Iterator[Served]:
    """Serve the bare function that `file` describes with the product's own server on another port."""
    port = free_port()
    server = made.server.model_copy(update={"http_port": port})
    own = where / "floor-settings.json"
    own.write_text(made.model_copy(update={"server": server}).model_dump_json(), "utf-8")
    with process([sys.executable, "-m", "tests.bench.floor", str(own), str(file)], port, where / "floor.log") as pid:
        yield Served(port, worker(pid))


def worker(pid: int) -> int:
    """Return the pid of a web server's first worker process."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("there is no worker process")


def peak_memory(pid: int) -> str:
    """Return the peak resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM"):
            return f"{int(line.split()[1]) // 1024} MB"
    return "unknown"


def post(path: str, body: bytes, content_type: str = "application/soap+xml; charset=utf-8") -> bytes:
    """Return an HTTP request for a kept connection."""
    head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


class Load:
    """Sends prepared requests over several kept connections from a process of its own; see `load`.

    With the certificate of an `authority` they are of TLS.
    """

    def __init__(
        self, where: Path, requests: list[str], seconds: float = 1.5, connections: int = 4, authority: Path | None = None,
    ) -> None:
        self._authority = [str(authority)] if authority else []
        self._file, self._seconds, self._connections = where / "requests.json", seconds, connections
        self._file.write_text(json.dumps(requests), "utf-8")
        self._first = 10_000_000
        self.answered = 0       # in the last run, its warming up included

    def rate(self, port: int, expect: bytes) -> float:
        """Return requests/s. Every answer must be a 200 with `expect` in it."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.load", str(port), str(self._connections), str(self._seconds), str(self._first),
             str(self._file), expect.decode(), *self._authority], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        count, passed, answered = done.stdout.split()
        self.answered = int(answered)
        self._first += self.answered + 1000
        return int(count) / float(passed)


def transfer(port: int, request: bytes, attachment: Path | None = None, tail: bytes = b"") -> tuple[float, int, bytes]:
    """Send one request, its body ending with a file and `tail`; discard the answer. Give seconds, bytes, the body's start."""
    buffer, start = bytearray(_READ), b""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(request)
        if attachment is not None:
            with attachment.open("rb") as file:
                peer.sendfile(file)
            peer.sendall(tail)
        while b"\r\n\r\n" not in start:
            start += peer.recv(1 << 16)
        head, _, start = start.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        left = length - len(start)
        while left:
            count = peer.recv_into(buffer)
            assert count, "the answer was cut"
            if len(start) < _START:
                start += buffer[:min(count, _START)]
            left -= count
    return time.perf_counter() - started, length, start


def sync(path: Path) -> None:
    """Make a file durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
