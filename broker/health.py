"""/healthz and /services: what this broker offers and whether each thing it depends on answers."""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from broker.config.settings import Settings
from broker.model.errors import BrokerError
from broker.model.modes import FILE, PRIVATE, make_file, make_folder
from broker.model.transaction import Transaction, Wire

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
_BEAT = 2.0
_STALE = 8.0


class Heartbeat:
    """Says that a role of this machine lives, by a file of its own in the run folder.

    It is touched, for a process that hangs, and locked, for one that was killed: the kernel lets go at once.
    """

    def __init__(self, folder: Path, role: str) -> None:
        self._file = folder / "roles" / f"{role}.{os.getpid()}"
        self._handle = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        make_folder(self._file.parent, PRIVATE)
        self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self._file.touch()
        self._thread.start()

    def stop(self) -> None:
        """End; the role is gone at once."""
        self._stop.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)
        os.close(self._handle)

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT):
            self._file.touch()


def living(folder: Path) -> dict[str, int]:
    """Return the number of living processes by role."""
    now = time.time()
    found: dict[str, int] = {}
    for file in (folder / "roles").glob("*.*"):
        try:
            age, held = now - file.stat().st_mtime, _is_held(file)
        except FileNotFoundError:
            continue
        if held and age < _STALE:
            role = file.name.partition(".")[0]
            found[role] = found.get(role, 0) + 1
        elif not held and age > 60 * _STALE:
            file.unlink(missing_ok=True)
    return found


def _is_held(file: Path) -> bool:
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def answers(address: tuple[str, int]) -> None:
    """Return when something listens there, else raise OSError."""
    with socket.create_connection(address, timeout=2):
        pass


def writable(folder: Path) -> None:
    """Return when a file can be made in `folder`, else raise OSError."""
    file = folder / ".probe"    # one name for all: what a killed process leaves, the next one removes
    make_file(file)
    file.unlink(missing_ok=True)


def probe(checks: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    """Run each check; return `ok`, or what is wrong, by name. A check may return a text of its own."""
    states: dict[str, str] = {}
    for name, run in checks.items():
        try:
            result = run()
        except (BrokerError, OSError) as error:
            states[name] = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        else:
            states[name] = result if isinstance(result, str) else "ok"
    return states


def healthz(checks: Mapping[str, Callable[[], object]], roles: Callable[[], Mapping[str, int]], wanted: Sequence[str]) -> Any:
    """Return the WSGI application of /healthz: 200 when all is well, 503 with the same body when not."""
    def application(_environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        states, alive = probe(checks), roles()
        states |= {f"role {name}": "ok" if alive.get(name) else "not running" for name in wanted}
        well = all(state == "ok" for state in states.values())
        return _json(start_response, "200 OK" if well else "503 Service Unavailable",
                     {"status": "ok" if well else "degraded", "dependencies": states})
    return application


def services(rows: Sequence[Transaction], settings: Settings) -> Any:
    """Return the WSGI application of /services: every endpoint, from the rows."""
    body = [describe(row, settings) for row in rows]

    def application(_environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return _json(start_response, "200 OK", {"services": body})
    return application


def describe(row: Transaction, settings: Settings) -> dict[str, Any]:
    """Return one row as /services shows it."""
    server = settings.server
    addresses = {
        Wire.SOAP: settings.public_url + row.endpoint,
        Wire.HTTP: settings.public_url + row.endpoint,
        Wire.HL7V2: f"mllp://{server.host}:{server.mllp_port}",
        Wire.DIMSE: f"dicom://{server.ae_title}@{server.host}:{server.dicom_port}",
    }
    return {
        "code": row.code, "name": row.name, "wire": row.wire, "address": addresses[row.wire],
        "wsdl": f"{addresses[row.wire]}?wsdl" if row.wire is Wire.SOAP else None,
        "packaging": row.packaging if row.wire is Wire.SOAP else None,
        "messages": [message.action or message.name for message in row.messages],
    }


def _json(start_response: StartResponse, status: str, body: Any) -> Iterable[bytes]:
    data = json.dumps(body, ensure_ascii=False, indent=1).encode()
    start_response(status, [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(data)))])
    return [data]
