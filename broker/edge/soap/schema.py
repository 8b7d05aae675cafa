"""Validates requests against the XML schemas of `wsdl/schema/`."""

import copy
import re
import threading

from lxml import etree

from broker.config.data import data
from broker.model.errors import Rejected
from broker.wire.xml import Element
from broker.wire.xop import INCLUDE

INVALID = "SchemaInvalid"

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
    schema = load(file)
    if schema.validate(_without_includes(element)):
        return
    first = schema.error_log[0]
    found = _ELEMENT.match(first.message)
    name = "/@".join(part for part in found.groups() if part) if found else "?"
    raise Rejected(INVALID, f"line {first.line}: {name} is not what {file} allows here ({first.type_name})")


def _without_includes(element: Element) -> Element:
    if next(element.iter(INCLUDE), None) is None:
        return element
    bare = copy.deepcopy(element)
    for include in list(bare.iter(INCLUDE)):
        parent = include.getparent()
        if parent is not None:
            parent.remove(include)
    return bare
