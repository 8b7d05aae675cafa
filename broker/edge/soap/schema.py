"""Validates requests against the XML schemas of `wsdl/schema/`."""

import copy
import itertools
import re
import threading

from lxml import etree

from broker.config.data import data
from broker.model.errors import Rejected
from broker.wire.xml import Element
from broker.wire.xop import INCLUDE

INVALID = "SchemaInvalid"
_LARGE = 5000       # elements

# libxml2 begins every message with the element; what follows may quote its value.
_ELEMENT = re.compile(r"Element '(?:\{[^}']*\})?([^']*)'(?:, attribute '(?:\{[^}']*\})?([^']*)')?")


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.schemas: dict[str, etree.XMLSchema] = {}


# One schema object per thread: threads that share one find each other's messages in its error log.
_kept = _PerThread()


def load(file: str) -> etree.XMLSchema:
    """Give this thread's schema of wsdl/schema/`file`. A file that is missing or wrong is a bug: lxml's error."""
    schema = _kept.schemas.get(file)
    if schema is None:
        schema = _kept.schemas[file] = etree.XMLSchema(file=str(data("wsdl") / "schema" / file))
    return schema


def check(file: str, element: Element) -> None:
    """Return when `element` is valid by wsdl/schema/`file`; XOP counts as the base64 it stands for.

    Raise `Rejected` (SchemaInvalid) naming the first offending element and its line, never its value.
    """
    first = _first_error(load(file), _without_includes(element))
    if first is None:
        return
    found = _ELEMENT.match(first.message)
    name = "/@".join(part for part in found.groups() if part) if found else "?"
    line = first.line or element.sourceline
    raise Rejected(INVALID, f"line {line}: {name} is not what {file} allows here ({first.type_name})")


def _first_error(schema: etree.XMLSchema, element: Element) -> "etree._LogEntry | None":
    """Give what is wrong first. All that is wrong gets logged; with its place in a tree, where lxml counts its siblings.

    So a large tree, whose 400 000 errors would take minutes, is written out and validated while it is parsed.
    """
    if next(itertools.islice(element.iter(), _LARGE, None), None) is None:
        return None if schema.validate(element) else schema.error_log[0]
    parser = etree.XMLParser(schema=schema, resolve_entities=False, no_network=True)
    try:
        etree.fromstring(etree.tostring(element, with_tail=False), parser)
    except etree.XMLSyntaxError as error:
        return parser.error_log[0] if len(parser.error_log) else error.error_log[0]
    return None


def _without_includes(element: Element) -> Element:
    if next(element.iter(INCLUDE), None) is None:
        return element
    bare = copy.deepcopy(element)
    for include in list(bare.iter(INCLUDE)):
        parent = include.getparent()
        if parent is not None:
            parent.remove(include)
    return bare
