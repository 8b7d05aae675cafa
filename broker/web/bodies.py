"""Bodies of REST requests."""

import flask
from werkzeug.exceptions import ClientDisconnected, RequestTimeout


def has_body(request: flask.Request) -> bool:
    """Say whether a request has a body, of whatever length."""
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def read_body(request: flask.Request) -> bytes:
    """Return the whole body. Raise the HTTP error of one that is too long, comes too slowly or is cut."""
    try:
        return request.get_data()
    except ClientDisconnected as error:
        if isinstance(error.__context__, TimeoutError):
            raise RequestTimeout("the request body did not go on in time") from error
        raise ClientDisconnected("the request body was cut short") from error
