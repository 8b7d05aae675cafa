"""The schemas we serve: what they refuse before a handler sees it, and that a client can load them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree
from zeep.loader import load_external
from zeep.transports import Transport
from zeep.xsd import Schema

from broker.config.data import data
from broker.wire import ebxml, xml
from broker.wire.ebxml_query import write_query_request
from broker.wire.ebxml_rim import tag
from broker.wire.xml import QUERY, Element
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


def _stranger(root: Element) -> None:
    etree.SubElement(_first(root, "RegistryObjectList"), "{urn:other}Thing", id="x")


REFUSED: dict[str, Callable[[Element], None]] = {
    "children out of order": _swap,
    "object without id": _drop("ExtrinsicObject", "id"),
    "object with an empty id": _set("ExtrinsicObject", "id", ""),
    "association without target": _drop("Association", "targetObject"),
    "association without source": _drop("Association", "sourceObject"),
    "association without type": _drop("Association", "associationType"),
    "classification of nothing": _drop("Classification", "classifiedObject"),
    "identifier of nothing": _drop("ExternalIdentifier", "registryObject"),
    "identifier without scheme": _drop("ExternalIdentifier", "identificationScheme"),
    "identifier without value": _drop("ExternalIdentifier", "value"),
    "identifier too long": _set("ExternalIdentifier", "value", "x" * 257),
    "name too long": _set("LocalizedString", "value", "x" * 1025),
    "name without value": _drop("LocalizedString", "value"),
    "slot without name": _drop("Slot", "name"),
    "slot name too long": _set("Slot", "name", "x" * 257),
    "slot without values": _no_values,
    "value too long": _long_value,
    "unknown attribute": _set("ExtrinsicObject", "colour", "red"),
    "unknown object": _stranger,
    "no object list": _no_list,
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in REFUSED.items()])
def test_refuses(change: Callable[[Element], None]) -> None:
    root = xml.parse(ebxml.submit_request(bundle([document()], [folder()], [link("Fol1", "Doc1")])))
    lcm = schema("lcm")
    lcm.assertValid(root)
    change(root)
    assert not lcm.validate(root)


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
