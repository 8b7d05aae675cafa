"""The request of a stored query (ITI TF-2 3.18.4.1.2), as a registry reads it and as a consumer writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lxml import etree

from broker.wire.ebxml_rim import Slots, read_slots, tag, write_slots
from broker.wire.xml import QUERY, RIM, Element, canonical

_OPTION, _QUERY = f"{{{QUERY}}}ResponseOption", tag("AdhocQuery")
_ONE_VALUE = 256                                            # characters the schema allows in one Value


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRequest:
    """A query:AdhocQueryRequest: the query's UUID URN, its Slots as they came, and the request's bytes for the audit."""

    query_id: str
    return_type: str
    slots: Slots
    body: bytes


def read_query_request(element: Element) -> QueryRequest:
    """Return what a query:AdhocQueryRequest asks; what is missing is empty."""
    option, query = next(element.iterchildren(_OPTION), None), next(element.iterchildren(_QUERY), None)
    return QueryRequest(
        query_id=query.get("id", "") if query is not None else "",
        return_type=option.get("returnType", "") if option is not None else "",
        slots=read_slots(query) if query is not None else (),
        body=canonical(element))


def write_query_request(
    query_id: str, parameters: Mapping[str, str | Sequence[str]], return_type: str = "LeafClass",
) -> bytes:
    """Return a query:AdhocQueryRequest.

    Text becomes a single value `'…'`, a sequence a list `('…','…')` split over Values of at most 256 characters.
    """
    root = etree.Element(f"{{{QUERY}}}AdhocQueryRequest", nsmap={"query": QUERY, None: RIM})
    etree.SubElement(root, f"{{{QUERY}}}ResponseOption", returnType=return_type, returnComposedObjects="true")
    query = etree.SubElement(root, tag("AdhocQuery"), id=query_id)
    write_slots(query, [
        (name, (_quoted(value),) if isinstance(value, str) else _listed(value)) for name, value in parameters.items()])
    return etree.tostring(root, encoding="UTF-8", xml_declaration=False)


def _quoted(text: str) -> str:
    """Return a stored query's string: quoted, apostrophes doubled (ITI TF-2 3.18.4.1.2.3.5)."""
    return "'" + text.replace("'", "''") + "'"


def _listed(texts: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for item in map(_quoted, texts):
        if found and len(found[-1]) + len(item) + 3 <= _ONE_VALUE:
            found[-1] += "," + item
        else:
            found.append(item)
    return tuple(f"({items})" for items in found)
