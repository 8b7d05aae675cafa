"""Broken and hostile requests at the HTTP port of a running broker, each with the error its standard names."""

import contextlib
import hashlib
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.client import messages
from broker.model.ids import PatientId
from broker.model.metadata import Code
from broker.wire.ebxml import read_registry_response
from broker.wire.mime import MtomBody
from broker.wire.xml import RS
from tests.helpers.site import QUERY, REPOSITORY, SOAP_TYPE, XAD, Site, head, read_http, rest
from tests.helpers.soap import Reply

DATA = b"a manifest\r\n--with\0a line like a boundary\r\n" * 20


def codes(reply: Reply) -> list[str]:
    """Give the error codes of a RegistryResponse; a success has none."""
    assert (reply.status, reply.fault) == (200, ""), reply.body[:400]
    response = next(reply.root().iter(f"{{{RS}}}RegistryResponse"))
    found = read_registry_response(response)
    assert found.status.endswith(":Failure" if found.problems else ":Success")
    return [problem.code for problem in found.problems]


def send(site: Site, body: MtomBody) -> Reply:
    return site.post("/xds/repository", body, body.content_type)


def wrong_code(site: Site) -> MtomBody:
    made = site.objects(DATA)
    bad = {**made.documents[0].codes, "confidentialityCode": (Code("X", "2.16.840.1.113883.5.25", "Secret"),)}
    return site.provide(replace(made, documents=(replace(made.documents[0], codes=bad),)), DATA)


def without_part(site: Site) -> MtomBody:
    """The Document is there, what it refers to is not."""
    data = b"".join(site.provide(site.objects(DATA), DATA))
    return MtomBody(data[data.index(b"<?xml"):data.index(b"</s:Envelope>") + len(b"</s:Envelope>")], [])


SUBMISSIONS: dict[str, tuple[Callable[[Site], MtomBody], str]] = {
    "unknown patient": (lambda s: s.provide(s.objects(DATA, PatientId(XAD, "nobody")), DATA), "XDSUnknownPatientId"),
    "wrong code": (wrong_code, "XDSRegistryMetadataError"),
    "hash mismatch": (lambda s: s.provide(s.objects(DATA, hash=hashlib.sha1(b"x").hexdigest()), DATA),
                      "XDSRepositoryMetadataError"),
    "size mismatch": (lambda s: s.provide(s.objects(DATA, size=1), DATA), "XDSRepositoryMetadataError"),
    "missing document": (lambda s: s.provide(s.objects(DATA)), "XDSMissingDocument"),
    "missing attachment": (without_part, "XDSMissingDocument"),
    "surplus attachment": (lambda s: s.provide(s.objects(DATA), DATA, surplus=(b"more",)), "XDSMissingDocumentMetadata"),
}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_bad_submission_is_refused_whole(site: Site, name: str) -> None:
    make, code = SUBMISSIONS[name]
    before = site.audited("ITI-41", "4")
    with site.unchanged():
        assert codes(send(site, make(site))) == [code]
    assert site.audited("ITI-41", "4") == before + 1
    assert codes(send(site, site.provide(site.objects(DATA), DATA))) == []


def test_one_unique_id_has_one_content(site: Site, tmp_path: Path) -> None:
    objects = site.objects(DATA)
    assert codes(send(site, site.provide(objects, DATA))) == []
    other = DATA + b"other"
    unique_id = objects.documents[0].unique_id
    with site.unchanged():
        assert codes(send(site, site.provide(site.objects(other, unique_id=unique_id), other))) == ["XDSNonIdenticalHash"]
    with site.client() as client:
        entry = replace(objects.documents[0], repository_unique_id=REPOSITORY)
        (problem,) = client.manifests([entry], tmp_path).missing     # whole, and what was sent: only no manifest
    assert problem.code != "DamagedDocument"


GOOD_QUERY = messages.find_documents(PatientId(XAD, "nobody"))


def query(site: Site) -> bytes:
    return site.envelope(GOOD_QUERY, QUERY)


def in_header(site: Site, block: str) -> bytes:
    return query(site).replace(b"</s:Header>", block.encode() + b"</s:Header>")


def bomb(site: Site) -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    return query(site).replace(b"?>", f'?><!DOCTYPE x [<!ENTITY e0 "x">{entities}]>'.encode(), 1).replace(b"nobody", b"&e9;")


def secret(site: Site) -> bytes:
    return query(site).replace(
        b"?>", b'?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>', 1).replace(b"nobody", b"&e;")


REQUESTS: dict[str, tuple[Callable[[Site], bytes], str, int, str]] = {
    "DTD": (lambda s: query(s).replace(b"?>", b"?><!DOCTYPE x>", 1), SOAP_TYPE, 500, "Sender"),
    "entities": (bomb, SOAP_TYPE, 500, "Sender"),
    "external entity": (secret, SOAP_TYPE, 500, "Sender"),
    "second Body child": (lambda s: s.envelope(GOOD_QUERY * 2, QUERY), SOAP_TYPE, 500, "Sender"),
    "unknown action": (lambda s: s.envelope(GOOD_QUERY, "urn:ihe:iti:2007:Nothing"), SOAP_TYPE, 500, "Sender/ActionNotSupported"),
    "unknown Body child": (lambda s: s.envelope(b'<x xmlns="urn:x"/>', QUERY), SOAP_TYPE, 500, "Sender/ActionNotSupported"),
    "wrong content type": (query, "application/json", 415, "Sender"),
    "SOAP 1.1": (query, "text/xml; charset=utf-8", 415, "VersionMismatch"),
    "mustUnderstand on an unknown header": (
        lambda s: in_header(s, '<o:Odd xmlns:o="urn:odd" s:mustUnderstand="true"/>'), SOAP_TYPE, 500, "MustUnderstand"),
    "body over the limit": (lambda s: query(s) + b" " * (1 << 20), SOAP_TYPE, 413, "Sender"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_bad_envelope_is_a_fault(site: Site, name: str) -> None:
    make, kind, status, fault = REQUESTS[name]
    with site.unchanged():
        reply = site.post("/xds/registry", make(site), kind)
    assert (reply.status, reply.fault) == (status, fault), reply.body[:400]
    site.query()


def test_a_part_over_the_limit_is_refused(site: Site) -> None:
    body = site.provide(site.objects(DATA), DATA)
    data = b"".join(body).replace(b"</s:Envelope>", b" " * (1 << 20) + b"</s:Envelope>")
    with site.unchanged():
        assert site.post("/xds/repository", data, body.content_type).status == 413
    with site.unchanged():
        large = site.provide(site.objects(DATA), DATA, surplus=(b"x" * (8 << 20),))
        assert send(site, large).status == 413
    with site.unchanged():
        many = site.provide(site.objects(DATA), DATA, surplus=(b"x",) * 30)
        assert send(site, many).status == 413


# --- a body that is cut


def cuts(data: bytes, boundary: bytes) -> dict[str, int]:
    """Give places to cut: around each boundary, in each head and in the middle of each part."""
    found = {"nothing": 0}
    marks = [match.start() for match in re.finditer(re.escape(b"--" + boundary), data)]
    for number, (start, end) in enumerate(zip(marks, [*marks[1:], len(data)], strict=True)):
        line = start + 2 + len(boundary)
        body = data.find(b"\r\n\r\n", line) + 4
        places = {"before": start, "in the boundary": start + 5, "behind the boundary": line, "in the head": line + 20}
        if end < len(data):
            places |= {"behind the head": body, "in the middle": (body + end) // 2, "before the line end": end - 2,
                       "in the line end": end - 1}
        found |= {f"part {number}, {name}": place for name, place in places.items() if place < len(data)}
    assert len(set(found.values())) == len(found) - (1 if marks[0] == 0 else 0)
    return found


def whole(site: Site) -> tuple[bytes, str, dict[str, int]]:
    body = site.provide(site.objects(DATA), DATA)
    data = b"".join(body)
    match = re.search(r'boundary="?([^";]+)', body.content_type)
    assert match is not None
    return data, body.content_type, cuts(data, match.group(1).encode())


def closing(site: Site, data: bytes, kind: str, place: int) -> bytes:
    """The sender closes its side in mid-body."""
    with site.http() as connection:
        connection.sendall(head("/xds/repository", kind, f"Content-Length: {len(data)}") + data[:place])
        connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def ended(site: Site, data: bytes, kind: str, place: int) -> bytes:
    """The HTTP body is whole, what it holds is not."""
    chunks = (b"%x\r\n%b\r\n" % (place, data[:place]) if place else b"") + b"0\r\n\r\n"
    with site.http() as connection:
        connection.sendall(head("/xds/repository", kind, "Connection: close\r\nTransfer-Encoding: chunked") + chunks)
        return rest(connection)


def test_a_body_cut_anywhere_is_refused_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    data, kind, places = whole(site)
    assert len(places) > 15
    with site.unchanged():
        for name, place in places.items():
            for way in (closing, ended):
                reply = read_http(way(site, data, kind, place))
                assert (reply.status, reply.fault) == (400, "Sender"), (name, way)
    assert codes(read_http(ended(site, data, kind, len(data)))) == []
    site.goes_on(tmp_path)


def test_a_sender_that_vanishes_anywhere_leaves_nothing(site: Site, tmp_path: Path) -> None:
    data, kind, places = whole(site)
    with site.unchanged():
        for place in places.values():
            with site.http() as connection, contextlib.suppress(ConnectionError):
                connection.sendall(head("/xds/repository", kind, f"Content-Length: {len(data)}") + data[:place])
    site.goes_on(tmp_path)
