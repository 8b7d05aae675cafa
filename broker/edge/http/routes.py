"""The web application: routes by path, serves WSDL and schemas."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from broker.config.settings import Settings
from broker.edge.door.shares import Slots
from broker.edge.soap.application import Shared, SoapApplication
from broker.edge.soap.later import Later
from broker.edge.soap.wsdl import schemas, wsdl
from broker.model.transaction import AnyTransaction, Wire
from broker.security.gate import Gate

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def build(
    rows: Sequence[AnyTransaction], gate: Gate, settings: Settings, extra: Mapping[str, Application],
    below: Mapping[str, Application] = MappingProxyType({}),
) -> Application:
    """Return the web application: one SOAP endpoint per path of the SOAP rows, /schema/*.xsd, `extra` by path, and `below` by the

    first part of the path (`/fhir`). Rows of other wires are left alone. Build it in the process that serves it, never before a
    fork.
    """
    shared = Shared(Slots(settings.server.retrieve_slots), Later(settings.outbound))
    endpoints: dict[str, list[AnyTransaction]] = {}
    for served in rows:
        if served.row.wire is Wire.SOAP:
            endpoints.setdefault(served.row.endpoint, []).append(served)
    routes: dict[str, Application] = {path: _document(body) for path, body in schemas().items()}
    routes |= {
        path: SoapApplication(of_path, gate, settings, wsdl(path, settings.public_url), shared)
        for path, of_path in endpoints.items()}
    routes |= extra

    def route(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        application = routes.get(path) or below.get(f"/{path[1:].partition('/')[0]}", _not_found)
        return application(environ, start_response)
    return route


def _document(body: bytes) -> Application:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _text(start_response, "405 Method Not Allowed", ("Allow", "GET"))
        start_response("200 OK", [("Content-Type", "application/xml; charset=utf-8"), ("Content-Length", str(len(body)))])
        return (body,)
    return application


def _not_found(_environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return _text(start_response, "404 Not Found")


def _text(start_response: StartResponse, status: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    body = f"{status}\n".encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *headers])
    return (body,)
