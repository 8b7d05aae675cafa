"""The REST endpoints: each row of the wire HTTP as a rule of one Flask application, through the one gate."""

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import flask
import structlog
from werkzeug.exceptions import BadRequest, HTTPException, InternalServerError

from broker.config.settings import Settings
from broker.model.caller import Caller
from broker.model.transaction import AnyTransaction, Wire
from broker.security.gate import Gate
from broker.web.bodies import has_body
from broker.wire.rest import PEER_CERTIFICATE, RestReply, RestRequest, method_and_path

log = structlog.get_logger("broker.web")

Application = Callable[[dict[str, Any], Callable[[str, list[tuple[str, str]]], Any]], Iterable[bytes]]


class Door(Protocol):
    """What the rows of one endpoint have in common beside the gate; `base` is the endpoint's public address."""

    endpoint: str
    base: str

    def request(self, request: flask.Request, arguments: Mapping[str, str]) -> RestRequest:
        """Return the request with its body. Raise an HTTP error for what this endpoint does not take."""
        ...

    def refusal(self, request: flask.Request, status: int, text: str) -> RestReply:
        """Return, in the endpoint's own form, what HTTP itself refuses."""
        ...

    @property
    def pages(self) -> Mapping[str, Callable[[flask.Request], RestReply]]:
        """What is served beside transactions, by path below the endpoint: it tells of no patient and is not audited."""
        ...


def build(rows: Sequence[AnyTransaction], gate: Gate, settings: Settings, doors: Sequence[Door]) -> dict[str, Application]:
    """Return the application of the HTTP rows, under the first part of the path of each door."""
    app = flask.Flask("broker", static_folder=None)
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = settings.server.max_request
    for door in doors:
        for served in (one for one in rows if one.row.wire is Wire.HTTP and one.row.endpoint == door.endpoint):
            for message in served.row.messages:
                method, path = method_and_path(message)
                name = f"{served.row.code} {message.name}"
                app.add_url_rule(door.endpoint + path, name, _view(served, gate, door), methods=[method])
        for path, page in door.pages.items():
            app.add_url_rule(door.endpoint + path, door.endpoint + path, partial(_page, page), methods=["GET"])

    @app.errorhandler(Exception)
    def refused(error: Exception) -> flask.Response:
        first = flask.request.path.split("/", 2)[1]
        return _refusal(error, next(door for door in doors if door.endpoint == f"/{first}"))

    application = cast("Application", app.wsgi_app)     # start_response gets a third argument after errors of Flask's own only
    return {door.endpoint: application for door in doors}


def _view(served: AnyTransaction, gate: Gate, door: Door) -> Callable[..., flask.Response]:
    def view(**arguments: str) -> flask.Response:
        return _response(gate.perform(served, door.request(flask.request, arguments), _caller(door)))
    return view


def _page(page: Callable[[flask.Request], RestReply]) -> flask.Response:
    return _response(page(flask.request))


def _caller(door: Door) -> Caller:
    environ = flask.request.environ
    return Caller(address=environ.get("REMOTE_ADDR", ""), local_node=door.base, certificate=environ.get(PEER_CERTIFICATE))


def _response(reply: RestReply) -> flask.Response:
    response = flask.Response(reply.body, status=reply.status, headers=[*reply.headers, ("Cache-Control", "no-store")])
    if reply.media_type:
        response.headers["Content-Type"] = reply.media_type
    return response


def _refusal(error: Exception, door: Door) -> flask.Response:
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
    if has_body(flask.request):
        response.headers["Connection"] = "close"    # what is left of the body was not read
    return response
