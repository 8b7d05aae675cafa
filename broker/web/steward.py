"""The steward's endpoint: decisions about patients and looks at them, in JSON."""

from collections.abc import Callable, Mapping

import flask
from werkzeug.exceptions import UnsupportedMediaType

from broker.web.bodies import has_body, read_body
from broker.wire.rest import RestReply, RestRequest
from broker.wire.steward_json import ENDPOINT, MEDIA_TYPE, write


class StewardDoor:
    """What its rows have in common beside the gate. `public_url` is how others reach the HTTP port."""

    endpoint = ENDPOINT

    def __init__(self, public_url: str) -> None:
        self.base = f"{public_url}{ENDPOINT}"

    def request(self, request: flask.Request, arguments: Mapping[str, str]) -> RestRequest:
        """Return the request with its body. Raise the HTTP error 415 for a body that is not said to be JSON."""
        if has_body(request) and request.mimetype != MEDIA_TYPE:       # which a page of another site cannot send unasked
            raise UnsupportedMediaType(f"a body must be {MEDIA_TYPE}")
        return RestRequest(
            line=f"{request.method} {request.environ['RAW_URI']}", base=self.base, arguments=arguments,
            query=tuple(request.args.items(multi=True)), body=read_body(request) if has_body(request) else b"",
            body_format=MEDIA_TYPE if has_body(request) else "", answer_format=MEDIA_TYPE)

    def refusal(self, request: flask.Request, status: int, text: str) -> RestReply:  # noqa: ARG002 - all answers are JSON
        """Return what HTTP itself refuses."""
        return write({"errors": [{"code": str(status), "text": text, "at": ""}]}, status)

    @property
    def pages(self) -> Mapping[str, Callable[[flask.Request], RestReply]]:
        """None."""
        return {}
