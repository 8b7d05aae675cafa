"""Broken and hostile requests at the HTTP port of a running broker, each with the error its standard names."""

import contextlib
import hashlib
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from broker.client import messages
from broker.files.sources import Octets
from broker.model.ids import PatientId
from broker.model.metadata import Code, DocumentEntry, RegistryObjects
from broker.wire import hl7v3
from broker.wire.ebxml import read_registry_response
from broker.wire.mime import MtomBody
from broker.wire.soap import Part
from broker.wire.xml import RS
from tests.helpers.patients import DEVICE_B, HOSPB, WEI
from tests.helpers.patients import OURS as BROKER
from tests.helpers.site import PROVIDE, QUERY, REPOSITORY, RETRIEVE, SOAP_TYPE, XAD, Site, head, read_http, rest
from tests.helpers.soap import Reply

pytestmark = [pytest.mark.peer("dcmtk")]

DATA = b"a manifest\r\n--with\0a line like a boundary\r\n" * 20
FIRST = b"the first of two"
Make = Callable[[Site], RegistryObjects]


def codes(reply: Reply) -> list[str]:
    """Return the error codes of a RegistryResponse; a success has none."""
    assert (reply.status, reply.fault) == (200, ""), reply.body[:400]
    response = next(reply.root().iter(f"{{{RS}}}RegistryResponse"))
    found = read_registry_response(response)
    assert found.status.endswith(":Failure" if found.problems else ":Success")
    return [problem.code for problem in found.problems]


def kept(site: Site, entry: DocumentEntry) -> bytes:
    """Return the bytes that ITI-43 gives."""
    wanted = messages.retrieve_documents([replace(entry, repository_unique_id=REPOSITORY)])
    request = MtomBody(site.envelope(wanted, RETRIEVE))
    parts = site.post("/xds/repository", request, request.content_type).parts()
    del parts["root"]
    (data,) = parts.values()
    return data


def send(site: Site, body: MtomBody) -> Reply:
    return site.post("/xds/repository", body, body.content_type)


def wrong_code(site: Site) -> RegistryObjects:
    made = site.objects(DATA)
    bad = {**made.documents[0].codes, "confidentialityCode": (Code("X", "2.16.840.1.113883.5.25", "Secret"),)}
    return replace(made, documents=(replace(made.documents[0], codes=bad),))


def one(**changes: Any) -> Make:
    return lambda site: site.objects(DATA, **changes)


def two(make: Make) -> Make:
    """The first document is good, the second one is that of `make`."""
    def both(site: Site) -> RegistryObjects:
        first, second = site.objects(FIRST), make(site)
        member = replace(second.associations[0], id="member2")
        return replace(first, documents=first.documents + second.documents, associations=(*first.associations, member))
    return both


NOBODY = PatientId(XAD, "nobody")
OTHER_HASH = hashlib.sha1(b"x").hexdigest()
# What is told of the documents, how they are sent, and the error.
SUBMISSIONS: dict[str, tuple[Make, dict[str, Any], str]] = {
    "unknown patient": (lambda s: s.objects(DATA, NOBODY), {}, "XDSUnknownPatientId"),
    "unknown patient of the second document": (two(lambda s: s.objects(DATA, NOBODY)), {}, "XDSPatientIdDoesNotMatch"),
    "wrong code": (wrong_code, {}, "XDSRegistryMetadataError"),
    "wrong code of the second document": (two(wrong_code), {}, "XDSRegistryMetadataError"),
    "hash mismatch": (one(hash=OTHER_HASH), {}, "XDSRepositoryMetadataError"),
    "hash mismatch of the second document": (two(one(hash=OTHER_HASH)), {}, "XDSRepositoryMetadataError"),
    "size mismatch": (one(size=1), {}, "XDSRepositoryMetadataError"),
    "size mismatch of the second document": (two(one(size=1)), {}, "XDSRepositoryMetadataError"),
    "missing document": (one(), {"count": 0}, "XDSMissingDocument"),
    "missing second document": (two(one()), {"count": 1}, "XDSMissingDocument"),
    "missing attachment": (one(), {"lost": 1}, "XDSMissingDocument"),
    "missing second attachment": (two(one()), {"lost": 1}, "XDSMissingDocument"),
    "surplus attachment": (one(), {"surplus": (b"more",)}, "XDSMissingDocumentMetadata"),
    "surplus attachment after two": (two(one()), {"surplus": (b"more",)}, "XDSMissingDocumentMetadata"),
}


def submission(site: Site, objects: RegistryObjects, *, count: int = 2, **how: Any) -> MtomBody:
    documents = (FIRST, DATA)[-len(objects.documents):]
    return site.provide(objects, *documents[:count], **how)


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_bad_submission_is_refused_whole(site: Site, name: str) -> None:
    make, how, code = SUBMISSIONS[name]
    before = site.audited("ITI-41", "4")
    with site.unchanged():
        assert codes(send(site, submission(site, make(site), **how))) == [code]
    assert site.audited("ITI-41", "4") == before + 1
    good = two(one())(site)
    assert codes(send(site, submission(site, good))) == []
    assert [kept(site, entry) for entry in good.documents] == [FIRST, DATA]


def test_one_unique_id_has_one_content(site: Site) -> None:
    objects = site.objects(DATA)
    assert codes(send(site, site.provide(objects, DATA))) == []
    other = DATA + b"other"
    unique_id = objects.documents[0].unique_id
    with site.unchanged():
        assert codes(send(site, site.provide(site.objects(other, unique_id=unique_id), other))) == ["XDSNonIdenticalHash"]
    with site.unchanged():          # also with a good document before it
        second = two(lambda s: s.objects(other, unique_id=unique_id))(site)
        assert codes(send(site, site.provide(second, FIRST, other))) == ["XDSNonIdenticalHash"]
    assert kept(site, objects.documents[0]) == DATA


# --- envelopes, at a door that stores nothing, at one that takes attachments, and at the one for feeds


@dataclass(frozen=True)
class Door:
    """A good request: its path, action, envelope, attachments, a text in it, and what tells that it was taken."""

    path: str
    action: str
    root: bytes
    parts: list[Part]
    word: str
    taken: bytes

    def request(self, root: bytes, kind: str) -> tuple[bytes, str]:
        """Return body and content type of the request with another envelope; `kind` replaces the type."""
        if not self.parts:
            return root, kind or SOAP_TYPE
        body = MtomBody(root, self.parts)
        return b"".join(body), kind or body.content_type


def registry(site: Site) -> Door:
    root = site.envelope(messages.find_documents(NOBODY), QUERY)
    return Door("/xds/registry", QUERY, root, [], "nobody", b"ResponseStatusType:Success")


def repository(site: Site) -> Door:
    objects = site.objects(DATA)
    root = site.envelope(messages.provide(objects, {objects.documents[0].id: "doc@test"}), PROVIDE)
    part = Part(content_id="doc@test", media_type="application/octet-stream", source=Octets(DATA))
    return Door("/xds/repository", PROVIDE, root, [part], site.patient.value, b"ResponseStatusType:Success")


def pix(site: Site) -> Door:
    feed = hl7v3.write_add_patient(PatientId(HOSPB, f"B-{site.number()}"), WEI, sender=DEVICE_B, receiver=BROKER)
    action = f"urn:hl7-org:v3:{hl7v3.ADD}"
    return Door("/pix", action, site.envelope(feed, action), [], "ZHANG", b'<typeCode code="CA"/>')


def dtd(door: Door, declared: str, entity: str = "") -> bytes:
    assert door.word.encode() in door.root
    root = door.root.replace(b"?>", f"?><!DOCTYPE x {declared}>".encode(), 1)
    return root.replace(door.word.encode(), entity.encode()) if entity else root


def bomb(door: Door) -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    return dtd(door, f'[<!ENTITY e0 "x">{entities}]', "&e9;")


def with_body(door: Door, change: Callable[[bytes], bytes]) -> bytes:
    start, end = door.root.index(b"<s:Body>") + len(b"<s:Body>"), door.root.index(b"</s:Body>")
    return door.root[:start] + change(door.root[start:end]) + door.root[end:]


def with_header(door: Door, block: bytes) -> bytes:
    return door.root.replace(b"</s:Header>", block + b"</s:Header>")


def header_last(root: bytes) -> bytes:
    start, end = root.index(b"<s:Header>"), root.index(b"</s:Header>") + len(b"</s:Header>")
    return root[:start] + root[end:].replace(b"</s:Envelope>", root[start:end] + b"</s:Envelope>")


def acting(door: Door, action: str) -> bytes:
    assert f">{door.action}<".encode() in door.root
    return door.root.replace(f">{door.action}<".encode(), f">{action}<".encode())


ODD = b'<o:Odd xmlns:o="urn:odd" s:mustUnderstand="true"/>'
# The envelope, the content type where it is another, and the answer.
REQUESTS: dict[str, tuple[Callable[[Door], bytes], str, int, str]] = {
    "DTD": (lambda d: dtd(d, ""), "", 400, "Sender"),
    "entities": (bomb, "", 400, "Sender"),
    "external entity": (lambda d: dtd(d, '[<!ENTITY e SYSTEM "file:///etc/hostname">]', "&e;"), "", 400, "Sender"),
    "second Header": (lambda d: d.root.replace(b"</s:Header>", b"</s:Header><s:Header/>"), "", 400, "Sender"),
    "Header behind the Body": (lambda d: header_last(d.root), "", 400, "Sender"),
    "element beside the Body": (lambda d: d.root.replace(b"</s:Body>", b'</s:Body><x xmlns="urn:x"/>'), "", 400, "Sender"),
    "a second Body": (lambda d: d.root.replace(b"</s:Body>", b"</s:Body><s:Body/>"), "", 400, "Sender"),
    "text in the envelope": (lambda d: d.root.replace(b"<s:Body>", b"text<s:Body>"), "", 400, "Sender"),
    "text in the Body": (lambda d: d.root.replace(b"</s:Body>", b"text</s:Body>"), "", 400, "Sender"),
    "text in the Header": (lambda d: d.root.replace(b"</s:Header>", b"text</s:Header>"), "", 400, "Sender"),
    "a processing instruction": (lambda d: d.root.replace(b"<s:Body>", b"<?a b?><s:Body>"), "", 400, "Sender"),
    "second Body child": (lambda d: with_body(d, lambda body: body * 2), "", 400, "Sender"),
    "unknown action": (lambda d: acting(d, "urn:ihe:iti:2007:Nothing"), "", 400, "Sender/ActionNotSupported"),
    "unknown Body child": (lambda d: with_body(d, lambda _: b'<x xmlns="urn:x"/>'), "", 400, "Sender/ActionNotSupported"),
    "wrong content type": (lambda d: d.root, "application/json", 415, "Sender"),
    "SOAP 1.1": (lambda d: d.root, "text/xml; charset=utf-8", 500, "VersionMismatch"),
    "mustUnderstand on an unknown header": (lambda d: with_header(d, ODD), "", 500, "MustUnderstand"),
    "body over the limit": (lambda d: d.root + b" " * (1 << 20), "", 413, "Sender"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_bad_envelope_is_a_fault(site: Site, tmp_path: Path, name: str) -> None:
    make, kind, status, fault = REQUESTS[name]
    for door in (registry(site), repository(site), pix(site)):
        with site.unchanged():
            reply = site.post(door.path, *door.request(make(door), kind))
        assert (reply.status, reply.fault) == (status, fault), (door.path, reply.body[:400])
        good = site.post(door.path, *door.request(door.root, ""))
        assert (good.status, door.taken in good.body) == (200, True), (door.path, good.body[:400])
    site.goes_on(tmp_path)


def test_a_part_over_the_limit_is_refused(site: Site, tmp_path: Path) -> None:
    good = site.provide(site.objects(DATA), DATA)
    large = b"".join(good).replace(b"</s:Envelope>", b" " * (1 << 20) + b"</s:Envelope>")
    attachment = site.provide(site.objects(DATA), DATA, surplus=(b"x" * (8 << 20),))
    many = site.provide(site.objects(DATA), DATA, surplus=(b"x",) * 30)
    for setting, body, kind in (
        ("max_request", large, good.content_type), ("max_body", b"".join(attachment), attachment.content_type),
        ("max_parts", b"".join(many), many.content_type),
    ):
        with site.unchanged():
            reply = site.post("/xds/repository", body, kind)
        assert (reply.status, reply.fault) == (413, "Sender"), setting
        assert f"server.{setting} = " in (reply.text("s:Body/s:Fault/s:Reason/s:Text") or "")
        assert codes(send(site, site.provide(site.objects(DATA), DATA))) == []
    site.goes_on(tmp_path)


# --- a body that is cut


def cuts(data: bytes, boundary: bytes) -> dict[str, int]:
    """Return places to cut: around each boundary, in each head and in the middle of each part."""
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
