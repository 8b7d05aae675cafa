"""FHIR XML (FHIR R4, xml): into the dictionaries of FHIR JSON and back, by the table of types."""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any
from xml.sax.saxutils import quoteattr

from lxml import etree

from broker.model.errors import FhirCode, Rejected
from broker.wire.fhir_check import DEEPEST, LONGEST_LIST, brief, check
from broker.wire.fhir_types import ELEMENT, RESOURCE, RESOURCES, TYPES, XHTML, Field
from broker.wire.xml import Element, NotXml, local_name, parse

FHIR = "http://hl7.org/fhir"
_UTF8 = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml\s[^>]*?encoding\s*=\s*["'](?!utf-?8["'])""", re.IGNORECASE)
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")     # XML 1.0 [2]


def read(data: bytes) -> dict[str, Any]:
    """Return the resource. Raise `Rejected` (structure, value) for what is no XML in UTF-8 or no resource of FHIR R4."""
    if _UTF8.match(data):
        raise Rejected(FhirCode.STRUCTURE, "the body is not UTF-8")
    try:
        root = parse(data)
    except NotXml as error:
        raise Rejected(FhirCode.STRUCTURE, error.problems[0].context) from error
    return check(_resource(root, 0))


def _resource(element: Element, depth: int) -> dict[str, Any]:
    if etree.QName(element).namespace != FHIR:
        raise Rejected(FhirCode.STRUCTURE, f"{brief(local_name(element))} is not in the namespace {FHIR}")
    kind = local_name(element)
    if kind not in RESOURCES:
        return {"resourceType": kind}   # `check` says whether it may be here
    return {"resourceType": kind, **_object(element, kind, depth)}


def _object(element: Element, kind: str, depth: int) -> dict[str, Any]:
    if depth > DEEPEST:
        raise Rejected(FhirCode.STRUCTURE, f"the body is nested more than {DEEPEST} deep")
    found: dict[str, Any] = _attributes(element)
    repeated: dict[str, int] = {}
    for child in element:
        name = local_name(child)
        field = TYPES[kind].get(name)
        if field is None or (etree.QName(child).namespace != FHIR and field.kind != XHTML):
            raise Rejected(FhirCode.STRUCTURE, f"{brief(name)} is no element of {kind} in R4", f"{kind}.{brief(name)}")
        number = repeated[name] = repeated.get(name, 0) + 1
        if number > 1 and not field.is_list:
            raise Rejected(FhirCode.STRUCTURE, f"{kind}.{name} is there more than once", f"{kind}.{name}")
        if number > LONGEST_LIST:
            raise Rejected(FhirCode.TOO_LONG, f"{kind}.{name} is there more than {LONGEST_LIST} times", f"{kind}.{name}")
        _add(found, field, child, depth, number)
    return found


def _attributes(element: Element) -> dict[str, str]:
    """Return the attributes but those of other namespaces, such as xsi:schemaLocation."""
    return {str(name): str(value) for name, value in element.attrib.items() if not str(name).startswith("{")}


def _add(found: dict[str, Any], field: Field, child: Element, depth: int, number: int) -> None:
    if field.kind == XHTML:
        found[field.name] = etree.tostring(child, encoding="unicode", with_tail=False)
    elif not field.is_primitive:
        _put(found, field, field.name, _inner(child, field, depth), number)
    else:
        value = child.get("value")
        beside = _object_beside(child, depth)
        if value is not None:
            _put(found, field, field.name, _value(value, field.kind), number)
        if beside:
            _put(found, field, f"_{field.name}", beside, number)


def _inner(child: Element, field: Field, depth: int) -> dict[str, Any]:
    if field.kind != RESOURCE:
        return _object(child, field.kind, depth + 1)
    if len(child) != 1:
        raise Rejected(FhirCode.STRUCTURE, f"{field.name} must hold one resource")
    return _resource(child[0], depth + 1)


def _object_beside(child: Element, depth: int) -> dict[str, Any]:
    """Return what a primitive has beside its value: an id, extensions."""
    found = _object(child, ELEMENT, depth + 1)
    found.pop("value", None)
    return found


def _put(found: dict[str, Any], field: Field, name: str, value: object, number: int) -> None:
    if not field.is_list:
        found[name] = value
        return
    values = found.setdefault(name, [])
    values += [None] * (number - 1 - len(values))       # repetitions that have no value, or nothing beside it
    values.append(value)


def _value(text: str, kind: str) -> object:
    """Return a value as JSON has it; one that is not of its kind stays a text, which `check` refuses."""
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if kind in {"integer", "unsignedInt", "positiveInt"}:
        return int(text) if re.fullmatch(r"-?[0-9]{1,10}", text) else text
    if kind == "decimal":
        try:
            return Decimal(text) if re.fullmatch(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", text) else text
        except InvalidOperation:
            return text
    return text


def write(resource: Mapping[str, Any]) -> bytes:
    """Return the resource as XML. A resource of a type that is not in the table is left out, and so is narrative."""
    kind = resource["resourceType"]
    return f'<?xml version="1.0" encoding="UTF-8"?><{kind} xmlns="{FHIR}">{_content(resource, kind)}</{kind}>'.encode()


def _content(value: Mapping[str, Any], kind: str) -> str:
    return "".join(piece for field in _fields(kind) for piece in _element(value, field))


def _fields(kind: str) -> Iterator[Field]:
    return (field for field in TYPES[kind].values() if field.kind != XHTML)


def _element(value: Mapping[str, Any], field: Field) -> Iterator[str]:
    name = field.name
    content = value.get(name)
    if content is None:
        return
    for one in content if field.is_list else [content]:
        if field.kind == RESOURCE:
            yield _resource_within(name, one)
        elif not field.is_primitive:
            yield f"<{name}{_as_attributes(one, TYPES[field.kind])}>{_content(one, field.kind)}</{name}>"
        elif one is not None:
            yield f"<{name} value={_quoted(one)}/>"


def _resource_within(name: str, resource: Mapping[str, Any]) -> str:
    kind = resource["resourceType"]
    return f"<{name}><{kind}>{_content(resource, kind)}</{kind}></{name}>" if kind in RESOURCES else ""


def _as_attributes(value: Mapping[str, Any], fields: Mapping[str, Field]) -> str:
    """Return what FHIR XML has as attributes: the id of an element, the URL of an extension."""
    return "".join(f" {key}={_quoted(value[key])}" for key in ("id", "url") if key in value and key not in fields)


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return quoteattr(_NO_XML.sub("\ufffd", text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
