"""The REST endpoints: each row of the wire HTTP as a rule of one Flask application, through the one gate."""

import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import flask
import structlog
from werkzeug.exceptions import BadRequest, ClientDisconnected, HTTPException, InternalServerError, RequestTimeout

from broker.config.settings import Settings
from broker.model.caller import Caller
from broker.model.transaction import AnyTransaction, Wire
from broker.security.gate import Gate
from broker.web.fhir import FhirDoor
from broker.wire.rest import PEER_CERTIFICATE, RestReply, method_and_path

log = structlog.get_logger("broker.web")

Application = Callable[[dict[str, Any], Callable[[str, list[tuple[str, str]]], Any]], Iterable[bytes]]


def build(rows: Sequence[AnyTransaction], gate: Gate, settings: Settings) -> Application:
    """Return the WSGI application of the HTTP rows. What HTTP itself refuses is told in the endpoint's own form."""
    rest = [served for served in rows if served.row.wire is Wire.HTTP]
    door = FhirDoor(rest, settings.public_url)
    app = flask.Flask("broker", static_folder=None)
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = settings.server.max_request
    for served in rest:
        for message in served.row.messages:
            method, path = method_and_path(message)
            app.add_url_rule(
                served.row.endpoint + path, f"{served.row.code} {message.name}", _view(served, gate, door), methods=[method])
    app.add_url_rule(f"{door.endpoint}/metadata", "metadata", lambda: _response(door.metadata(flask.request)), methods=["GET"])

    @app.errorhandler(Exception)
    def refused(error: Exception) -> flask.Response:
        return _refusal(error, door)

    return cast("Application", app.wsgi_app)    # it calls `start_response` with a third argument only after an error of its own


def _view(served: AnyTransaction, gate: Gate, door: FhirDoor) -> Callable[..., flask.Response]:
    def view(**arguments: str) -> flask.Response:
        return _response(gate.perform(served, door.request(flask.request, arguments, _body), _caller(door)))
    return view


def _body(request: flask.Request) -> bytes:
    """Return the whole body. Raise the HTTP error of one that is too long, comes too slowly or is cut."""
    try:
        return request.get_data()
    except ClientDisconnected as error:
        if isinstance(error.__context__, TimeoutError):
            raise RequestTimeout("the request body did not go on in time") from error
        raise ClientDisconnected("the request body was cut short") from error


def _caller(door: FhirDoor) -> Caller:
    environ = flask.request.environ
    return Caller(address=environ.get("REMOTE_ADDR", ""), local_node=door.base, certificate=environ.get(PEER_CERTIFICATE))


def _response(reply: RestReply) -> flask.Response:
    response = flask.Response(reply.body, status=reply.status, headers=[*reply.headers])
    if reply.media_type:
        response.headers["Content-Type"] = reply.media_type
    return response


def _refusal(error: Exception, door: FhirDoor) -> flask.Response:
    """Return what HTTP itself refuses; anything but an HTTP error is a bug, logged once, here, without the peer's words."""
    if not isinstance(error, HTTPException):
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("bug", error=type(error).__name__, frames=frames)
        error = InternalServerError("internal error")
    status = error.code or BadRequest.code
    response = _response(door.refusal(flask.request, status, error.description or error.name))
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    if flask.request.method not in {"GET", "HEAD"}:
        response.headers["Connection"] = "close"    # what is left of the body was not read
    return response
