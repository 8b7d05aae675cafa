"""What the steward's REST endpoint reads and answers: JSON, patient ids as CX (`id^^^&oid&ISO`)."""

import json
from collections.abc import Mapping
from typing import Any, Final

from broker.model.errors import AccessCode, BrokerError, Hl7Code, Rejected, TooLarge
from broker.model.ids import PatientId
from broker.wire.rest import RestReply

ENDPOINT: Final = "/patients"
MEDIA_TYPE: Final = "application/json"
_BAD_REQUEST, _UNAVAILABLE, _TOO_LARGE = 400, 503, 413
_STATUSES: Final[Mapping[str, int]] = {
    Hl7Code.UNKNOWN_KEY: 404, Hl7Code.DUPLICATE_KEY: 409, Hl7Code.RECORD_LOCKED: 409, AccessCode.DENIED: 403}


def read_object(data: bytes, fields: Mapping[str, type]) -> dict[str, Any]:
    """Return a JSON object that has none but these fields, each of its type. Raise `Rejected` (101, 102) for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Rejected(Hl7Code.DATA_TYPE, "the body is not JSON") from error
    if not isinstance(found, dict):
        raise Rejected(Hl7Code.DATA_TYPE, "the body is not a JSON object")
    for name, value in found.items():
        if name not in fields:
            raise Rejected(Hl7Code.DATA_TYPE, f"unknown field {name[:64]!r}; known are {', '.join(fields)}")
        if type(value) is not fields[name]:
            raise Rejected(Hl7Code.DATA_TYPE, f"{name} must be a {'text' if fields[name] is str else 'boolean'}", name)
    return found


def read_id(text: str, place: str) -> PatientId:
    """Return a patient id. Raise `Rejected` (102) for one that is none."""
    try:
        return PatientId.parse(text)
    except Rejected as error:
        raise Rejected(Hl7Code.DATA_TYPE, "not a patient id: id^^^&oid&ISO", place) from error


def write(body: object, status: int = 200) -> RestReply:
    """Return a reply with this body."""
    return RestReply(status=status, media_type=MEDIA_TYPE, body=json.dumps(body, ensure_ascii=False).encode())


def refuse(error: BrokerError) -> RestReply:
    """Return what was refused and why."""
    if isinstance(error, Rejected):
        status = _STATUSES.get(error.problems[0].code, _BAD_REQUEST)
        problems = [{"code": one.code, "text": one.context, "at": one.location} for one in error.problems]
        return write({"errors": problems}, status)
    status = _TOO_LARGE if isinstance(error, TooLarge) else _UNAVAILABLE
    return write({"errors": [{"code": "", "text": str(error), "at": ""}]}, status)
