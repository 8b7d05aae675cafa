"""Hospital B's PACS and the sending modality of the demonstration: real programs, each in a process of its own.

The PACS is Orthanc where it is installed, else the query/retrieve server that ships with pynetdicom. Files are sent by
dcmtk's storescu, else by pynetdicom's.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.model.errors import Unavailable

_SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
_STOP_SECONDS = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A DICOM application: AE title and address."""

    ae_title: str
    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacs:
    """A running PACS: where it is, and which program it is."""

    node: Node
    program: str


@contextmanager
def pacs(folder: Path, node: Node, broker: Node) -> Iterator[Pacs]:
    """Run a PACS at `node` that knows `broker` as a move destination; its files and log are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    orthanc = shutil.which("Orthanc", path=_SEARCH)
    program = "Orthanc" if orthanc else "pynetdicom's qrscp"
    command = _orthanc(orthanc, folder, node, broker) if orthanc else _qrscp(folder, node, broker)
    with running(command, folder / "pacs.log") as process:
        await_port(node.host, node.port, process, program)
        yield Pacs(node=node, program=program)


def send(folder: Path, to: Node, calling: str) -> str:
    """Send all files of `folder` by C-STORE as AE title `calling`; return the program that did it.

    Raise `Unavailable` when the program says that it failed.
    """
    storescu = shutil.which("storescu")
    names = ["-aet", calling, "-aec", to.ae_title]
    command = (
        [storescu, "-R", "+sd", *names, to.host, str(to.port), str(folder)] if storescu
        else [sys.executable, "-m", "pynetdicom", "storescu", "-cx", "-r", *names, to.host, str(to.port), str(folder)])
    # Without TCP_NODELAY dcmtk waits 40 ms for every object.
    done = subprocess.run(
        command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{to.ae_title} for C-STORE (status {done.returncode}: {done.stderr.strip()[-200:]})")
    return "dcmtk storescu" if storescu else "pynetdicom storescu"


@contextmanager
def running(command: Sequence[str | Path], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program with its output in `log`, apart from this terminal's Ctrl-C; stop it with SIGTERM, at last SIGKILL."""
    with log.open("ab") as output, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def await_port(host: str, port: int, process: "subprocess.Popen[bytes]", name: str, patience: float = 30.0) -> None:
    """Return when something listens there. Raise `Unavailable` when the process ends first or `patience` is over."""
    end = time.monotonic() + patience
    while not _listens(host, port):
        if process.poll() is not None or time.monotonic() > end:
            raise Unavailable(f"{name} at {host}:{port}")
        time.sleep(0.05)


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def _orthanc(program: str, folder: Path, node: Node, broker: Node) -> list[str]:
    storage = folder / "orthanc"
    config = {
        "Name": node.ae_title, "StorageDirectory": str(storage), "IndexDirectory": str(storage), "Plugins": [],
        "HttpServerEnabled": False, "DicomServerEnabled": True, "DicomAet": node.ae_title, "DicomPort": node.port,
        "DicomCheckCalledAet": True, "AuthenticationEnabled": False, "DefaultEncoding": "Chinese",
        "DicomModalities": {"broker": [broker.ae_title, broker.host, broker.port]},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(config, indent=1))
    return [program, str(file)]


def _qrscp(folder: Path, node: Node, broker: Node) -> list[str]:
    file, place = folder / "qrscp.ini", str(folder).replace("%", "%%")
    file.write_text(
        f"[DEFAULT]\nae_title: {node.ae_title}\nport: {node.port}\nbind_address: {node.host}\nmax_pdu: 131072\n"
        "acse_timeout: 30\ndimse_timeout: 30\nnetwork_timeout: 30\nlog_identifier: False\n"
        f"instance_location: {place}/qrscp\ndatabase_location: {place}/qrscp.sqlite\n"
        f"[{broker.ae_title}]\naddress: {broker.host}\nport: {broker.port}\n")
    return [sys.executable, "-m", "pynetdicom", "qrscp", "-c", str(file)]
