"""/healthz and /services: what this broker offers and whether each thing it depends on answers."""

import json
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from broker.config.settings import Settings
from broker.files.modes import make_file
from broker.model.errors import BrokerError
from broker.model.transaction import TransactionRow, Wire

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


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


def healthz(
    checks: Mapping[str, Callable[[], object]], roles: Callable[[], Mapping[str, int]], wanted: Sequence[str],
    warnings: Sequence[str] = (),
) -> Any:
    """Return the WSGI application of /healthz: 200 when all is well, 503 with the same body when not.

    `warnings` are what an operator should know of a broker that is well.
    """
    def application(_environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        states, alive = probe(checks), roles()
        states |= {f"role {name}": "ok" if alive.get(name) else "not running" for name in wanted}
        well = all(state == "ok" for state in states.values())
        return _json(start_response, "200 OK" if well else "503 Service Unavailable",
                     {"status": "ok" if well else "degraded", "dependencies": states,
                      **({"warnings": [*warnings]} if warnings else {})})
    return application


def services(rows: Sequence[TransactionRow], settings: Settings) -> Any:
    """Return the WSGI application of /services: every endpoint, from the rows."""
    body = [describe(row, settings) for row in rows]

    def application(_environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return _json(start_response, "200 OK", {"services": body})
    return application


def describe(row: TransactionRow, settings: Settings) -> dict[str, Any]:
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
