"""The FHIR endpoint: what is asked of media types before a transaction is called, its refusals, its CapabilityStatement."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

import flask
from werkzeug.exceptions import BadRequest, NotAcceptable, UnsupportedMediaType

from broker.model.transaction import AnyTransaction
from broker.web.bodies import has_body, read_body
from broker.wire import fhir
from broker.wire.fhir_capability import ENDPOINT, FhirTransaction, capabilities
from broker.wire.fhir_outcome import refusal, reply
from broker.wire.rest import RestReply, RestRequest

_TAKEN: Final = " and ".join(fhir.MEDIA_TYPES.values())
_UNFIT: Final = re.compile("[\x00-\x1f\x7f]")
_MOST_FIELDS: Final = 1000      # of a form


class FhirDoor:
    """What the FHIR transactions have in common beside the gate. `public_url` is how others reach the HTTP port."""

    endpoint = ENDPOINT

    def __init__(self, rows: Sequence[AnyTransaction], public_url: str) -> None:
        self.base = f"{public_url}{ENDPOINT}"
        self._capabilities = capabilities([served.row for served in rows if isinstance(served.row, FhirTransaction)], self.base)

    def request(self, request: flask.Request, arguments: Mapping[str, str]) -> RestRequest:
        """Return the request with its body. Raise the HTTP errors 406 and 415 for media types that are not served."""
        answer_format = _wanted(request)
        body_format = _body_format(request)
        data = read_body(request) if body_format else b""
        query = [*request.args.items(multi=True), *(_form(data) if body_format == fhir.FORM else ())]
        if any(_UNFIT.search(text) for text in (*arguments.values(), *(text for pair in query for text in pair))):
            raise BadRequest("a parameter holds control characters")
        return RestRequest(
            line=f"{request.method} {request.environ['RAW_URI']}", base=self.base, arguments=arguments, query=tuple(query),
            headers={name.lower(): value for name, value in request.headers}, body=data, body_format=body_format,
            answer_format=answer_format)

    def refusal(self, request: flask.Request, status: int, text: str) -> RestReply:
        """Return the OperationOutcome of what HTTP itself refuses, in the format that is asked for where it is one."""
        return refusal(status, text, _answer_format(request))

    @property
    def pages(self) -> Mapping[str, Callable[[flask.Request], RestReply]]:
        """The CapabilityStatement."""
        return {"/metadata": lambda request: reply(self._capabilities, _wanted(request))}


def _answer_format(request: flask.Request) -> str:
    return fhir.answer_format(request.args.get("_format", ""), request.accept_mimetypes.values())


def _wanted(request: flask.Request) -> str:
    found = _answer_format(request)
    if not found:
        raise NotAcceptable(f"answers are {_TAKEN}")
    return found


def _body_format(request: flask.Request) -> str:
    """Return the format of the body, empty where there is none, whatever its type would be."""
    if not has_body(request):
        return ""
    if not request.mimetype:
        raise UnsupportedMediaType(f"a body needs its Content-Type: {_TAKEN} are taken")
    found = fhir.body_format(request.mimetype)
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if not found or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType(f"{_TAKEN} in UTF-8 are taken")
    return found


def _form(data: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise BadRequest("the form is not UTF-8, or has too many fields") from error
