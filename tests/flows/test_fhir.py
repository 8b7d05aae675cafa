"""The FHIR endpoint of the whole broker, as a client on the network meets it; the requests are those of docs/examples."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.client.mllp import feed_v2
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.wire.hl7v2 import Header, parse
from broker.wire.hl7v2_pix import read_pix_answer, write_pix_query
from tests.helpers.fhir import checked
from tests.helpers.region import Region

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    with Region(tmp_path_factory.mktemp("fhir"), server={"io_timeout": 2.0}) as running:
        yield running


@pytest.fixture
def http(region: Region) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=region.url, trust_env=False, timeout=60) as client:
        yield client


def example(name: str) -> bytes:
    """Return an example as it goes over the wire, closing its connection."""
    head, _, body = (EXAMPLES / f"{name}.http").read_bytes().partition(b"\n\n")
    body = body.rstrip(b"\n")       # the last line's end is the file's
    lines = [*head.split(b"\n"), b"Host: broker.example", b"Connection: close", f"Content-Length: {len(body)}".encode()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def exchange(region: Region, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes; return status and the resource that is answered."""
    with socket.create_connection(("127.0.0.1", region.http_port), 60) as connection:
        connection.sendall(data)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), checked(body, headers["content-type"])


def identifiers(resource: dict[str, Any]) -> list[tuple[str, str]]:
    found = [one.get("valueIdentifier") for one in resource.get("parameter", [])]
    return [(one["system"], one["value"]) for one in found if one]


def test_the_examples_work_and_all_doors_agree(region: Region) -> None:
    for name, status in (("iti104-add", 201), ("iti104-add", 200), ("iti104-add-xml", 201), ("iti104-merge", 200)):
        assert exchange(region, example(name))[0] == status, name
    for name in ("iti83", "iti83-parameters"):
        status, resource = exchange(region, example(name))
        assert (status, identifiers(resource)) == (200, [("urn:oid:2.999.3.1", "H2-555")])
    status, found = exchange(region, example("iti78"))
    assert (status, [one["resource"]["identifier"] for one in found["entry"]]) == (
        200, [[{"system": "urn:oid:2.999.2.1", "value": "H1-1001"}]])
    for name in ("iti78-search", "iti119"):
        status, found = exchange(region, example(name))
        assert (status, found["total"], found["entry"][0]["search"]["score"]) == (200, 1, 1.0), name
    header = Header(sender=("VIEW", "CONS"), receiver=("BROKER", "REGION"), message_id=MessageId.now())
    reply = feed_v2("127.0.0.1", region.mllp_port, write_pix_query(header, PatientId("2.999.2.1", "H1-1001"), ["2.999.3.1"]))
    assert read_pix_answer(parse(reply)) == (PatientId("2.999.3.1", "H2-555"),)
    assert {("ITI-83", "E", "0"), ("ITI-104", "C", "0"), ("ITI-104", "U", "0"), ("ITI-104", "D", "0")} <= region.audited()
    assert {("ITI-78", "E", "0"), ("ITI-119", "E", "0")} <= region.audited()


def test_the_endpoint_is_listed(http: httpx.Client, region: Region) -> None:
    services = {one["code"]: one for one in http.get("/services").json()["services"]}
    assert (services["ITI-83"]["address"], services["ITI-83"]["wire"]) == (f"{region.url}/fhir", "http")
    assert services["ITI-104"]["messages"] == ["PUT /Patient", "DELETE /Patient"]
    metadata = http.get("/fhir/metadata")
    assert checked(metadata.content, metadata.headers["content-type"])["implementation"]["url"] == f"{region.url}/fhir"


def test_bodies_in_chunks_and_kept_connections(http: httpx.Client) -> None:
    parameter = {"name": "sourceIdentifier", "valueString": "urn:oid:2.999.2.1|NEVER"}
    resource = {"resourceType": "Parameters", "parameter": [parameter]}
    for _ in range(3):
        answer = http.post("/fhir/Patient/$ihe-pix", content=iter([json.dumps(resource).encode()]),
                           headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (404, "not-found")


@pytest.mark.parametrize(("data", "status", "code"), [
    (b"PUT /fhir/Patient?identifier=a|b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
     b"Content-Length: 99\r\n\r\n{", 408, "timeout"),
    (b"PUT /fhir/Patient?identifier=a|b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
     b"Content-Length: 99999999\r\n\r\n{", 413, "too-long"),
    (b"PUT /fhir/Patient?identifier=a|b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
     b"Content-Length: 20000\r\n\r\n" + b"[" * 20000, 400, "structure"),
    (b"GET /fhir/Patient/$ihe-pix?sourceIdentifier=urn:oid:2.999.2.1|%E6%AC%A7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
     404, "not-found"),
])
def test_bad_requests_are_answered_as_outcomes(data: bytes, status: int, code: str, region: Region) -> None:
    found, resource = exchange(region, data)
    assert (found, resource["issue"][0]["code"]) == (status, code)
    assert region.health()["status"] == "ok"
