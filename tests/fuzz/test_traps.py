"""Inputs that are cheap to send and were, or could be, dear to read: each is far above what a quadratic reader gets through.

No times are measured. What is not linear, or holds all it is told of, ends by the timeout or by the memory it may take.
"""

import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.archive.formats.sdicom import read_index
from broker.archive.formats.sequencefile import Damaged, Reader, write_text
from broker.config.profile import Profile
from broker.edge.soap import schema
from broker.imaging import header
from broker.model.errors import BrokerError, DimseCode, Rejected, TooLarge
from broker.registry import rules
from broker.wire import ebxml, hl7v3, tags, xml
from broker.wire.hl7v2 import Deframer, Value, frame, parse
from broker.wire.kos import read_manifest
from broker.wire.mime import Multipart
from broker.wire.xml import LCM, RIM, NotXml
from tests.helpers.archive import pread_of
from tests.helpers.dicom import HOSPITAL
from tests.helpers.registry import bundle, document
from tests.helpers.soap import ask, bench, envelope

pytestmark = pytest.mark.timeout(40)
MEGABYTE = 1 << 20
CT = "1.2.840.10008.5.1.4.1.1.2"


def bounded(read: Callable[[], object], limit: int) -> object:
    """Run and see that at most `limit` bytes of Python's memory are taken at once."""
    tracemalloc.start()
    try:
        return read()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit, f"{peak >> 20} MB"


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[at:at + 1] for at in range(len(data)))


# --- HL7 v2 ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content", [b"\x1c" * MEGABYTE, b"\x0bMSH" * (MEGABYTE // 4), b"MSH|" + b"\r" * MEGABYTE])
def test_a_frame_in_single_bytes(content: bytes) -> None:
    frames = Deframer(2 * MEGABYTE)
    found = []
    for piece in bytewise(frame(content)):
        frames.feed(piece)
        while (message := frames.take()) is not None:
            found.append(message)
    assert len(found) == 1


def test_many_tiny_frames_at_once() -> None:
    frames = Deframer(64)
    frames.feed(frame(b"x") * 300_000)
    assert sum(1 for _ in iter(frames.take, None)) == 300_000


def test_a_header_full_of_character_sets() -> None:
    line = b"MSH|^~\\&|" + b"x|" * 16 + b"GBK |BIG5|8859/1|UNICODE UTF-8|" * 100_000
    with pytest.raises(Rejected, match="MSH is longer"):
        parse(line)


@pytest.mark.parametrize("text", ["\\X" * 500_000, "\\E\\" * 500_000, "\\X" + "30" * 500_000 + "\\", "\\" * MEGABYTE])
def test_escapes_without_end(text: str) -> None:
    message = parse(b"MSH|^~\\&|a|b|c|d|e||ADT^A04|1|P|2.5\rPID|||" + text.encode())
    assert message.need("PID").get(3) is not None


@pytest.mark.parametrize("delimiter", ["~", "^", "&", "|"])
def test_a_segment_of_delimiters(delimiter: str) -> None:
    pid = parse(b"MSH|^~\\&|a|b|c|d|e||ADT^A04|1|P|2.5\rPID|||" + delimiter.encode() * 2_000_000).need("PID")
    if delimiter == "~":
        with pytest.raises(Rejected, match="repetitions"):
            pid.values(3)
    else:
        assert [value.get(8, 9) for value in pid.values(3)] in ([""], [])
        assert Value(pid.text, pid.form).get(1_000_000) == ""


def test_segments_are_limited() -> None:
    with pytest.raises(TooLarge, match="segments"):
        parse(b"MSH|^~\\&|a|b|c|d|e||ADT^A04|1|P|2.5\r" + b"P\r" * 1_000_000)


# --- MIME -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content", [
    b"\r" * 4 * MEGABYTE, b"\r\n" * 2 * MEGABYTE, b"\r\n--" * MEGABYTE, b"\r\n--C" * MEGABYTE, b"-" * 4 * MEGABYTE])
def test_a_part_of_almost_boundaries(content: bytes) -> None:
    message = b"--B\r\n\r\n" + content + b"\r\n--B--\r\n"
    pieces = (message[at:at + 65536] for at in range(0, len(message), 65536))
    assert [sum(map(len, body)) for _, body in Multipart(pieces, "B")] == [len(content)]


@pytest.mark.parametrize(("message", "error"), [
    (b"--B\r\n" + b"a: b\r\n" * 1_000_000, BrokerError),
    (b"--B\r\na: " + b"b" * 8 * MEGABYTE, BrokerError),
    (b"--B\r\n\r\n\r\n" * 200_000, TooLarge),
    (b"x" * 8 * MEGABYTE, BrokerError),
    (b"\r\n" * 4 * MEGABYTE, BrokerError),
])
def test_headers_and_parts_without_end(message: bytes, error: type[BrokerError]) -> None:
    def read() -> None:
        for _, body in Multipart((message[at:at + 65536] for at in range(0, len(message), 65536)), "B", 1000):
            b"".join(body)

    with pytest.raises(error):
        bounded(read, 16 * MEGABYTE)


def test_a_long_part_in_single_bytes() -> None:
    message = b"--B\r\n\r\n" + b"\r\n--" * 30_000 + b"\r\n--B--\r\n"
    assert sum(len(data) for _, body in Multipart(bytewise(message), "B") for data in body) == 120_000


# --- XML and what is made of it -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("data", "why"), [
    (b"<a>" * 100_000, "depth"),
    (b"<x>" + b"<a/>" * 4 * MEGABYTE + b"</x>", "too many tags"),
    (b"<x " + b" ".join(b"a%d=''" % n for n in range(2_000_000)) + b"/>", "too many tags"),
    (b"<x>" + b"a" * 16 * MEGABYTE + b"</x>", "not well-formed"),
    (b"<!--><a/>--><!DOCTYPE x [<!ENTITY e 'e'>]><x>&e;</x>", "DTD"),
    (b"<!--->--><!DOCTYPE x><x/>", "DTD"),
    (b"<!---->" * 100_000 + b"<!DOCTYPE x><x/>", "DTD"),
    (b"<!---->" * 150_000 + b"<x/>", "too many tags"),
    (b"<x " + b" ".join(b"a%d=''" % n for n in range(90_000)) + b"/>", "attributes"),
    (b"<x " + b" ".join(b"xmlns:a%d='urn:x%d'" % (n, n) for n in range(20_000)) + b">" + b"<y/>" * 20_000 + b"</x>", "too many"),
])
def test_documents_that_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(NotXml, match=why):
        bounded(lambda: xml.parse(data), 64 * MEGABYTE)


@pytest.mark.parametrize("data", [
    b"<x " + b" ".join(b"a%d=''" % n for n in range(200)) + b"/>",
    b"<x>" + b"<y a='1' b='2'>12345678901234567890</y>" * 100_000 + b"</x>",
    b"<!---->" * 90_000 + b"<x/>",
    b"<x>" + b"&lt;" * MEGABYTE + b"</x>",
    b"<x>" * 255 + b"</x>" * 255,
])
def test_documents_that_are_read(data: bytes) -> None:
    root = xml.parse(data)
    assert xml.canonical(root)
    assert xml.in_default_namespace(root)


def test_no_canonical_form_is_the_senders_fault() -> None:
    with pytest.raises(NotXml, match="relative"):
        xml.canonical(xml.parse(b"<x xmlns:a='b'><a:y/></x>"))


@pytest.mark.parametrize("row", [
    '<r:SeriesRequest seriesInstanceUID="1"/>', "<r:Other/>", '<r:SeriesRequest seriesInstanceUID=""></r:SeriesRequest>'])
def test_a_request_of_nothing_but_schema_errors(row: str) -> None:
    body = xml.parse(
        f'<r:RetrieveImagingDocumentSetRequest xmlns:r="{xml.RAD}">\n<r:StudyRequest studyInstanceUID="1">{row * 60_000}'
        "</r:StudyRequest></r:RetrieveImagingDocumentSetRequest>".encode())
    with pytest.raises(Rejected, match=r"SchemaInvalid: line 1: \w+: .* \(rad69.xsd\)"):
        schema.check("rad69.xsd", body)


def test_a_large_request_that_is_valid() -> None:
    row = ('<r:SeriesRequest seriesInstanceUID="1"><DocumentRequest><RepositoryUniqueId>1</RepositoryUniqueId>'
           "<DocumentUniqueId>1</DocumentUniqueId></DocumentRequest></r:SeriesRequest>")
    schema.check("rad69.xsd", xml.parse(
        f'<r:RetrieveImagingDocumentSetRequest xmlns:r="{xml.RAD}" xmlns="{xml.XDS}"><r:StudyRequest studyInstanceUID="1">'
        f"{row * 5_000}</r:StudyRequest><r:TransferSyntaxUIDList><r:TransferSyntaxUID>1</r:TransferSyntaxUID>"
        "</r:TransferSyntaxUIDList></r:RetrieveImagingDocumentSetRequest>".encode()))


@pytest.mark.parametrize("header_block", ["<a>" + "1" * 40 + "</a>", '<a s:mustUnderstand="0"/>'])
def test_an_envelope_of_headers(tmp_path: Path, header_block: str) -> None:
    whole = envelope(ask("x"), "urn:test:Ask").decode().replace("<s:Header>", "<s:Header>" + header_block * 100_000)
    reply = bench(tmp_path).post("/ask", whole.encode())
    assert (reply.status, reply.text("s:Body/t:Answer")) == (200, "x")


@pytest.mark.parametrize(("headers", "fault"), [
    ({"kind": "application/soap+xml; charset=punycode"}, "charset 'punycode' is not known"),
    ({"kind": "application/soap+xml; charset=idna"}, "charset 'idna' is not known"),
    ({"kind": "application/soap+xml; charset=unicode_escape"}, "charset 'unicode_escape' is not known"),
])
def test_codecs_that_are_no_charsets(tmp_path: Path, headers: dict[str, str], fault: str) -> None:
    reply = bench(tmp_path).post("/ask", b"a-" * MEGABYTE, headers["kind"])
    assert (reply.status, reply.fault) == (415, "Sender")
    assert fault in (reply.text("s:Body/s:Fault/s:Reason/s:Text") or "")


def _request(*rows: str) -> ebxml.Submission:
    listing = f'<RegistryObjectList xmlns="{RIM}">{"".join(rows)}</RegistryObjectList>'
    return ebxml.read_submission(xml.parse(
        f'<l:SubmitObjectsRequest xmlns:l="{LCM}">{listing}</l:SubmitObjectsRequest>'.encode()))


def _rows(kind: str, count: int) -> Iterator[str]:
    space = "                                "        # so that there are not too many tags for the size
    return (f'<{kind} id="{kind}{n}" classifiedObject="RegistryPackage{n}" sourceObject="RegistryPackage0"'
            f' targetObject="ExtrinsicObject{n}">{space}</{kind}>' for n in range(count))


def test_a_submission_of_labels_beside_their_packages() -> None:
    objects = _request(*_rows("RegistryPackage", 20_000), *_rows("Classification", 20_000)).objects
    assert objects.submission_sets == ()


def test_a_submission_of_thousands_of_links_and_documents(profile: Profile) -> None:
    base = bundle([document(f"Doc{n}") for n in range(500)])
    submission = ebxml.read_submission(xml.parse(ebxml.submit_request(base)))
    assert len(rules.validate(submission, profile).objects.associations) == 500
    after = ebxml.with_slots(submission, {f"Doc{n}": {"URI": "1"} for n in range(500)})
    assert {entry.uri for entry in after.objects.documents} == {"1"}


def test_a_submission_of_problems_tells_the_first_thousand(profile: Profile) -> None:
    slots = '<Slot name="x"><ValueList><Value>                 </Value></ValueList></Slot>' * 30_000
    label = ('<Classification id="{0}" classifiedObject="elsewhere" nodeRepresentation="                               "'
             ' classificationScheme="urn:uuid:41a5887f-8865-4c09-adf7-e362475b143a"/>')
    labels = "".join(label.format(f"c{n}") for n in range(30_000))
    node = "urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"
    with pytest.raises(Rejected) as refusal:
        rules.validate(_request(
            f'<RegistryPackage id="SS">{slots}<Classification id="l" classifiedObject="SS" classificationNode="{node}"/>'
            f"{labels}</RegistryPackage>"), profile)
    assert len(refusal.value.problems) == 1000


def test_an_answer_with_numbers_of_any_length() -> None:
    size = '<Slot name="size"><ValueList><Value>{}</Value></ValueList></Slot>'
    objects = _request(*(f'<ExtrinsicObject id="{n}">{size.format("9" * n)}</ExtrinsicObject>' for n in (18, 19, 5000))).objects
    assert [entry.size for entry in objects.documents] == [int("9" * 18), None, None]


def test_a_patient_of_thousands_of_ids() -> None:
    ids = "".join(f'<id root="2.999.3.1" extension="{n}"/>' for n in range(1001))
    message = (f'<PRPA_IN201301UV02 xmlns="{xml.HL7}"><controlActProcess><subject><registrationEvent><subject1><patient>{ids}'
               "</patient></subject1></registrationEvent></subject></controlActProcess></PRPA_IN201301UV02>")
    with pytest.raises(Rejected, match="too many repetitions"):
        hl7v3.read_registration(xml.parse(message.encode()))


# --- DICOM ----------------------------------------------------------------------------------------------------------

def deflated(size: int, head: bytes = b"") -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return engine.compress(head) + b"".join(engine.compress(bytes(MEGABYTE)) for _ in range(size >> 20)) + engine.flush()


def nested(depth: int, *, defined: bool) -> bytes:
    """Sequences in sequences, explicit VR."""
    if not defined:
        return b"\x40\0\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * depth
    data = b""
    for _ in range(depth):
        data = b"\xfe\xff\0\xe0" + struct.pack("<L", len(data)) + data
        data = b"\x40\0\x30\xa7SQ\0\0" + struct.pack("<L", len(data)) + data
    return data


def part10(body: bytes, syntax: str = "1.2.840.10008.1.2.1") -> bytes:
    return tags.part10_header("1.2.840.10008.5.1.4.1.1.88.59", "1.2", syntax) + body


@pytest.mark.parametrize("body", [nested(3000, defined=False), nested(3000, defined=True), nested(100_000, defined=False)])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", tags.IMPLICIT, tags.BIG_ENDIAN])
def test_a_manifest_of_nested_sequences(body: bytes, syntax: str) -> None:
    with pytest.raises(Rejected, match="InvalidDocumentContent"):
        bounded(lambda: read_manifest(part10(body, syntax)), 64 * MEGABYTE)


@pytest.mark.parametrize("head", [b"", b"\x08\0\x16\0UI\x1e\x001.2.840.10008.5.1.4.1.1.88.59\0\0"])
def test_a_manifest_that_inflates_without_end(head: bytes) -> None:
    bomb = part10(deflated(512 * MEGABYTE, head), tags.DEFLATED)
    assert len(bomb) < MEGABYTE
    with pytest.raises(Rejected, match="InvalidDocumentContent"):
        bounded(lambda: read_manifest(bomb), 100 * MEGABYTE)


@pytest.mark.parametrize("body", [
    b"\2\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99" + deflated(512 * MEGABYTE),
    b"\2\0\x10\0UI\x12\x001.2.840.10008.1.2\0",
])
def test_file_meta_information_in_a_data_set_is_refused(body: bytes) -> None:
    """It would be read as the file's own: another transfer syntax, an inflated data set."""
    with pytest.raises(Rejected) as refusal:
        bounded(lambda: identify(body), 64 * MEGABYTE)
    assert refusal.value.problems[0].code == DimseCode.CANNOT_UNDERSTAND


@pytest.mark.parametrize(("body", "syntax"), [
    (deflated(512 * MEGABYTE), tags.DEFLATED),
    (nested(100_000, defined=False), "1.2.840.10008.1.2.1"),
    (nested(3000, defined=True), tags.IMPLICIT),
    (b"\x08\0\x20\0DA\xff\xff" * 100, "1.2.840.10008.1.2.1"),
    (b"\x08\0\x20\0\x44\0\xff\xff\xff\xff", "1.2.840.10008.1.2.1"),
    (b"\x08\0\x05\0CS\x0a\0ISO_IR  19" + b"\x08\0\x18\0UI\0\0" * 1000, "1.2.840.10008.1.2.1"),
    (b"\x08\0\x05\0SS\x09\0ISO_IR 19", "1.2.840.10008.1.2.1"),
    (b"\x08\0\x18\0\xff\xff\xff\xff", tags.IMPLICIT),
    (b"\x08\0\x18\0OB\0\0\xf0\xff\xff\xff", "1.2.840.10008.1.2.1"),
])
def test_an_object_nobody_can_read_is_refused(body: bytes, syntax: str) -> None:
    with pytest.raises(Rejected) as refusal:
        bounded(lambda: identify(body, syntax), 64 * MEGABYTE)
    assert refusal.value.problems[0].code == DimseCode.CANNOT_UNDERSTAND


def identify(body: bytes, syntax: str = "1.2.840.10008.1.2.1") -> dict[str, str]:
    begin = tags.part10_header(CT, "2.25.1", syntax)
    file = begin + body
    meta = tags.FileMeta(CT, "2.25.1", syntax, len(begin))
    return header.identify(lambda at, length: file[at:at + length], len(file), meta, HOSPITAL)


# --- containers -----------------------------------------------------------------------------------------------------

def test_an_index_that_inflates_without_end() -> None:
    body = zlib.compress(b"[" + b"[]," * (40 << 20) + b"[]]", 9)
    container = bytes(4096) + body + struct.pack(">II8s", len(body), zlib.crc32(body), b"SDCMIDX1")
    with pytest.raises(Damaged, match="too large"):
        bounded(lambda: read_index(pread_of(container), len(container)), 16 * MEGABYTE)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images":' * 50_000, "9" * 5000, json.dumps({"images": [[]] * 100})])
def test_an_index_of_odd_json(text: str) -> None:
    body = zlib.compress(text.encode())
    container = bytes(1 << 20) + body + struct.pack(">II8s", len(body), zlib.crc32(body), b"SDCMIDX1")
    with pytest.raises(Damaged):
        read_index(pread_of(container), len(container))


HEAD = b"SEQ\x06" + write_text("org.apache.hadoop.io.Text") + write_text("org.apache.hadoop.io.BytesWritable") + b"\0\0"


@pytest.mark.parametrize("file", [
    HEAD + b"\x7f\xff\xff\xff",
    HEAD + b"\0\0\xff\xff" + bytes(60_000),
    HEAD + b"\0\0\0\1\x88\x7f\xff\xff\xff\xff\xff\xff\xff",
    HEAD + b"\0\0\0\0" + bytes(16) + b"\x7f\xff\xff\xff\0\0\0\1\0\x7f\xff\xff\xfa",
    HEAD + b"\0\0\0\0" + bytes(16) + b"\0\0\0\0" * 3,
    HEAD + b"\0\0\0\0" + bytes(16) + b"\xff\xff\xff\xff" + bytes(15) + b"\1",
])
def test_a_sequence_file_that_lies_about_lengths(file: bytes) -> None:
    with pytest.raises(Damaged):
        bounded(lambda: list(Reader(pread_of(file), len(file)).records()), MEGABYTE)


def test_a_sequence_file_of_sync_marks() -> None:
    file = HEAD + b"\0\0\0\0" + bytes(16) + (b"\xff\xff\xff\xff" + bytes(16)) * 200_000
    assert list(Reader(pread_of(file), len(file)).records()) == []
