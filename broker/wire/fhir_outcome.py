"""OperationOutcome: how a refusal is told in FHIR, and with which HTTP status."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from broker.model.errors import AccessCode, BrokerError, FhirCode, Hl7Code, Problem, Rejected, TooLarge, Unavailable
from broker.wire import fhir
from broker.wire.rest import RestReply

# Status and issue type (FHIR R4 http 3.1.0.4.1 and value set issue-type) of what the handlers of all doors refuse.
_ANSWERS: Final[Mapping[str, tuple[int, str]]] = {
    FhirCode.STRUCTURE: (400, "structure"), FhirCode.REQUIRED: (400, "required"), FhirCode.VALUE: (400, "value"),
    FhirCode.CODE_INVALID: (400, "code-invalid"), FhirCode.INVALID: (400, "invalid"),
    FhirCode.NOT_SUPPORTED: (400, "not-supported"), FhirCode.MEDIA_TYPE: (415, "not-supported"),
    FhirCode.TOO_LONG: (422, "too-long"), FhirCode.BUSINESS_RULE: (422, "business-rule"),
    FhirCode.MULTIPLE_MATCHES: (412, "multiple-matches"), FhirCode.NOT_FOUND: (404, "not-found"),
    FhirCode.CONFLICT: (409, "conflict"), FhirCode.FORBIDDEN: (403, "forbidden"),
    FhirCode.TARGET_UNKNOWN: (403, "code-invalid"), FhirCode.WANTED_UNKNOWN: (404, "not-found"),
    AccessCode.DENIED: (403, "forbidden"),
    Hl7Code.REQUIRED_FIELD_MISSING: (400, "required"), Hl7Code.DATA_TYPE: (400, "value"),
    Hl7Code.TABLE_VALUE: (400, "code-invalid"),
    Hl7Code.UNKNOWN_KEY: (422, "not-found"), Hl7Code.DUPLICATE_KEY: (422, "duplicate"),
}
_UNKNOWN: Final = (400, "processing")
_MILD: Final = frozenset((FhirCode.WANTED_UNKNOWN,))        # told as a warning although nothing else is answered (PDQm, case 4)

# Issue types of what HTTP itself refuses.
_TYPES: Final = {
    400: "invalid", 403: "forbidden", 404: "not-found", 405: "not-supported", 406: "not-supported", 408: "timeout",
    413: "too-long", 415: "not-supported", 500: "exception", 503: "transient"}


def outcome(kind: str, text: str, *, severity: str = "error", expression: str = "") -> dict[str, Any]:
    """Return an OperationOutcome of one issue."""
    return {"resourceType": "OperationOutcome", "issue": [_issue(kind, text, severity, expression)]}


def _issue(kind: str, text: str, severity: str, expression: str) -> dict[str, Any]:
    return {"severity": severity, "code": kind, "diagnostics": text, **({"expression": [expression]} if expression else {})}


def reply(resource: fhir.Resource, form: str, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> RestReply:
    """Return the reply that has this resource as its body, in JSON where the format is unknown."""
    form = form or fhir.JSON
    media_type = f"{fhir.MEDIA_TYPES[form]}; charset=utf-8"
    return RestReply(status=status, media_type=media_type, body=fhir.write(resource, form), headers=tuple(headers))


def refusal(status: int, text: str, form: str, headers: Sequence[tuple[str, str]] = ()) -> RestReply:
    """Return the reply to a request that HTTP itself refuses."""
    return reply(outcome(_TYPES.get(status, "processing"), text), form, status, headers)


def answer_of(problem: Problem) -> tuple[int, str]:
    """Return HTTP status and issue type of a problem."""
    return _ANSWERS.get(problem.code, _UNKNOWN)


def refused(error: BrokerError, form: str) -> RestReply:
    """Return the reply to a request that was refused; its status is that of the first problem."""
    if isinstance(error, Unavailable):
        return refusal(503, str(error), form, [("Retry-After", str(error.retry_after))])
    if isinstance(error, TooLarge):
        return refusal(413, str(error), form)
    problems = error.problems if isinstance(error, Rejected) else (Problem("", str(error)),)
    issues = [
        _issue(answer_of(one)[1], one.context, "warning" if one.code in _MILD else "error", one.location) for one in problems]
    return reply({"resourceType": "OperationOutcome", "issue": issues}, form, answer_of(problems[0])[0])


def translated(error: BrokerError, meanings: Mapping[tuple[str, str], tuple[FhirCode, str]]) -> BrokerError:
    """Return the error with its problems told as a transaction has them, by code and location; an empty text keeps theirs."""
    if not isinstance(error, Rejected):
        return error
    return Rejected.of([_meant(one, *meanings.get((one.code, one.location), (one.code, ""))) for one in error.problems])


def _meant(problem: Problem, code: str, text: str) -> Problem:
    return Problem(code, text or problem.context, problem.location)
