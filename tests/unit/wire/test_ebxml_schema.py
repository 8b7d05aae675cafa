"""The schemas we serve: what they refuse before a handler sees it, and that a client can load them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree
from zeep.loader import load_external
from zeep.transports import Transport
from zeep.xsd import Schema

from broker.config.data import data
from broker.edge.soap.schema import check
from broker.model.errors import Rejected
from broker.wire import ebxml, xml
from broker.wire.ebxml_query import write_query_request
from broker.wire.ebxml_rim import tag
from broker.wire.xml import QUERY, RIM, Element
from tests.helpers.registry import bundle, document, folder, link, schema

NAMES = ("rim", "rs", "lcm", "query")


@pytest.mark.parametrize("name", NAMES)
def test_loads_in_a_client(name: str) -> None:
    path = Path(data("wsdl"), "schema", f"{name}.xsd")
    transport = Transport()  # type: ignore[no-untyped-call]  # zeep is not annotated
    with transport.session:
        loaded = Schema(load_external(str(path), transport), transport, location=str(path))  # type: ignore[no-untyped-call]
    assert not loaded.is_empty


@pytest.mark.parametrize("name", NAMES)
def test_imports_are_relative(name: str) -> None:
    root = etree.parse(str(Path(data("wsdl"), "schema", f"{name}.xsd"))).getroot()
    places = [element.get("schemaLocation", "") for element in root.iter("{http://www.w3.org/2001/XMLSchema}import")]
    assert all(place in {f"{other}.xsd" for other in NAMES} for place in places)


def _first(root: Element, local: str) -> Element:
    found = next(root.iter(tag(local)))
    assert isinstance(found, etree._Element)
    return found


def _swap(root: Element) -> None:
    entry = _first(root, "ExtrinsicObject")
    entry.append(_first(entry, "Slot"))


def _drop(local: str, attribute: str) -> Callable[[Element], None]:
    def change(root: Element) -> None:
        del _first(root, local).attrib[attribute]
    return change


def _set(local: str, attribute: str, value: str) -> Callable[[Element], None]:
    return lambda root: _first(root, local).set(attribute, value)


def _long_value(root: Element) -> None:
    _first(root, "Value").text = "x" * 257


def _no_list(root: Element) -> None:
    root.remove(_first(root, "RegistryObjectList"))


def _no_values(root: Element) -> None:
    slot = _first(root, "Slot")
    slot.remove(slot[0])


def _text(element: Element) -> None:
    element.text = "perhaps"


def _stranger(root: Element) -> None:
    etree.SubElement(_first(root, "RegistryObjectList"), "{urn:other}Thing", id="x")


# What is changed, and what the refusal names: the place, and what is missing, too long or wrong there.
REFUSED: dict[str, tuple[Callable[[Element], None], str]] = {
    "children out of order": (_swap, "Slot creationTime in ExtrinsicObject Doc1: it is not allowed here; expected: "),
    "object without id": (_drop("ExtrinsicObject", "id"), "ExtrinsicObject: attribute id is missing"),
    "object with an empty id": (_set("ExtrinsicObject", "id", ""), "ExtrinsicObject/@id: it is too short: 0 characters, 1 are"),
    "association without target": (_drop("Association", "targetObject"), ": attribute targetObject is missing"),
    "association without source": (_drop("Association", "sourceObject"), ": attribute sourceObject is missing"),
    "association without type": (_drop("Association", "associationType"), ": attribute associationType is missing"),
    "classification without id": (
        _drop("Classification", "id"), "Classification in ExtrinsicObject Doc1: attribute id is missing"),
    "classification of nothing": (_drop("Classification", "classifiedObject"), ": attribute classifiedObject is missing"),
    "identifier without id": (
        _drop("ExternalIdentifier", "id"), "ExternalIdentifier in ExtrinsicObject Doc1: attribute id is missing"),
    "identifier of nothing": (_drop("ExternalIdentifier", "registryObject"), ": attribute registryObject is missing"),
    "identifier without scheme": (
        _drop("ExternalIdentifier", "identificationScheme"), ": attribute identificationScheme is missing"),
    "identifier without value": (_drop("ExternalIdentifier", "value"), ": attribute value is missing"),
    "identifier too long": (_set("ExternalIdentifier", "value", "x" * 257), "/@value in ExtrinsicObject Doc1: it is too long: 2"),
    "name too long": (
        _set("LocalizedString", "value", "x" * 1025), "LocalizedString/@value in ExtrinsicObject Doc1: it is too long: 1025"),
    "name without value": (_drop("LocalizedString", "value"), "String in ExtrinsicObject Doc1: attribute value is missing"),
    "slot without name": (_drop("Slot", "name"), "Slot in ExtrinsicObject Doc1: attribute name is missing"),
    "slot name too long": (_set("Slot", "name", "n" * 257), "/@name in ExtrinsicObject Doc1: it is too long: 257 characters"),
    "slot without values": (_no_values, "Slot creationTime in ExtrinsicObject Doc1: a child is missing; expected: ValueList"),
    "value too long": (_long_value, "Value in Slot creationTime in ExtrinsicObject Doc1: it is too long: 257 characters, 256"),
    "unknown attribute": (_set("ExtrinsicObject", "colour", "red"), "ExtrinsicObject Doc1/@colour: the attribute is not allowed"),
    "wrong attribute": (_set("ExtrinsicObject", "isOpaque", "perhaps"), "ExtrinsicObject Doc1/@isOpaque: it is no xs:boolean"),
    "unknown object": (_stranger, "Thing x: it is not allowed here"),
    "text between children": (lambda root: _text(_first(root, "Slot")), "in ExtrinsicObject Doc1: it must not hold text"),
    "text of what has only attributes": (lambda root: _text(_first(root, "LocalizedString")), "LocalizedString"),
    "no object list": (_no_list, "SubmitObjectsRequest: a child is missing; expected: RequestSlotList, RegistryObjectList"),
}


def submitted() -> Element:
    return xml.parse(ebxml.submit_request(bundle([document(comments="王小明")], [folder()], [link("Fol1", "Doc1")])))


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_what_is_wrong_and_no_value(name: str) -> None:
    change, told = REFUSED[name]
    root = submitted()
    check("lcm.xsd", root)
    change(root)
    with pytest.raises(Rejected) as caught:
        check("lcm.xsd", root)
    said, = caught.value.problems
    assert said.code == "SchemaInvalid"
    assert told in said.context
    assert not [word for word in ("red", "perhaps", "xxxx", "王") if word in said.context]


# --- attributes of XML Schema itself

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_TYPES = {
    "ExtrinsicObject": "ExtrinsicObjectType", "RegistryPackage": "RegistryPackageType", "Association": "AssociationType1",
    "Classification": "ClassificationType", "ExternalIdentifier": "ExternalIdentifierType", "Slot": "SlotType1",
    "ValueList": "ValueListType", "Value": "LongName", "Name": "InternationalStringType",
    "Description": "InternationalStringType", "LocalizedString": "LocalizedStringType", "VersionInfo": "VersionInfoType",
    "RegistryObjectList": "RegistryObjectListType", "AdhocQuery": "AdhocQueryType",
}


def _asked() -> Element:
    return xml.parse(write_query_request("urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d", {"$XDSDocumentEntryPatientId": "x"}))


@pytest.mark.parametrize("make", [submitted, _asked])
def test_a_type_that_is_the_declared_one_is_taken_and_gone(make: Callable[[], Element]) -> None:
    root = make()
    plain = xml.canonical(root)
    rims = list(root.iter(f"{{{RIM}}}*"))
    prefixes = {uri: f"{prefix}:" if prefix else "" for prefix, uri in rims[0].nsmap.items()}
    for element in rims:
        element.set(f"{{{_XSI}}}type", prefixes[RIM] + _TYPES[xml.local_name(element)])
    check("lcm.xsd" if make is submitted else "query.xsd", root)
    assert xml.canonical(root) == plain


@pytest.mark.parametrize(("local", "kind"), [
    ("ExtrinsicObject", "AssociationType1"), ("Value", "SlotType1"), ("Slot", "unknown")])
def test_another_type_is_refused(local: str, kind: str) -> None:
    root = submitted()
    _first(root, local).set(f"{{{_XSI}}}type", kind)
    with pytest.raises(Rejected, match="xsi:type does not name its type"):
        check("lcm.xsd", root)


@pytest.mark.parametrize("said", ["false", "0"])
def test_an_element_that_is_not_nil_may_say_so(said: str) -> None:
    root = submitted()
    plain = xml.canonical(root)
    for element in root.iter():
        element.set(f"{{{_XSI}}}nil", said)
    check("lcm.xsd", root)
    assert xml.canonical(root) == plain


@pytest.mark.parametrize("said", ["true", "1", " true "])
@pytest.mark.parametrize(("parent", "at", "local"), [
    ("ExtrinsicObject", "Name", "Description"), ("ExtrinsicObject", "Classification", "VersionInfo"), ("ValueList", "", "Value"),
    ("ExtrinsicObject", "Slot", "Slot"), ("Association", "", "ExternalIdentifier"), ("RegistryObjectList", "", "Association"),
])
def test_a_nil_element_is_not_there(said: str, parent: str, at: str, local: str) -> None:
    root = submitted()
    plain = xml.canonical(root)
    holder = _first(root, parent)
    nil = etree.Element(tag(local), {f"{{{_XSI}}}nil": said})
    if at and at != "Name":
        _first(holder, at).addprevious(nil)
    elif at:
        for old in holder.findall(tag(local)):
            holder.remove(old)
        plain = xml.canonical(root)
        _first(holder, at).addnext(nil)
    else:
        holder.append(nil)
    check("lcm.xsd", root)
    assert xml.canonical(root) == plain


def test_a_nil_element_that_must_be_there_is_empty() -> None:
    """As `<contactParty xsi:nil="true"/>` of HL7 V3, which its organisation must have."""
    root = submitted()
    listing = _first(root, "RegistryObjectList")
    root.remove(listing)
    for _ in range(3):
        root.append(etree.Element(tag("RegistryObjectList"), {f"{{{_XSI}}}nil": "true"}))
    with pytest.raises(Rejected, match="a child is missing"):
        check("lcm.xsd", root)
    for extra in root[1:]:
        root.remove(extra)
    root[0].set(f"{{{_XSI}}}nil", "true")
    check("lcm.xsd", root)
    assert [(child.tag, dict(child.attrib)) for child in root] == [(tag("RegistryObjectList"), {})]


@pytest.mark.parametrize(("text", "told"), [
    ('<Name xsi:nil="true"><LocalizedString value="x"/></Name>', "xsi:nil says that it is empty"),
    ('<Name xsi:nil="true"> </Name>', "xsi:nil says that it is empty"),
    ('<Name xsi:nil="perhaps"/>', "xs:boolean"),
    ('<Slot name="x" xsi:nil="true"/>', "a child is missing"),
])
def test_nil_is_no_excuse(text: str, told: str) -> None:
    root = submitted()
    entry = _first(root, "ExtrinsicObject")
    entry.remove(_first(entry, "Name"))
    made = xml.parse(f'<x xmlns="{RIM}" xmlns:xsi="{_XSI}">{text}</x>'.encode())[0]
    entry.insert(0 if made.tag == tag("Slot") else len(entry.findall(tag("Slot"))), made)
    with pytest.raises(Rejected, match=told):
        check("lcm.xsd", root)


def test_many_nil_elements_cost_little() -> None:
    root = submitted()
    listing = _first(root, "ValueList")
    for _ in range(20_000):
        etree.SubElement(listing, tag("Value"), {f"{{{_XSI}}}nil": "true"}).tail = "\n"
    check("lcm.xsd", root)
    assert [child.text for child in listing] == ["20240506013005"]


def test_values_may_be_as_long_as_the_standard_says() -> None:
    root = xml.parse(ebxml.submit_request(bundle([document(comments="评" * 1024, uri="x" * 256)])))
    schema("lcm").assertValid(root)


@pytest.mark.parametrize("change", [
    pytest.param(lambda root: root.remove(root[0]), id="no response option"),
    pytest.param(lambda root: root.remove(root[1]), id="no query"),
    pytest.param(lambda root: root[0].set("returnType", "Everything"), id="unknown return type"),
    pytest.param(lambda root: root.append(root[0]), id="out of order"),
    pytest.param(lambda root: root[1].attrib.pop("id"), id="query without id"),
])
def test_refuses_queries(change: Callable[[Element], None]) -> None:
    root = xml.parse(write_query_request("urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d", {"$XDSDocumentEntryPatientId": "x"}))
    schema("query").assertValid(root)
    assert root.tag == f"{{{QUERY}}}AdhocQueryRequest"
    change(root)
    assert not schema("query").validate(root)
