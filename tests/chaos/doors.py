"""The public doors as a stranger uses them: SOAP, MTOM and ebXML written and read with the standard library only."""

import http.client
import re
import socket
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

SOAP = "http://www.w3.org/2003/05/soap-envelope"
WSA = "http://www.w3.org/2005/08/addressing"
XDS = "urn:ihe:iti:xds-b:2007"
RAD = "urn:ihe:rad:xdsi-b:2009"
RS = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"
RIM = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"
QUERY = "urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0"
LCM = "urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0"
XOP = "http://www.w3.org/2004/08/xop/include"
GET_DOCUMENTS = "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4"
FIND_DOCUMENTS = "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d"
FIND_SUBMISSION_SETS = "urn:uuid:f26abbcb-ac74-4422-8a30-edb644bbc1a9"
GET_CONTENTS = "urn:uuid:e8e3cb2c-e39c-46b9-99e4-c12f57260b83"
APPROVED = "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved"
UNIQUE_ID = "urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab"
SYNTAX = "1.2.840.10008.1.2.1"
REPOSITORY = "2.999.1.2"
_RAD69 = "urn:ihe:rad:2009:RetrieveImagingDocumentSet"


class Cut(Exception):
    """No whole answer came: nobody knows what was done."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status URN's last word, errors as (code, location, context), documents by uniqueId."""

    status: str
    errors: tuple[tuple[str, str, str], ...] = ()
    documents: Mapping[str, bytes] = field(default_factory=dict)
    body: ET.Element | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """An instance as RAD-69 asks for it."""

    study: str
    series: str
    sop: str
    source: str


def submit(port: int, submission: str, documents: Mapping[str, bytes]) -> Answer:
    """ITI-41: `submission` is a lcm:SubmitObjectsRequest, `documents` the bytes by ExtrinsicObject id."""
    rows = "".join(
        f'<xds:Document id={quoteattr(key)}><xop:Include xmlns:xop="{XOP}" href="cid:{key}@chaos"/></xds:Document>'
        for key in documents)
    body = (f'<xds:ProvideAndRegisterDocumentSetRequest xmlns:xds="{XDS}">{submission}{rows}'
            "</xds:ProvideAndRegisterDocumentSetRequest>")
    return _call(port, "/xds/repository", "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b", body,
                 {f"{key}@chaos": data for key, data in documents.items()})


def retrieve_documents(port: int, unique_ids: Iterable[str]) -> Answer:
    """ITI-43."""
    rows = "".join(_request(REPOSITORY, uid) for uid in unique_ids)
    return _call(port, "/xds/repository", "urn:ihe:iti:2007:RetrieveDocumentSet",
                 f'<RetrieveDocumentSetRequest xmlns="{XDS}">{rows}</RetrieveDocumentSetRequest>', {})


def retrieve_pictures(port: int, refs: Sequence[Ref], timeout: float = 150.0) -> Answer:
    """RAD-69."""
    return _call(port, "/xds/imaging", _RAD69, _pictures(refs), {}, timeout)


class Asked:
    """A RAD-69 that is sent, its answer not looked at. Close it in the end. `source` is the address it comes from."""

    def __init__(self, port: int, refs: Sequence[Ref], source: str = "127.0.0.1") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=150.0)
        self._connection.sock = sock = socket.socket()
        kind, data = _packed(_envelope(port, "/xds/imaging", _RAD69, _pictures(refs)), {})
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.settimeout(150.0)
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", port))
            self._connection.request("POST", "/xds/imaging", data, {"Content-Type": kind})
        except BaseException:
            self._connection.close()
            raise
        self.socket = sock
        self._reply: http.client.HTTPResponse | None = None

    @property
    def status(self) -> int:
        """The HTTP status; wait for it."""
        return self._begun().status

    def answer(self) -> Answer:
        """Read all of it."""
        return _answer(self._begun())

    def close(self) -> None:
        """Go away, whatever of the answer was read."""
        if self._reply is not None:
            self._reply.close()
        self._connection.close()

    def _begun(self) -> http.client.HTTPResponse:
        if self._reply is None:
            self._reply = self._connection.getresponse()
        return self._reply


class Held(Asked):
    """A RAD-69 whose answer began and is not read: it keeps what it takes inside the broker until it is closed.

    Little of an answer fits into the system's buffers: a few megabytes.
    """

    def __init__(self, port: int, refs: Sequence[Ref]) -> None:
        super().__init__(port, refs)
        try:
            self._begun()
        except BaseException:
            self.close()
            raise


def query(port: int, kind: str, **parameters: Sequence[str]) -> Answer:
    """ITI-18 by the query's UUID; parameters without their $XDS, values as text."""
    slots = "".join(
        f'<Slot name="$XDS{name}"><ValueList>{"".join(_value(name, value) for value in values)}</ValueList></Slot>'
        for name, values in parameters.items())
    body = (f'<query:AdhocQueryRequest xmlns:query="{QUERY}" xmlns="{RIM}"><query:ResponseOption returnType="LeafClass" '
            f'returnComposedObjects="true"/><AdhocQuery id="{kind}">{slots}</AdhocQuery></query:AdhocQueryRequest>')
    return _call(port, "/xds/registry", "urn:ihe:iti:2007:RegistryStoredQuery", body, None)


def registered(port: int, unique_ids: Sequence[str]) -> list[str]:
    """ITI-18 GetDocuments by uniqueId: give the uniqueId of every entry answered, repeats included."""
    answer = query(port, GET_DOCUMENTS, DocumentEntryUniqueId=unique_ids)
    if answer.body is None or answer.status != "Success":
        raise Cut(f"{answer.status} {answer.errors}")
    return [
        found.get("value", "") for found in answer.body.iter(f"{{{RIM}}}ExternalIdentifier")
        if found.get("identificationScheme") == UNIQUE_ID]


def _value(name: str, value: str) -> str:
    """Return a value in the coding of stored queries; that of a parameter that takes no list is bare."""
    bare = name.endswith("PatientId") or name == "SubmissionSetUniqueId"
    text = f"'{value}'"
    return f"<Value>{escape(text if bare else f'({text})')}</Value>"


def _pictures(refs: Sequence[Ref]) -> str:
    studies: dict[str, dict[str, list[Ref]]] = {}
    for ref in refs:
        studies.setdefault(ref.study, {}).setdefault(ref.series, []).append(ref)
    rows = "".join(
        f'<rad:StudyRequest studyInstanceUID="{study}">' + "".join(
            f'<rad:SeriesRequest seriesInstanceUID="{uid}">' + "".join(_request(ref.source, ref.sop) for ref in members)
            + "</rad:SeriesRequest>" for uid, members in series.items()) + "</rad:StudyRequest>"
        for study, series in studies.items())
    return (f'<rad:RetrieveImagingDocumentSetRequest xmlns:rad="{RAD}" xmlns="{XDS}">{rows}<rad:TransferSyntaxUIDList>'
            f"<rad:TransferSyntaxUID>{SYNTAX}</rad:TransferSyntaxUID></rad:TransferSyntaxUIDList>"
            "</rad:RetrieveImagingDocumentSetRequest>")


def _request(repository: str, uid: str) -> str:
    return (f"<DocumentRequest><RepositoryUniqueId>{repository}</RepositoryUniqueId>"
            f"<DocumentUniqueId>{escape(uid)}</DocumentUniqueId></DocumentRequest>")


def _call(
    port: int, path: str, action: str, body: str, parts: Mapping[str, bytes] | None, timeout: float = 60.0,
) -> Answer:
    """Send one request (`parts` None: plain SOAP) and read the whole answer."""
    envelope = _envelope(port, path, action, body)
    kind, data = f'application/soap+xml; charset=utf-8; action="{action}"', envelope
    if parts is not None:
        kind, data = _packed(envelope, parts)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, data, {"Content-Type": kind})
        return _answer(connection.getresponse())
    except (OSError, http.client.HTTPException) as error:
        raise Cut(type(error).__name__) from error
    finally:
        connection.close()


def _answer(reply: http.client.HTTPResponse) -> Answer:
    try:
        content = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise Cut(type(error).__name__) from error
    if reply.status != http.client.OK:
        raise Cut(f"HTTP {reply.status}")
    return _read(reply.headers.get("Content-Type", ""), content)


def _envelope(port: int, path: str, action: str, body: str) -> bytes:
    return (
        f'<s:Envelope xmlns:s="{SOAP}" xmlns:wsa="{WSA}"><s:Header><wsa:Action s:mustUnderstand="true">{action}</wsa:Action>'
        f"<wsa:MessageID>urn:uuid:{uuid.uuid4()}</wsa:MessageID><wsa:To>http://127.0.0.1:{port}{path}</wsa:To></s:Header>"
        f"<s:Body>{body}</s:Body></s:Envelope>").encode()


def _packed(envelope: bytes, parts: Mapping[str, bytes]) -> tuple[str, bytes]:
    boundary = uuid.uuid4().hex
    pieces = [("root@chaos", 'application/xop+xml; charset=UTF-8; type="application/soap+xml"', envelope)]
    pieces += [(name, "application/octet-stream", data) for name, data in parts.items()]
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <{name}>\r\n\r\n".encode()
        + data + b"\r\n" for name, kind, data in pieces)
    head = (f'multipart/related; boundary="{boundary}"; type="application/xop+xml"; start="<root@chaos>"; '
            'start-info="application/soap+xml"')
    return head, body + f"--{boundary}--\r\n".encode()


def _read(kind: str, content: bytes) -> Answer:
    attachments: dict[str, bytes] = {}
    root = content
    if kind.startswith("multipart/"):
        found = re.search(r'boundary="?([^";]+)', kind)
        if found is None:
            raise Cut("no boundary")
        pieces = _split(content, found.group(1))
        root = pieces.pop(0)[1]
        attachments = dict(pieces)
    envelope = ET.fromstring(root)
    body = next(iter(envelope.find(f"{{{SOAP}}}Body") or ()), None)
    if body is None or body.tag == f"{{{SOAP}}}Fault":
        raise Cut("a fault")
    response = body if "status" in body.attrib else body.find(f"{{{RS}}}RegistryResponse")
    if response is None:
        raise Cut("no RegistryResponse")
    errors = tuple(
        (e.get("errorCode", ""), e.get("location", ""), e.get("codeContext", ""))
        for e in response.iter(f"{{{RS}}}RegistryError"))
    documents: dict[str, bytes] = {}
    for row in body.iter(f"{{{XDS}}}DocumentResponse"):
        include = row.find(f"{{{XDS}}}Document/{{{XOP}}}Include")
        name = "" if include is None else include.get("href", "").removeprefix("cid:")
        documents[row.findtext(f"{{{XDS}}}DocumentUniqueId", "")] = attachments.get(name.replace("%40", "@"), b"")
    return Answer(response.get("status", "").rpartition(":")[2], errors, documents, body)


def _split(content: bytes, boundary: str) -> list[tuple[str, bytes]]:
    """Return (Content-ID, bytes) of each part; a body without its closing boundary is cut."""
    pieces = (b"\r\n" + content).split(f"\r\n--{boundary}".encode())
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise Cut("the answer has no end")
    parts = []
    for piece in pieces[1:-1]:
        head, _, data = piece.partition(b"\r\n\r\n")
        name = re.search(rb"(?i)content-id:\s*<([^>]+)>", head)
        parts.append((name.group(1).decode() if name else "", data))
    return parts
