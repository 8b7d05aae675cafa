"""FHIR R4 resources as plain dictionaries in the form of FHIR JSON: read from JSON or XML, checked, and written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from broker.model.errors import FhirCode, Rejected
from broker.wire import fhir_json, fhir_xml
from broker.wire.fhir_types import RESOURCES

JSON, XML, FORM = "json", "xml", "form"
Resource = Mapping[str, Any]

MEDIA_TYPES: Final = {JSON: "application/fhir+json", XML: "application/fhir+xml"}

# Media types as peers name them (FHIR R4 http 3.1.0.1.11): of bodies, of `_format` and of Accept.
_FORMATS: Final = {
    "json": JSON, "application/json": JSON, "text/json": JSON, "application/fhir+json": JSON,
    "xml": XML, "application/xml": XML, "text/xml": XML, "application/fhir+xml": XML}
_BODIES: Final = {**{name: kind for name, kind in _FORMATS.items() if "/" in name}, "application/x-www-form-urlencoded": FORM}
_ANY: Final = frozenset(("*/*", "application/*"))


def body_format(media_type: str) -> str:
    """Return the format of a body of this media type, without parameters; empty for one that is not taken."""
    return _BODIES.get(media_type.lower(), "")


def answer_format(asked: str, accepted: Iterable[str]) -> str:
    """Return the format of the answer: what `_format` asks, else the first of the accepted media types that we write.

    JSON where nothing is asked, empty where only others are.
    """
    if asked:
        return _FORMATS.get(asked.partition(";")[0].strip().replace(" ", "+").lower(), "")     # a bare + is a blank in a URL
    wanted = [one.partition(";")[0].strip().lower() for one in accepted]
    taken = (JSON if one in _ANY else _FORMATS[one] for one in wanted if one in _ANY or one in _FORMATS)
    return next(taken, "" if wanted else JSON)


def read(data: bytes, form: str, wanted: Sequence[str]) -> dict[str, Any]:
    """Return a resource of one of the `wanted` types. Raise `Rejected` (media-type, structure, value) for anything else."""
    if form not in MEDIA_TYPES:
        raise Rejected(FhirCode.MEDIA_TYPE, f"the body must be {' or '.join(MEDIA_TYPES.values())}")
    found = fhir_json.read(data) if form == JSON else fhir_xml.read(data)
    kind = found["resourceType"]
    if kind not in wanted:
        known = kind if kind in RESOURCES else "a resource of another type"
        raise Rejected(FhirCode.STRUCTURE, f"the body must be {' or '.join(wanted)}, and it is {known}", "resourceType")
    return found


def write(resource: Resource, form: str) -> bytes:
    """Return a resource in this format."""
    return fhir_json.write(resource) if form == JSON else fhir_xml.write(resource)
