"""XML intake and output on lxml: a hardened parser, exclusive canonical form, the namespaces of the field.

A document with a DTD is refused before it reaches libxml2 (SOAP 1.2 part 1, section 5), entities are never resolved.
"""

import re
import threading

from lxml import etree

from broker.model.errors import Rejected

Element = etree._Element  # lxml's type for annotations

SOAP = "http://www.w3.org/2003/05/soap-envelope"
WSA = "http://www.w3.org/2005/08/addressing"
RIM = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"
RS = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"
LCM = "urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0"
QUERY = "urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0"
XDS = "urn:ihe:iti:xds-b:2007"
RAD = "urn:ihe:rad:xdsi-b:2009"
XOP = "http://www.w3.org/2004/08/xop/include"
HL7 = "urn:hl7-org:v3"


# A node takes 120 bytes of memory, `<a/>` four on the wire. Our densest real messages average one tag per 25 bytes.
_FREE_TAGS, _BYTES_OF_TAG = 100_000, 16

# Writing a document takes time as the square of an element's attributes, and of the namespaces in scope; messages of ours
# have less than a dozen (some libraries make up a prefix each time). Small documents are not looked at: their squares are small.
_MAX_ATTRIBUTES, _MAX_NAMESPACES, _FREE_ATTRIBUTES = 256, 2048, 2048
_ATTRIBUTE = rb"""\s*+[^\s<>=/"']++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+')"""
_CROWDED = re.compile(rb"""<[^\s<>/="']++(?:%s){%d}""" % (_ATTRIBUTE, _MAX_ATTRIBUTES + 1))
_NAMESPACE = re.compile(rb"""\sxmlns(?::[^\s=]*+)?\s*+=\s*+(?:"[^"]*+"|'[^']*+')""")

# libxml2 keeps every name and namespace in a dictionary of the thread, for as long as the thread lives. These limit how many
# new names, and how many letters of them, one message may add; what small messages add goes when the web worker replaces
# its threads (edge/http/worker.py).
_MAX_NAMES, _MAX_LETTERS, _FREE_NAMES = 2048, 1 << 17, 8192
_NAME = re.compile(rb"""<([^\s<>/="'!?]++)|<\?([^\s<>?]++)|\s([^\s<>/="']++)\s*+=\s*+["']""")

# The beginning of nearly every message: nothing else about it needs to be looked at.
_USUAL = re.compile(rb"""(?:<\?xml version="1\.0"(?: encoding="(?:UTF|utf)-8")?\?>)?\s*<[A-Za-z]""")
# Encodings in which the bytes of markup are markup and nothing else is, as iconv calls them.
_DECLARED = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml\s[^>]*?\sencoding\s*=\s*["']([^"']*)["']""")
_ENCODING = re.compile(
    rb"utf-?8|us-ascii|ascii|gb-?18030|gbk|gb2312|cp936|big5|big5-hkscs|cp950|iso-8859-\d+|latin1|windows-\d+|cp125\d|koi8-r"
    rb"|shift[-_]jis|euc-(?:jp|kr|cn|tw)", re.IGNORECASE)


class _PerThread(threading.local):
    """A parser works for one thread at a time."""

    def __init__(self) -> None:
        # collect_ids stays on: without it libxml2 fetches external parameter entities (lxml 6.0.2 to 6.1.3).
        self.parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False,
            remove_comments=True, remove_pis=True)
        self.faithful = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False)


_thread = _PerThread()


class NotXml(Rejected):
    """The bytes are not an acceptable XML document."""

    def __init__(self, why: str) -> None:
        super().__init__("NotXml", why)


def _starts_with_element(data: bytes) -> bool:
    """Say whether the first markup after BOM, XML declaration, comments and PIs is a start tag: so, no DTD."""
    at = 3 if data[:3] == b"\xef\xbb\xbf" else 0
    while at < len(data):
        if data[at] in b" \t\r\n":
            at += 1
        elif data.startswith((b"<?", b"<!--"), at):
            opening, closing = (b"<?", b"?>") if data.startswith(b"<?", at) else (b"<!--", b"-->")
            end = data.find(closing, at + len(opening))
            if end < 0:
                return False
            at = end + len(closing)
        else:
            first = data[at + 1:at + 2]
            return data[at] == 0x3C and (first > b"\x7f" or first.isalpha() or first in (b"_", b":"))
    return False


def parse(data: bytes) -> Element:
    """Return the root element. Comments and PIs are removed, whitespace is kept. Raise `NotXml` for anything unfit."""
    if _USUAL.match(data) is None:
        _check_beginning(data)
    if len(data) > _FREE_ATTRIBUTES:
        _check_counts(data)
    try:
        root = etree.fromstring(data, _thread.parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise NotXml(f"not well-formed: {str(error)[:200]}") from error
    if root.getroottree().docinfo.internalDTD is not None:     # in an encoding where ASCII bytes are other characters
        raise NotXml("a DTD is present")
    return root


def has_instructions(data: bytes) -> bool:
    """Say whether a document that `parse` took holds processing instructions; in CDATA and comments there are none."""
    if data.find(b"<?", len(b"<?xml")) < 0:
        return False
    tree = etree.fromstring(data, _thread.faithful).getroottree()
    return bool(tree.xpath("//processing-instruction()"))


def _check_beginning(data: bytes) -> None:
    if not _starts_with_element(data):
        raise NotXml("empty, not XML in an ASCII-compatible encoding, or a DTD is present")
    declared = _DECLARED.match(data)
    if declared is not None and not _ENCODING.fullmatch(declared[1]):
        raise NotXml("an encoding that is not taken")


def _check_counts(data: bytes) -> None:
    """Refuse what costs much more than its size."""
    tags, attributes = data.count(b"<") - data.count(b"</"), data.count(b"=")
    if max(tags, attributes) > max(_FREE_TAGS, len(data) // _BYTES_OF_TAG):
        raise NotXml("too many tags or attributes for its size")
    if attributes > _FREE_ATTRIBUTES and _CROWDED.search(data):
        raise NotXml("too many attributes of one element")
    if tags + attributes > _FREE_NAMES or len(data) > _MAX_LETTERS:
        _check_names(data)


def _check_names(data: bytes) -> None:
    names = {name for found in _NAME.finditer(data) if (name := found[1] or found[2] or found[3])}
    spaces = set(_NAMESPACE.findall(data))
    if len(spaces) > _MAX_NAMESPACES:
        raise NotXml("too many namespaces")
    if len(names) > _MAX_NAMES or sum(map(len, names | spaces)) > _MAX_LETTERS:
        raise NotXml("too many names")


def canonical(element: Element) -> bytes:
    """Return the exclusive canonical form: self-contained, free of the sender's unused namespaces.

    Raise `NotXml` where there is none, as for a relative URI as a namespace (Canonical XML 1.0, 1.3).
    """
    try:
        return etree.tostring(element, method="c14n", exclusive=True, with_comments=False)
    except etree.C14NError as error:
        raise NotXml("there is no canonical form of it: a namespace is a relative URI") from error


def local_name(element: Element) -> str:
    """Return the element's name without its namespace."""
    return etree.QName(element).localname


def in_default_namespace(element: Element) -> bytes:
    """Return the element in its namespace as the default one, whatever prefixes its sender used; attributes are kept."""
    namespace = etree.QName(element).namespace
    copy = etree.Element(element.tag, nsmap={None: namespace} if namespace else {})
    _copy(element, copy)
    return etree.tostring(copy)


def _copy(source: Element, target: Element) -> None:
    target.attrib.update(source.attrib)
    target.text, target.tail = source.text, source.tail if target.getparent() is not None else None
    for child in source:
        _copy(child, etree.SubElement(target, child.tag))
