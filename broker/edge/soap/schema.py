"""Validates requests against the XML schemas of `wsdl/schema/`."""

import copy
import itertools
import re
import threading

from lxml import etree

from broker.config.data import data
from broker.model.errors import Rejected
from broker.wire.xml import HL7, Element, local_name
from broker.wire.xop import INCLUDE

INVALID = "SchemaInvalid"
_LARGE = 5000       # elements
_LONGEST = 80       # characters of an id or name that is repeated

# libxml2 begins every message with the element; what follows may quote its value, but for these.
_ELEMENT = re.compile(r"Element '(?:\{[^}']*\})?([^']*)'(?:, attribute '(?:\{[^}']*\})?([^']*)')?: ")
_NAMESPACE = re.compile(r"\{[^}]*\}")
_TOO = r"has a length of '(\d+)'; this \w+ the allowed m\w+ length of '(\d+)'\.$"
_EXPECTED = r"Expected is (?:one of )?\( (.*) \)\.$"
# What is wrong, by libxml2's name of it: where in the message its particulars stand, and how to say it.
_WRONG: dict[str, tuple[str, str]] = {
    "CVC_COMPLEX_TYPE_4": (r"^The attribute '(.*)' is required", "attribute {} is missing"),
    "CVC_COMPLEX_TYPE_3_2_1": (r"^()The attribute", "the attribute is not allowed here"),
    "CVC_COMPLEX_TYPE_3_2_2": (r"^()The attribute", "the attribute is not allowed here"),
    "CVC_COMPLEX_TYPE_2_1": (r"^()", "it must be empty"),
    "CVC_COMPLEX_TYPE_2_2": (r"^()", "it must hold text only"),
    "CVC_COMPLEX_TYPE_2_3": (r"^()", "it must not hold text"),
    "CVC_MAXLENGTH_VALID": (_TOO, "it is too long: {} characters, {} are allowed"),
    "CVC_MINLENGTH_VALID": (_TOO, "it is too short: {} characters, {} are needed"),
    "CVC_ENUMERATION_VALID": (r".* of the set \{(.*)\}\.$", "it must be one of {}"),
    "CVC_PATTERN_VALID": (r".* by the pattern '(.*)'\.$", "it must have the form {}"),
    "CVC_DATATYPE_VALID_1_2_1": (r".* of the atomic type '(.*)'\.$", "it is no {}"),
    "CVC_FACET_VALID": (r"^()", "it is out of bounds"),
    "CVC_ELT_1": (r"^()", "it is not what is expected here"),
    "CVC_ELT_3_1": (r"^()", "xsi:nil must be true or false"),
    "CVC_ELT_3_2_1": (r"^()", "xsi:nil says that it is empty"),
    "CVC_ELT_4_2": (r"^()", "xsi:type does not name its type"),
    "CVC_ELT_4_3": (r"^()", "xsi:type does not name its type"),
}
_CHILDREN = {"This element is not expected": "it is not allowed here", "Missing child element(s)": "a child is missing"}

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_NIL = f"{{{_XSI}}}nil"
_TYPE = f"{{{_XSI}}}type"
_XS = "{http://www.w3.org/2001/XMLSchema}"
_OPEN = "{urn:broker:schema}open"
# Every object of HL7 V3 has some of these, whatever it holds; a nil one may lack them.
_STRUCTURAL = ("typeCode", "classCode", "moodCode", "determinerCode")
# Types of HL7 V3 that our schema has no use for: those of its models, and data types of content that is taken as it comes.
_FOREIGN_TYPE = re.compile(
    r"(?:\w+:)?(?:[A-Z]{4}_[A-Z]{2}\d{6}[A-Z]{2}\d{2}(?:\.\w+)?|ANY|BIN|CR|EIVL_TS|GTS|IVL_(?:INT|PQ)|IVXB_TS|MO|PIVL_TS|PQ|REAL"
    r"|RTO(?:_\w+)?|SXCM_TS|SXPR_TS|URL)")
_BOOLEANS = frozenset(("true", "1", "false", "0"))
_HAS_HINTS = etree.XPath("boolean(.//@xsi:*)", namespaces={"xsi": _XSI}, regexp=False)
_HINTED = etree.XPath("descendant-or-self::*[@xsi:*]", namespaces={"xsi": _XSI})

_Absent = tuple[Element, Element | None, Element]      # parent, what was before it, the element


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.schemas: dict[str, etree.XMLSchema] = {}


# One schema object per thread: threads that share one find each other's messages in its error log.
_kept = _PerThread()


def load(file: str) -> etree.XMLSchema:
    """Return this thread's schema of wsdl/schema/`file`. A file that is missing or wrong is a bug: lxml's error."""
    schema = _kept.schemas.get(file)
    if schema is None:
        document = etree.parse(str(data("wsdl") / "schema" / file))
        _loosen(document.getroot())
        schema = _kept.schemas[file] = etree.XMLSchema(document)
    return schema


def _loosen(root: Element) -> None:
    """Take more than our schema of HL7 V3 promises: any content in a type marked `open`, and nil elements everywhere.

    Senders bend names and addresses, and what they leave out their libraries often write as `xsi:nil`.
    """
    opened = root.findall(f"{_XS}complexType[@{_OPEN}]")
    for kind in opened:
        del kind[:]
        kind.set("mixed", "true")
        content = etree.SubElement(etree.SubElement(kind, f"{_XS}sequence"), f"{_XS}any", processContents="lax", minOccurs="0")
        content.set("maxOccurs", "unbounded")
        etree.SubElement(kind, f"{_XS}anyAttribute", processContents="lax")
    for declared in root.iterfind(f"*//{_XS}element[@name]") if opened else ():
        declared.set("nillable", "true")


def check(file: str, element: Element) -> None:
    """Return when `element` is valid by wsdl/schema/`file`; XOP counts as the base64 it stands for.

    Attributes of XML Schema itself have said then what they had to say, and are gone: a nil element is not there (or empty,
    where one must be there), a type is the declared one. In HL7 V3 a nil element stays: it is a null one. Raise `Rejected`
    (SchemaInvalid) naming what is missing, too long or wrong, and where, never a value.
    """
    hinted = _HINTED(element) if _HAS_HINTS(element) else ()
    is_v3 = bool(hinted) and str(element.tag).startswith(f"{{{HL7}}}")
    added = [(one, name) for one in hinted for name in _take_null(one)] if is_v3 else []
    absent = [] if is_v3 else [taken for one in hinted if (taken := _take_nil(one)) is not None]
    schema = load(file)
    first = _first_error(schema, _without_includes(element))
    if first is not None:
        told = _told(first, element, file)
        _put_back(absent)
        if not absent or _first_error(schema, _without_includes(element)) is not None:
            raise Rejected(INVALID, told)
    for one, name in added:
        del one.attrib[name]
    for one in hinted:
        for name in [name for name in one.attrib if name.startswith(f"{{{_XSI}}}") and not (is_v3 and name == _NIL)]:
            del one.attrib[name]    # a prefix in a value is lost where its element is stored or quoted


def _take_null(element: Element) -> list[str]:
    """Let an element of HL7 V3 be nil, whatever it is, and return the attributes that it got for the schema's sake.

    A type of which our schema knows nothing is passed over.
    """
    if _FOREIGN_TYPE.fullmatch(element.get(_TYPE, "").strip()):
        del element.attrib[_TYPE]
    added = [name for name in _STRUCTURAL if name not in element.attrib] if element.get(_NIL, "").strip() in {"true", "1"} else []
    for name in added:
        element.set(name, "")
    return added


def _take_nil(element: Element) -> _Absent | None:
    """Take out an element that says that it is not there; one with attributes of its own stays (they may say why)."""
    said = element.get(_NIL, "").strip()
    if said not in _BOOLEANS:
        return None
    if said in {"true", "1"} and (len(element) or element.text):
        raise Rejected(INVALID, f"line {element.sourceline}: {local_name(element)}: xsi:nil says that it is empty")
    del element.attrib[_NIL]
    parent, before = element.getparent(), element.getprevious()
    bare = all(name.startswith(f"{{{_XSI}}}") for name in element.attrib)
    if said in {"false", "0"} or parent is None or not bare or (element.tail or "").strip():
        return None
    parent.remove(element)
    return parent, before, element


def _put_back(absent: "list[_Absent]") -> None:
    for parent, before, element in reversed(absent):
        if before is None:
            parent.insert(0, element)
        else:
            before.addnext(element)


def _told(error: "etree._LogEntry", element: Element, file: str) -> str:
    """Return an error of libxml2 without the values it quotes: where, and what is wrong there."""
    found = _ELEMENT.match(error.message)
    name, attribute = found.groups("") if found else ("?", "")
    text = error.message[found.end():].strip() if found else ""
    own, around = _place(element, error.path or "")
    where = f"{name}{own}{attribute and f'/@{attribute}'}{around}"
    return f"line {error.line or element.sourceline}: {where}: {_wrong(error.type_name, text)} ({file})"


def _wrong(kind: str, text: str) -> str:
    kind = kind.removeprefix("SCHEMAV_")
    if kind == "ELEMENT_CONTENT":
        told = next((told for said, told in _CHILDREN.items() if text.startswith(said)), "it does not fit")
        expected = re.search(_EXPECTED, text)
        return f"{told}; expected: {_NAMESPACE.sub('', expected[1])}" if expected else told
    pattern, told = _WRONG.get(kind, ("", ""))
    found = re.search(pattern, text, re.DOTALL) if pattern else None
    return told.format(*(_NAMESPACE.sub("", part) for part in found.groups())) if found else "it is not valid"


def _place(element: Element, path: str) -> tuple[str, str]:
    """Return what the element at `path` below `element` is called, and where it stands: " c1", " in ExtrinsicObject Doc1"."""
    place = element
    for step in path.split("/")[2:]:
        found = _child(place, step)
        if found is None:
            return "", ""
        place = found
    named = ((local_name(one), _called(one)) for one in place.iterancestors())
    around = [f" in {kind}{called}" for kind, called in named if called]
    return _called(place), "".join(around[:2])


def _child(parent: Element, step: str) -> Element | None:
    """Return the child that a step of libxml2's paths means: `*`, `*[3]`, `rim:Slot`, `rim:Slot[2]`."""
    name, _, number = step.rstrip("]").partition("[")
    alike = (one for one in parent if name in {"*", f"{one.prefix}:{local_name(one)}"})
    return next(itertools.islice(alike, int(number or 1) - 1, None), None)


def _called(element: Element) -> str:
    text = element.get("id") or element.get("name")
    return f" {text[:_LONGEST]}" if text else ""


def _first_error(schema: etree.XMLSchema, element: Element) -> "etree._LogEntry | None":
    """Return what is wrong first. All that is wrong gets logged; with its place in a tree, where lxml counts its siblings.

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
