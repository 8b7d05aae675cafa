"""Golden SOAP: multipart bodies, ebXML, queries, retrieves, answers. HTTP requests are `path content-type`, LF, the body."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from broker.client import messages
from broker.config import profile as profiles
from broker.files.sources import Octets
from broker.model.errors import Problem
from broker.model.imaging import InstanceRef
from broker.model.metadata import APPROVED, RPLC
from broker.wire import ebxml, envelope
from broker.wire.ebxml_query import write_query_request
from broker.wire.mime import MtomBody
from broker.wire.retrieve import Retrieved, retrieve_response
from broker.wire.soap import Part
from broker.wire.xml import HL7, QUERY, RIM, XDS, XOP
from tests.fuzz.golden.hl7 import v3_messages
from tests.fuzz.golden.origin import HAND, MESSAGE_ID, OURS, Files
from tests.helpers import registry
from tests.helpers.manifests import included, kos, metadata, study
from tests.helpers.soap import ask, keep
from tests.helpers.soap import envelope as request_envelope

ITI = "urn:ihe:iti:2007:"
WANG = str(registry.WANG)
WRITTEN = WANG.replace("&", "&amp;").encode()
FIND: Mapping[str, str | Sequence[str]] = {
    "$XDSDocumentEntryPatientId": WANG, "$XDSDocumentEntryStatus": [APPROVED], "$XDSDocumentEntryCreationTimeFrom": "2024",
    "$XDSDocumentEntryAuthorPerson": ["%李%", "O'Neil"],
    "$XDSDocumentEntryFormatCode": ["1.2.840.10008.5.1.4.1.1.88.59^^1.2.840.10008.2.6.1"]}
QUERIES: Mapping[str, Mapping[str, str | Sequence[str]]] = {
    "FindDocuments": FIND,
    "GetDocuments": {"$XDSDocumentEntryUniqueId": [f"2.999.5.{n}" for n in range(40)]},
    "GetAll": {"$patientId": WANG, "$XDSDocumentEntryStatus": [APPROVED], "$XDSSubmissionSetStatus": [APPROVED],
               "$XDSFolderStatus": [APPROVED]},
    "GetRelatedDocuments": {"$XDSDocumentEntryUniqueId": "2.999.5.1", "$AssociationTypes": [RPLC]},
}


def _ebxml() -> Files:
    first, second = registry.document("Doc1"), registry.document("Doc2", unique_id="2.999.5.2^ext")
    elsewhere = "urn:uuid:00000000-0000-0000-0000-000000000001"
    one = ebxml.submit_request(registry.bundle([first]))
    full = registry.bundle(
        [first, second], [registry.folder()], [registry.link("Fol1", "Doc1"), registry.link("Doc2", elsewhere, RPLC)])
    return {
        "one.xml": (OURS, one), "full.xml": (OURS, ebxml.submit_request(full)),
        "beside.xml": (f"{HAND}: the label beside its package", _beside(one))}


def _beside(request: bytes) -> bytes:
    """Take the label out of the SubmissionSet and put it at the end of the list."""
    at = request.index(b"classificationNode")
    start, end = request.rindex(b"<", 0, at), request.index(b"/>", at) + 2
    label = request[start:end]
    return (request[:start] + request[end:]).replace(b"</RegistryObjectList>", label + b"</RegistryObjectList>")


def _query() -> Files:
    return {f"{name}.xml": (OURS, write_query_request(registry.UUIDS[name], parameters)) for name, parameters in QUERIES.items()}


def _retrieve() -> Files:
    entry = registry.document()
    refs = [InstanceRef("2.25.1", f"2.25.1.{s}", f"2.25.1.{s}.{n}", source_uid="2.999.1.3") for s in (1, 2) for n in (1, 2)]
    return {
        "iti43.xml": (OURS, messages.retrieve_documents([entry, replace(entry, home="urn:oid:2.999.1")])),
        "rad69.xml": (OURS, messages.retrieve_images(refs))}


def _answer(*fragments: bytes) -> bytes:
    return envelope.write_request(b"".join(fragments), action="urn:a", to="urn:us", message_id="urn:uuid:1")


def _answers() -> Files:
    objects = registry.bundle([registry.document()], [registry.folder()], [registry.link("Fol1", "Doc1")])
    found = f'<q:AdhocQueryResponse xmlns:q="{QUERY}" status="{ebxml.SUCCESS}">%s</q:AdhocQueryResponse>'.encode()
    refs = f'<r:RegistryObjectList xmlns:r="{RIM}"><r:ObjectRef id="urn:uuid:1"/></r:RegistryObjectList>'.encode()
    pictures = retrieve_response(
        [Retrieved(repository="2.999.1.3", unique_id="2.25.1", mime_type="application/dicom", source=Octets(b"x"))],
        [Problem("XDSDocumentUniqueIdError", "没有", "2.25.2")]).fragments
    inline = (piece.replace(b'<xop:Include href="cid:document-1@broker"/>', b"eA==") for piece in pictures)
    v3 = v3_messages()
    return {
        "query.xml": (OURS, _answer(found % ebxml.write_objects(objects))),
        "refs.xml": (HAND, _answer(found % refs)),
        "nothing.xml": (OURS, _answer(*ebxml.query_response(()))),
        "failure.xml": (OURS, _answer(ebxml.registry_response([Problem("XDSRegistryError", "不")]))),
        "retrieve.xml": (OURS, _answer(*pictures)),
        "inline.xml": (HAND, _answer(*inline)),
        "pix.xml": (OURS, _answer(v3["201310.xml"][1])),
        "ack.xml": (OURS, _answer(v3["ack.xml"][1])),
    }


def _plain(path: str, action: str, body: bytes) -> bytes:
    return f"{path} application/soap+xml; charset=utf-8\n".encode() + request_envelope(body, action)


def _mtom(path: str, action: str, body: bytes, *documents: tuple[str, bytes]) -> bytes:
    parts = [Part(content_id=name, media_type="application/dicom", source=Octets(data)) for name, data in documents]
    message = MtomBody(request_envelope(body, action), parts)
    boundary = message.content_type.split('boundary="')[1].rstrip('"')
    return (f"{path} {message.content_type}\n".encode() + b"".join(message)).replace(boundary.encode(), b"B")


_WCF = (
    '/keep multipart/related; type="application/xop+xml"; start="<http://tempuri.org/0>"; boundary="uuid:1+id=1"; '
    'start-info="application/soap+xml"; action="urn:test:Keep"\n'
    "\r\n--uuid:1+id=1\r\nContent-ID: <http://tempuri.org/0>\r\nContent-Transfer-Encoding: 8bit\r\n"
    'Content-Type: application/xop+xml;charset=utf-8;type="application/soap+xml"\r\n\r\n{}\r\n--uuid:1+id=1\r\n'
    "Content-ID: <http://tempuri.org/1/x>\r\nContent-Transfer-Encoding: binary\r\nContent-Type: application/octet-stream\r\n\r\n"
    "DICM\r\n--uuid:1+id=\r\n--uuid:1+id=1--\r\n")


def _soap() -> Files:
    wcf = _WCF.format(request_envelope(keep("cid:http%3A%2F%2Ftempuri.org%2F1%2Fx"), "urn:test:Keep").decode())
    chinese = request_envelope(ask("葉區瑋"), "urn:test:Ask").replace(b' encoding="UTF-8"', b"").decode().encode("gb18030")
    inline = b'<Keep xmlns="urn:test"><Document>ZG9j\n</Document></Keep>'
    return {
        "ask.req": (OURS, _plain("/ask", "urn:test:Ask", ask("问"))),
        "ask-gb18030.req": (f"{OURS}, in GB 18030", b"/ask application/soap+xml; charset=GB18030\n" + chinese),
        "keep.req": (OURS, _mtom("/keep", "urn:test:Keep", keep("cid:d%401", "cid:d2"), ("d@1", b"\r\n--B-\r\n\0"), ("d2", b""))),
        "keep-wcf.req": (f"{HAND}, laid out as WCF does", wcf.encode()),
        "inline.req": (HAND, _mtom("/keep", "urn:test:Keep", inline)),
        "give.req": (OURS, _mtom("/give", "urn:test:Give", ask("3", "Give"))),
        "rad69.req": (OURS, _plain("/xds/imaging", "urn:test:Checked", _retrieve()["rad69.xml"][1])),
    }


def _mime() -> Files:
    """The same without the path."""
    found = {name: (origin, data.partition(b" ")[2]) for name, (origin, data) in _soap().items() if b"multipart" in data[:40]}
    odd = (b"multipart/mixed; boundary=B\npreamble --B\r\n--B\r\n\r\nno headers\r\n--B\r\nA: b\r\nC:\td \r\n\r\n\r\n\r\n"
           b"--B--\r\nepilogue\r\n--B\r\n")
    return found | {"preamble.req": (HAND, odd)}


def _centre() -> Files:
    """Requests of all SOAP transactions. `@PATIENT@` stands for a known patient, `@N@` for a number used once."""
    profile = profiles.load("demo")
    uid = "2.999.5.@N@"
    entry = registry.document(unique_id=uid, repository_unique_id=profile.region.repository_uid)
    manifest = kos(study())
    objects = metadata(profile, manifest, unique_id=uid, set_uid="2.999.6.1@N@", patient=registry.WANG)
    provide = (
        f'<xds:ProvideAndRegisterDocumentSetRequest xmlns:xds="{XDS}" xmlns:xop="{XOP}">'.encode()
        + ebxml.submit_request(objects) + included(objects.documents[0].id, "cid:d1").encode()
        + b"</xds:ProvideAndRegisterDocumentSetRequest>")
    register = ebxml.submit_request(registry.bundle([entry], unique_id="2.999.6.@N@"))
    retrieve, v3 = _retrieve(), v3_messages()
    found = {
        "iti42.req": (OURS, _plain("/xds/registry", f"{ITI}RegisterDocumentSet-b", register)),
        **{f"iti18-{name.removesuffix('.xml')}.req": (OURS, _plain("/xds/registry", f"{ITI}RegistryStoredQuery", data))
           for name, (_, data) in _query().items()},
        "iti41.req": (OURS, _mtom("/xds/repository", f"{ITI}ProvideAndRegisterDocumentSet-b", provide, ("d1", manifest))),
        "iti43.req": (OURS, _mtom("/xds/repository", f"{ITI}RetrieveDocumentSet", retrieve["iti43.xml"][1])),
        "rad69.req": (OURS, _mtom("/xds/imaging", "urn:ihe:rad:2009:RetrieveImagingDocumentSet", retrieve["rad69.xml"][1])),
        **{f"{name}.req": (OURS, _plain("/pix", f"{HL7}:PRPA_IN{name}UV02", v3[f"{name}.xml"][1].replace(
            f'"{MESSAGE_ID.control_id}"'.encode(), b'"@N@"'))) for name in ("201301", "201302", "201304", "201309")},
    }
    return {name: (origin, data.replace(WRITTEN, b"@PATIENT@")) for name, (origin, data) in found.items()}


FOLDERS = {
    "ebxml": _ebxml, "query": _query, "retrieve": _retrieve, "answers": _answers, "soap": _soap, "mime": _mime, "centre": _centre}
