"""SOAP: multipart bodies, envelopes, ebXML and retrieve messages, the whole of the web application with its stores."""

import itertools
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.app import whole as broker_app
from broker.client import messages
from broker.config import profile as profiles
from broker.config.settings import Server, Settings
from broker.db import schema as database_schema
from broker.imaging import rad69_retrieve
from broker.model.caller import AuditFacts
from broker.model.errors import BrokerError, Rejected
from broker.model.ids import PatientId, new_uuid_urn
from broker.model.metadata import RegistryObjects
from broker.registry import iti18_query, rules
from broker.registry.parameters import with_schemes
from broker.registry.queries import QUERIES
from broker.repository import iti43_retrieve
from broker.run import web as web_role
from broker.wire import ebxml, envelope, hl7v3, xml
from broker.wire.ebxml_query import read_query_request
from broker.wire.ebxml_stored import to_registered, with_attributes
from broker.wire.mime import Multipart, content_type_parameters
from broker.wire.soap import SoapRequest
from tests.fuzz.columns import misfits
from tests.fuzz.harness import Reader, Target
from tests.helpers import soap
from tests.helpers.patients import WEI
from tests.helpers.registry import object_refs
from tests.helpers.soap import Reply

_STATUSES = {200, 400, 404, 405, 408, 413, 415, 500, 503}
XML_WORDS = (
    b"<!--", b"-->", b"<!DOCTYPE a [<!ENTITY e 'x'>]>", b"&e;", b"<![CDATA[", b"]]>", b"<?a b?>", b"xmlns=''", b"xmlns:a='urn:b'",
    b"<a>", b"</a>", b"<a/>", b"urn:uuid:", b"id='x'", b"nullFlavor='NA'", b"&#xD;", b"xml:space='preserve'", b"''", b"('", b"')",
)
MIME_WORDS = (
    b"\r\n--B\r\n", b"\r\n--B--", b"--B", b"Content-Type: ", b"Content-ID: <", b"Content-Transfer-Encoding: base64", b"charset=",
    b"gbk", b"utf-16", b"punycode", b"start=", b"boundary=B", b"type=", b"application/xop+xml", b"multipart/related; ", b"cid:",
    b"filename*=utf-8''%E5",
)


def cut(data: bytes) -> Iterator[bytes]:
    """Return the data in pieces whose sizes depend on nothing but the data."""
    source, at = random.Random(zlib.crc32(data)), 0
    most = source.choice((3, 40, 1000, 1 << 16))
    while at < len(data):
        size = source.randint(1, most)
        yield data[at:at + size]
        at += size


def _multipart(pieces: Iterator[bytes], boundary: str) -> "list[tuple[dict[str, str], bytes]] | BrokerError":
    try:
        return [(headers, b"".join(body)) for headers, body in Multipart(pieces, boundary, 100)]
    except BrokerError as error:
        return error


def _mime(_scratch: Path) -> Reader:
    def read(data: bytes) -> str:
        line, _, body = data.partition(b"\n")
        kind, parameters = content_type_parameters(line.decode("latin-1"))
        boundary = parameters.get("boundary", "")
        whole, pieces = _multipart(iter([body]), boundary), _multipart(cut(body), boundary)
        if isinstance(whole, BrokerError) and isinstance(pieces, BrokerError):
            raise whole
        assert whole == pieces, "another chunking gives another answer"
        assert not isinstance(whole, BrokerError)
        return f"{kind == 'multipart/related'} {len(whole)} parts"
    return read


def _request(data: bytes) -> tuple[str, str, bytes]:
    """Return path, content type and body of an input: `path content-type`, a line end, the body."""
    line, _, body = data.partition(b"\n")
    path, _, kind = line[:8000].decode("latin-1").partition(" ")
    return path, kind.translate({0: " ", 13: " "}), body        # gunicorn lets no such bytes through


def _told(reply: Reply) -> str:
    """Return what an answer is, after checking that it is one."""
    assert reply.status in _STATUSES, reply.status
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    if reply.kind not in {"application/soap+xml", "multipart/related"}:
        return f"{reply.status} {reply.kind}"
    body = reply.root()[-1][0]      # behind a Header, where there is one
    codes = {element.get("errorCode", "") for element in body.iter() if element.get("errorCode")}
    return f"{reply.status} {xml.local_name(body)} {reply.fault} {sorted(codes)[:3]}"


def _soap(scratch: Path) -> Reader:
    bench = soap.bench(scratch, max_request=1 << 15, max_body=1 << 17, max_parts=20)
    bench.actor.folder = scratch / "inline"     # what handlers make of base64 is theirs to drop
    bench.actor.folder.mkdir()
    count = itertools.count(1)

    def read(data: bytes) -> str:
        path, kind, body = _request(data)
        reply = soap.call(bench.app, path, body, kind, chunked=len(data) % 2 == 0)
        told = _told(reply)
        assert not bench.spooled, "files are left behind"
        _forget(bench.settings, next(count))
        return told
    return read


def _forget(settings: Settings, number: int) -> None:
    """Keep the audit trail short."""
    if number % 500 == 0:
        for file in settings.audit_folder.glob("*"):
            with file.open("r+b") as trail:
                trail.truncate(0)


def _centre(scratch: Path) -> Reader:
    """The web application with all its actors and stores. `@PATIENT@` in an input is a known patient, `@N@` a fresh number."""
    settings = Settings(data=scratch / "data", server=Server(max_request=1 << 16, max_body=1 << 18, max_parts=20))
    settings.data.mkdir()
    centre = broker_app.App(settings, profiles.load("demo"))
    database_schema.upgrade(centre.database)
    web = web_role.application(centre)
    feed = hl7v3.write_add_patient(PatientId("2.999.3.1", "B-1"), WEI, sender="2.999.3.9", receiver="2.999.1.4")
    known = soap.call(web, "/pix", soap.envelope(feed, f"{xml.HL7}:{hl7v3.ADD}"), "application/soap+xml")
    assert b'<typeCode code="CA"/>' in known.body, known.body
    with centre.database.read() as unit:
        patient = centre.patients.affinity_id(unit, PatientId("2.999.3.1", "B-1"))
    assert patient is not None
    shown = str(patient).replace("&", "&amp;").encode()
    count = itertools.count(1)

    def read(data: bytes) -> str:
        number = next(count)
        path, kind, body = _request(data.replace(b"@PATIENT@", shown).replace(b"@N@", b"%d" % number))
        told = _told(soap.call(web, path, body, kind))
        assert not list((settings.documents_folder / ".spool").glob("*")), "files are left behind"
        if number % 25 == 0:
            assert not misfits(centre.database)
        _forget(settings, number)
        return told if told.startswith("404 ") else f"{path} {told}"
    return read


def _xml(_scratch: Path) -> Reader:
    def read(data: bytes) -> str:
        root = xml.parse(data)
        assert root.getroottree().docinfo.internalDTD is None, "a DTD came through"
        again = xml.parse(xml.canonical(root))
        assert again.tag == root.tag
        xml.parse(xml.in_default_namespace(root))
        return f"{len(root)} children"
    return read


def _ebxml(_scratch: Path) -> Reader:
    profile = profiles.load("demo")

    def read(data: bytes) -> str:
        submission = ebxml.read_submission(xml.parse(data))
        objects = _again(submission.objects)        # what was missing is there now
        assert _again(objects) == objects
        rules.validate(submission, profile)
        registered = to_registered(submission, new_uuid_urn, "20240101000000")
        for body in registered.bodies.values():
            assert with_attributes(body) == body
            with_attributes(body, status="urn:a", last_update_time="2024", patient_id="p")
        return f"{len(registered.objects.documents)} documents {len(registered.objects.associations)} links"
    return read


def _again(objects: RegistryObjects) -> RegistryObjects:
    return ebxml.read_submission(xml.parse(ebxml.submit_request(objects))).objects


def _query(_scratch: Path) -> Reader:
    row = iti18_query.ROW

    def read(data: bytes) -> str:
        raw = SoapRequest(body=xml.parse(data), message=row.messages[0])
        try:
            request = read_query_request(raw.body)
            query = QUERIES.get(request.query_id)
            if query is None:
                raise Rejected("XDSUnknownStoredQuery", "no such query")
            read = row.read(raw, AuditFacts())
            found = with_schemes(read.values, query.codes, {"a": "1.2"})
        except BrokerError as error:
            xml.parse(b"".join(row.refuse(raw, error).fragments))
            raise
        return f"{query.name} {sorted(found)}"
    return read


def _retrieve(_scratch: Path) -> Reader:
    def read(data: bytes) -> str:
        body = xml.parse(data)
        row = rad69_retrieve.ROW if xml.local_name(body).startswith("RetrieveImaging") else iti43_retrieve.ROW
        raw = SoapRequest(body=body, message=row.messages[0])
        try:
            wanted: Any = row.read(raw, AuditFacts())
        except BrokerError as error:
            xml.parse(b"".join(row.refuse(raw, error).fragments))
            raise
        return f"{row.code} {len(wanted.homes if hasattr(wanted, 'homes') else wanted)}"
    return read


def _answers(_scratch: Path) -> Reader:
    """What a client reads of servers."""
    def read(data: bytes) -> str:
        body = envelope.read_answer(data).body
        name = xml.local_name(body)
        if name == "AdhocQueryResponse":
            response, objects = ebxml.read_query_response(body)
            return f"{_status(response)} {len(objects.documents)} {len(object_refs(body))}"
        if name == "RetrieveDocumentSetResponse":
            return f"{len(messages.read_documents(body)[1])} documents"
        if name == hl7v3.ANSWER:
            return f"{len(hl7v3.read_pix_answer(body))} ids"
        if name == hl7v3.ACK:
            hl7v3.read_ack(body)
            return "ack"
        return _status(ebxml.read_registry_response(body))
    return read


def _status(response: ebxml.RegistryResponse) -> str:
    known = response.status in {ebxml.SUCCESS, ebxml.PARTIAL_SUCCESS, ebxml.FAILURE}
    return f"{response.status if known else 'another status'} {len(response.problems)} {len(response.warnings)}"


TARGETS = (
    Target(name="mime", make=_mime, golden=("mime",), words=MIME_WORDS),
    Target(name="soap", make=_soap, golden=("soap",), words=(*MIME_WORDS, *XML_WORDS)),
    Target(name="centre", make=_centre, golden=("centre",), words=(*MIME_WORDS, *XML_WORDS), slope=2e-5),
    Target(name="xml", make=_xml, golden=("ebxml", "query", "retrieve", "hl7v3", "answers"), words=XML_WORDS),
    Target(name="ebxml", make=_ebxml, golden=("ebxml",), words=XML_WORDS, slope=2e-5),
    Target(name="query", make=_query, golden=("query",), words=XML_WORDS),
    Target(name="retrieve", make=_retrieve, golden=("retrieve",), words=XML_WORDS),
    Target(name="answers", make=_answers, golden=("answers",), words=XML_WORDS),
)
