"""The hand-written WSDL and XSD files as they are served."""

from collections.abc import Mapping

from lxml import etree

from broker.config.data import data
from broker.edge.soap.compat import InterfaceDocumentsBase
from broker.wire.xml import parse

_ADDRESS = "{http://schemas.xmlsoap.org/wsdl/soap12/}address"
_IMPORT = "{http://www.w3.org/2001/XMLSchema}import"

FILES: Mapping[str, str] = {
    "/xds/registry": "registry.wsdl", "/xds/repository": "repository.wsdl", "/xds/imaging": "imaging.wsdl", "/pix": "pix.wsdl",
    "/pdq": "pdq.wsdl",
}


def wsdl(endpoint: str, public_url: str) -> bytes:
    """Return the WSDL of an endpoint with its configured address; empty for an endpoint that has none."""
    name = FILES.get(endpoint)
    if name is None:
        return b""
    root = parse((data("wsdl") / name).read_bytes())
    for address in root.iter(_ADDRESS):
        address.set("location", public_url + endpoint)
    for link in root.iter(_IMPORT):
        link.set("schemaLocation", f"{public_url}/{link.get('schemaLocation')}")
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def schemas() -> dict[str, bytes]:
    """Return every XML schema by the path it is served at: the fixed map behind /schema/."""
    return {f"/schema/{file.name}": file.read_bytes() for file in sorted((data("wsdl") / "schema").glob("*.xsd"))}


class _Static:
    def __init__(self, text: bytes) -> None:
        self._text = text

    def get_interface_document(self) -> bytes:
        return self._text

    def build_interface_document(self, _url: str) -> None:
        """Nothing is generated."""


def documents(text: bytes) -> type[InterfaceDocumentsBase]:
    """Return the documents container that makes a spyne Application serve `text` instead of generating a WSDL."""
    class Documents(InterfaceDocumentsBase):
        def __init__(self, interface: object) -> None:
            super().__init__(interface, wsdl11=_Static(text))
    return Documents
