"""Whether a dictionary in the form of FHIR JSON is a resource of FHIR R4: names, lists, types, forms of values."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from broker.model.errors import FhirCode, Rejected
from broker.wire.fhir_types import ELEMENT, RESOURCE, RESOURCES, TYPES, Field

DEEPEST: Final = 64             # objects and lists inside each other; a feed of ours has a dozen
LONGEST_LIST: Final = 1_000     # values of one element
_SHOWN: Final = 64
# What no text may hold (FHIR R4, string): control characters, and halves of characters, which have no form in UTF-8.
_UNFIT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_DATE: Final = r"[0-9]{4}(?:-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12][0-9]|3[01]))?)?"
_FORMS: Final = {kind: re.compile(pattern) for kind, pattern in {
    "date": _DATE,
    "dateTime": _DATE + r"(?:T[0-9:.]{5,20}(?:Z|[+-][0-9]{2}:[0-9]{2})?)?",
    "instant": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,20}(?:Z|[+-][0-9]{2}:[0-9]{2})",
    "code": r"[^\s]+(?:[ ][^\s]+)*", "id": r"[A-Za-z0-9.-]{1,64}", "uri": r"\S*", "url": r"\S*", "canonical": r"\S*",
    "oid": r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+", "uuid": r"urn:uuid:[0-9a-fA-F-]{36}",
}.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


_OF_KIND: Final[Mapping[str, Callable[[Any], bool]]] = {
    "boolean": lambda value: isinstance(value, bool),
    "decimal": _is_number,
    "integer": lambda value: _is_number(value) and isinstance(value, int),
    "unsignedInt": lambda value: _is_number(value) and isinstance(value, int) and value >= 0,
    "positiveInt": lambda value: _is_number(value) and isinstance(value, int) and value > 0,
}


def check(resource: dict[str, Any]) -> dict[str, Any]:
    """Return the resource. Raise `Rejected` (structure, value) at the first element that R4 does not know in this form."""
    kind = resource.get("resourceType")
    if not isinstance(kind, str) or kind not in RESOURCES:
        raise Rejected(FhirCode.STRUCTURE, f"no resourceType that is taken: {brief(kind)}", "resourceType")
    _check_object(resource, kind, kind)
    return resource


def brief(value: object) -> str:
    """Return what was sent as a refusal repeats it: names of elements and codes, never values of a person."""
    text = _UNFIT.sub("?", value) if isinstance(value, str) else "none" if value is None else "no text"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _check_object(value: dict[str, Any], kind: str, path: str) -> None:
    fields = TYPES[kind]
    for name, content in value.items():
        if name == "id" or (name == "resourceType" and kind in RESOURCES) or (name == "url" and kind == "Extension"):
            _check_text(content, "string", f"{path}.{name}")
            continue
        field = fields.get(name.removeprefix("_"))
        if field is None or (name.startswith("_") and not field.is_primitive):
            raise Rejected(FhirCode.STRUCTURE, f"{path}.{brief(name)} is no element of {kind} in R4", f"{path}.{brief(name)}")
        _check_field(content, field, f"{path}.{name}", beside=name.startswith("_"))


def _check_field(content: Any, field: Field, path: str, *, beside: bool) -> None:  # noqa: ANN401 - any JSON
    """Check an element, a list of it where R4 has a list. `beside`: it holds what belongs to a primitive beside its value."""
    if field.is_list != isinstance(content, list):
        raise Rejected(FhirCode.STRUCTURE, f"{path} must {'be' if field.is_list else 'not be'} a list", path)
    if field.is_list and len(content) > LONGEST_LIST:
        raise Rejected(FhirCode.TOO_LONG, f"{path} is there more than {LONGEST_LIST} times", path)
    values = enumerate(content) if field.is_list else [(None, content)]
    for number, value in values:
        place = path if number is None else f"{path}[{number}]"
        if value is None and field.is_list and field.is_primitive:
            continue                    # the value, or what is beside it, of this repetition is not there
        if field.is_primitive and not beside:
            _check_text(value, field.kind, place)
        elif not isinstance(value, dict):
            raise Rejected(FhirCode.STRUCTURE, f"{place} must be an object", place)
        elif field.kind == RESOURCE:
            _check_inner(value, place)
        else:
            _check_object(value, ELEMENT if beside else field.kind, place)


def _check_inner(resource: dict[str, Any], path: str) -> None:
    """Check a resource within another one; of types that we do not know only that it has one."""
    kind = resource.get("resourceType")
    if not isinstance(kind, str):
        raise Rejected(FhirCode.STRUCTURE, f"{path} has no resourceType", path)
    if kind in RESOURCES:
        _check_object(resource, kind, path)


def _check_text(value: object, kind: str, path: str) -> None:
    of_kind = _OF_KIND.get(kind)
    if of_kind is not None:
        if not of_kind(value):
            raise Rejected(FhirCode.VALUE, f"{path} is no {kind}", path)
        return
    form = _FORMS.get(kind)
    if not isinstance(value, str) or not value or _UNFIT.search(value) or (form is not None and not form.fullmatch(value)):
        raise Rejected(FhirCode.VALUE, f"{path} is no {kind}", path)
