"""FHIR JSON (FHIR R4, json): hardened reading, with every element checked against the types; writing."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from typing import Any, NoReturn

from broker.model.errors import FhirCode, Rejected
from broker.wire.fhir_check import DEEPEST, check

_TEXTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)      # one without an end, too: it must not be looked at again
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def read(data: bytes) -> dict[str, Any]:
    """Return the resource. Raise `Rejected` (structure, value) for what is no JSON in UTF-8 or no resource of FHIR R4."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not("UTF-8") from error
    if max(accumulate(map(_STEPS.__getitem__, _TEXTS.sub(b"", data).translate(None, _OTHERS))), default=0) > DEEPEST:
        raise Rejected(FhirCode.STRUCTURE, f"the body is nested more than {DEEPEST} deep")
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)
    except ValueError as error:         # its own text would repeat the body's
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise Rejected(FhirCode.STRUCTURE, f"the body is no JSON{where}") from error
    if not isinstance(found, dict):
        raise _not("a JSON object")
    return check(found)


def write(resource: Mapping[str, Any]) -> bytes:
    """Return the resource as JSON."""
    return json.dumps(resource, ensure_ascii=False, separators=(",", ":")).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Rejected(FhirCode.STRUCTURE, "a property is there twice in one object")
    return found


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError(text) from error


def _constant(_text: str) -> NoReturn:
    raise ValueError


def _not(what: str) -> Rejected:
    return Rejected(FhirCode.STRUCTURE, f"the body is not {what}")
