"""ebRIM 3.0 as plain values: what XDS uses of the information model, before it means anything to XDS (ITI TF-3 4.2.1).

`read_object` never fails on odd content: it gives what is there, so that the rules can say what is wrong with it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from lxml import etree

from broker.wire.xml import RIM, Element

Slots = tuple[tuple[str, tuple[str, ...]], ...]

OBJECT_TYPE = "urn:oasis:names:tc:ebxml-regrep:ObjectType:RegistryObject:"

_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def tag(local: str) -> str:
    """Return the Clark name of an ebRIM element."""
    return f"{{{RIM}}}{local}"


_SLOT, _VALUE_LIST, _VALUE = tag("Slot"), tag("ValueList"), tag("Value")
_NAME, _DESCRIPTION, _LOCALIZED, _VERSION = tag("Name"), tag("Description"), tag("LocalizedString"), tag("VersionInfo")
_CLASSIFICATION, _IDENTIFIER = tag("Classification"), tag("ExternalIdentifier")
HEADS = (_SLOT, _NAME, _DESCRIPTION, _VERSION)              # the schema's order of children, before nested objects


def local_name(element: Element) -> str:
    """Return the name of an ebRIM element without its namespace; empty for an element of another namespace."""
    space, _, local = str(element.tag).rpartition("}")
    return local if space == "{" + RIM else ""


class Classification(NamedTuple):
    """A label (`node`) or a coded value (`scheme`, `code`, slots) of the object `owner`."""

    id: str
    owner: str
    node: str = ""
    scheme: str = ""
    code: str | None = None
    display: str = ""
    slots: Slots = ()


class Identifier(NamedTuple):
    """An ExternalIdentifier of the object `owner`. `label` is its Name."""

    id: str
    owner: str
    scheme: str
    value: str
    label: str = ""


class RimObject(NamedTuple):
    """An ExtrinsicObject, RegistryPackage or Association with all XDS uses of it. `attributes` holds the XML attributes."""

    kind: str
    attributes: dict[str, str]
    slots: Slots = ()
    name: str = ""
    description: str = ""
    version: str = ""
    classifications: tuple[Classification, ...] = ()
    identifiers: tuple[Identifier, ...] = ()

    @property
    def id(self) -> str:
        """The object's id; empty when it has none."""
        return self.attributes.get("id", "")


def values(slots: Slots, name: str) -> tuple[str, ...]:
    """Return the values of the slot called `name`; empty when there is none."""
    for slot, found in slots:
        if slot == name:
            return found
    return ()


def first(slots: Slots, name: str) -> str:
    """Return the first value of the slot called `name`, or empty text."""
    found = values(slots, name)
    return found[0] if found else ""


# Readers look at each child once, whatever its tag: iterating over the children of one tag costs lxml many times as much.
def read_slots(element: Element) -> Slots:
    """Return the slots that are children of `element`, in order, duplicates included."""
    return tuple([_slot(child) for child in element if child.tag == _SLOT])


def _slot(slot: Element) -> tuple[str, tuple[str, ...]]:
    return slot.get("name", ""), tuple([
        (value.text or "").strip()
        for listed in slot if listed.tag == _VALUE_LIST for value in listed if value.tag == _VALUE])


def read_classification(element: Element) -> Classification:
    """Return a rim:Classification."""
    get = element.get
    slots, display = _slots_and_name(element)
    return Classification(
        id=get("id", ""), owner=get("classifiedObject", ""), node=get("classificationNode", ""),
        scheme=get("classificationScheme", ""), code=get("nodeRepresentation"), display=display, slots=slots)


def read_object(element: Element) -> RimObject:
    """Return the registry object of an element of a RegistryObjectList."""
    children: dict[object, list[Element]] = {}
    for child in element:
        children.setdefault(child.tag, []).append(child)
    version = children.get(_VERSION)
    return RimObject(
        kind=local_name(element),
        attributes=dict(element.items()),
        slots=tuple([_slot(child) for child in children.get(_SLOT, ())]),
        name=_localized(children.get(_NAME, ())),
        description=_localized(children.get(_DESCRIPTION, ())),
        version=version[0].get("versionName", "1.1") if version else "",
        classifications=tuple([read_classification(child) for child in children.get(_CLASSIFICATION, ())]),
        identifiers=tuple([_identifier(child) for child in children.get(_IDENTIFIER, ())]),
    )


def _identifier(element: Element) -> Identifier:
    get = element.get
    return Identifier(
        id=get("id", ""), owner=get("registryObject", ""), scheme=get("identificationScheme", ""), value=get("value", ""),
        label=_slots_and_name(element)[1])


def _slots_and_name(element: Element) -> tuple[Slots, str]:
    slots, names = [], []
    for child in element:
        if child.tag == _SLOT:
            slots.append(_slot(child))
        elif child.tag == _NAME:
            names.append(child)
    return tuple(slots), _localized(names)


def _localized(names: Iterable[Element]) -> str:
    for texts in names:
        for text in texts:
            if text.tag == _LOCALIZED:
                return text.get("value", "")
    return ""


def write_object(parent: Element, rim: RimObject) -> Element:
    """Append the object to `parent`, children in the order of the schema. Characters XML cannot carry are left out."""
    element = etree.SubElement(parent, tag(rim.kind), {name: fit(value) for name, value in rim.attributes.items()})
    write_slots(element, rim.slots)
    _write_localized(element, "Name", rim.name)
    _write_localized(element, "Description", rim.description)
    if rim.version:
        etree.SubElement(element, tag("VersionInfo"), versionName=rim.version)
    for classification in rim.classifications:
        _write_classification(element, classification)
    for identifier in rim.identifiers:
        nested = etree.SubElement(
            element, tag("ExternalIdentifier"), id=identifier.id, registryObject=identifier.owner,
            identificationScheme=identifier.scheme, value=fit(identifier.value))
        _write_localized(nested, "Name", identifier.label)
    return element


def write_slots(element: Element, slots: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """Append the slots to `element`."""
    for name, texts in slots:
        listed = etree.SubElement(etree.SubElement(element, tag("Slot"), name=fit(name)), tag("ValueList"))
        for text in texts:
            etree.SubElement(listed, tag("Value")).text = fit(text)


def set_slot(element: Element, name: str, value: str) -> None:
    """Return the registry object's element one slot `name` with one value, in place of any it had."""
    for old in [slot for slot in element.iterfind(tag("Slot")) if slot.get("name") == name]:
        element.remove(old)
    count = sum(1 for _ in element.iterfind(tag("Slot")))
    write_slots(element, [(name, (value,))])
    element.insert(count, element[-1])


def _write_classification(parent: Element, row: Classification) -> None:
    attributes = {"id": row.id, "classifiedObject": row.owner, "classificationNode": row.node,
                  "classificationScheme": row.scheme}
    element = etree.SubElement(parent, tag("Classification"), {name: value for name, value in attributes.items() if value})
    if row.code is not None:
        element.set("nodeRepresentation", fit(row.code))
    write_slots(element, row.slots)
    _write_localized(element, "Name", row.display)


def _write_localized(parent: Element, local: str, value: str) -> None:
    if value:
        etree.SubElement(etree.SubElement(parent, tag(local)), tag("LocalizedString"), value=fit(value))


def fit(text: str) -> str:
    """Return the text without the characters XML 1.0 cannot carry."""
    return _UNFIT.sub("", text)
