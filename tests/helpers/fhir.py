"""The FHIR endpoint without a socket; every answer is checked by the R4B models of fhir.resources."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhir.resources.R4B import get_fhir_model_class
from lxml import etree
from werkzeug.test import Client, TestResponse

from broker.config.settings import Settings
from broker.model.caller import Certificate
from broker.model.transaction import AnyTransaction
from broker.security.gate import Gate
from broker.web import rest
from broker.web.fhir import FhirDoor
from broker.wire import fhir
from broker.wire.rest import PEER_CERTIFICATE

BASE = "http://127.0.0.1:8080/fhir"
TYPES = {"json": "application/fhir+json", "xml": "application/fhir+xml"}


@dataclass(frozen=True)
class Answer:
    """A reply: status, headers, the resource that is its body."""

    status: int
    headers: Mapping[str, str]
    resource: dict[str, Any]

    @property
    def issue(self) -> list[str]:
        """Severity, code and text of the only issue of an OperationOutcome."""
        [issue] = self.resource["issue"]
        return [issue["severity"], issue["code"], issue["diagnostics"]]


@functools.cache
def _model(kind: str) -> Any:
    return get_fhir_model_class(kind)


def checked(body: bytes, media_type: str) -> dict[str, Any]:
    """Return a resource that the R4B models find good, as a dictionary."""
    if media_type == "application/fhir+json; charset=utf-8":
        found: dict[str, Any] = json.loads(body)
        _model(found["resourceType"]).model_validate(found)
        return found
    assert media_type == "application/fhir+xml; charset=utf-8"
    kind = etree.QName(etree.fromstring(body)).localname
    model = _model(kind).model_validate_xml(body)
    return {"resourceType": kind, **json.loads(model.model_dump_json())}


class Fhir:
    """A client of these rows, which calls from an address."""

    def __init__(self, rows: Sequence[AnyTransaction], gate: Gate, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.client = Client(rest.build(rows, gate, settings, [FhirDoor(rows, settings.public_url)])["/fhir"])

    def send(
        self, method: str, path: str, body: bytes | None = None, form: str = "json", *, address: str = "127.0.0.1",
        headers: Mapping[str, str] | None = None, certificate: Certificate | None = None,
    ) -> TestResponse:
        """Send a request below the endpoint; media types of body and answer are those of `form` where `headers` say nothing."""
        said = {"Accept": TYPES[form], **({"Content-Type": TYPES[form]} if body is not None else {}), **(headers or {})}
        return self.client.open(
            f"/fhir{path}", method=method, data=body, headers=said,
            environ_overrides={"REMOTE_ADDR": address, **({PEER_CERTIFICATE: certificate} if certificate else {})})

    def ask(self, method: str, path: str, body: bytes | None = None, form: str = "json", **more: Any) -> Answer:
        """Send a request as `send` does; return its answer, which is a good resource."""
        reply = self.send(method, path, body, form, **more)
        assert reply.content_length == len(reply.data)
        return Answer(reply.status_code, dict(reply.headers), checked(reply.data, reply.headers["Content-Type"]))

    def get(self, path: str, form: str = "json", **more: Any) -> Answer:
        return self.ask("GET", path, None, form, **more)

    def put(self, identifier: str, resource: Mapping[str, Any], form: str = "json", **more: Any) -> Answer:
        """Put a Patient under `system|value`."""
        return self.ask("PUT", f"/Patient?identifier={identifier}", fhir.write(resource, form), form, **more)


def patient(*identifiers: str, **elements: Any) -> dict[str, Any]:
    """Return a Patient, 张伟 of 1979-02-14 where `elements` say nothing else, with identifiers of the form `system|value`."""
    pairs = [one.split("|") for one in identifiers]
    return {
        "resourceType": "Patient", "identifier": [{"system": system, "value": value} for system, value in pairs],
        "name": [{"family": "张", "given": ["伟"]}, {"family": "ZHANG", "given": ["WEI"]}], "gender": "male",
        "birthDate": "1979-02-14", **elements}


def merged(retired: str, survivor: str, **elements: Any) -> dict[str, Any]:
    """Return a Patient that is replaced by another one; both as `system|value`."""
    system, value = survivor.split("|")
    link = {"other": {"identifier": {"system": system, "value": value}}, "type": "replaced-by"}
    return patient(retired, **{"active": False, "link": [link], **elements})
