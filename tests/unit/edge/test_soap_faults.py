"""Every request that is no SOAP request gets a fault, never a bare HTTP error or a broken connection."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.soap import NS, Bench, ask, bench, envelope, keep, mtom

WSA = "http://www.w3.org/2005/08/addressing"
SOAP12 = "http://www.w3.org/2003/05/soap-envelope"
WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
SOAP = "application/soap+xml"
GOOD = envelope(ask("hello"), "urn:test:Ask")


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Bench]:
    ready = bench(tmp_path, max_request=64 << 10, max_body=256 << 10, max_parts=10)
    yield ready
    assert ready.spooled == []


def with_header(block: str) -> bytes:
    return GOOD.replace(b"</s:Header>", block.encode() + b"</s:Header>")


def with_body(body: str) -> bytes:
    return GOOD.replace(ask("hello"), body.encode())


WSU = 'xmlns:u="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd" u:Id'
ENCODING = f"{SOAP12}/encoding"


def in_order(*names: str) -> bytes:
    """Return the good envelope with these parts."""
    start, header, end = GOOD.partition(b"<s:Header>")[0], GOOD.index(b"<s:Header>"), GOOD.index(b"<s:Body>")
    parts = {"header": GOOD[header:end], "body": GOOD[end:GOOD.index(b"</s:Envelope>")], "other": b"<x xmlns='urn:x'/>",
             "fault": b"<s:Fault/>"}
    return start + b"".join(parts[name] for name in names) + b"</s:Envelope>"


WRONG = {
    # name: (content type, body, status, fault)
    "no bytes": (SOAP, b"", 400, "Sender"),
    "no xml": (SOAP, b"hello", 400, "Sender"),
    "cut xml": (SOAP, GOOD[:-20], 400, "Sender"),
    "dtd": (SOAP, b'<!DOCTYPE x [<!ENTITY e "x">]>' + GOOD.partition(b"?>")[2], 400, "Sender"),
    "external entity": (SOAP, b'<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><x/>', 400, "Sender"),
    "empty body": (SOAP, with_body(""), 400, "Sender"),
    "two body children": (SOAP, with_body(ask("1").decode() * 2), 400, "Sender"),
    "two bodies": (SOAP, GOOD.replace(b"</s:Body>", b"</s:Body><s:Body><x/></s:Body>"), 400, "Sender"),
    "no body": (SOAP, f'<s:Envelope xmlns:s="{SOAP12}"/>'.encode(), 400, "Sender"),
    "a fault as request": (
        SOAP, with_body("<s:Fault><s:Code><s:Value>s:Sender</s:Value></s:Code></s:Fault>"), 400, "Sender/ActionNotSupported"),
    "ids and hrefs": (
        SOAP, with_body(f'<x:Other xmlns:x="{NS}" ><a id="1"/><b href="cid:1"/></x:Other>'), 400, "Sender/ActionNotSupported"),
    "unknown action": (SOAP, GOOD.replace(b"urn:test:Ask", b"urn:test:Other"), 400, "Sender/ActionNotSupported"),
    "unknown body child": (SOAP, with_body("<x/>"), 400, "Sender/ActionNotSupported"),
    "same name, other namespace": (SOAP, with_body('<Ask xmlns="urn:other"/>'), 400, "Sender/ActionNotSupported"),
    "soap 1.1": (SOAP, GOOD.replace(SOAP12.encode(), b"http://schemas.xmlsoap.org/soap/envelope/"), 500, "VersionMismatch"),
    "soap 1.1 media type": ("text/xml; charset=utf-8", GOOD, 500, "VersionMismatch"),
    "no media type": ("", GOOD, 415, "Sender"),
    "other media type": ("application/json", b"{}", 415, "Sender"),
    "unknown charset": (f"{SOAP}; charset=klingon", GOOD, 415, "Sender"),
    "not text charset": (f"{SOAP}; charset=zlib", ask("x"), 415, "Sender"),
    "slow charset": (f"{SOAP}; charset=punycode", b"a-" * 10_000, 415, "Sender"),
    "charset of escapes": (f"{SOAP}; charset=unicode_escape", GOOD, 415, "Sender"),
    "charset that hides markup": (f"{SOAP}; charset=utf-7", GOOD, 415, "Sender"),
    "charset of odd bytes": (f'{SOAP}; charset="\xe5\x8c\xba"', GOOD, 415, "Sender"),
    "media type beyond latin-1": ("application/soap+xml; charset=區", GOOD, 415, "Sender"),
    "declared encoding that hides markup": (
        SOAP, b"<?xml version='1.0' encoding='UTF-7'?>" + GOOD.partition(b"?>")[2], 400, "Sender"),
    "half a character of utf-16": (f"{SOAP}; charset=utf-16", GOOD.decode().encode("utf-16") + b"\x00", 400, "Sender"),
    "utf-32": (SOAP, GOOD.decode().replace("UTF-8", "UTF-32").encode("utf-32"), 400, "Sender"),
    "other bytes than utf-16": (f"{SOAP}; charset=utf-16", GOOD.decode().encode("utf-16-le")[1:], 400, "Sender"),
    "relative namespace": (SOAP, with_header('<x:y xmlns:x="z" s:mustUnderstand="1"/>'), 500, "MustUnderstand"),
    "wrong charset": (f"{SOAP}; charset=gb18030", b"<x>\xff\xff</x>", 400, "Sender"),
    "must understand": (SOAP, with_header('<x:Odd xmlns:x="urn:odd" s:mustUnderstand="true"/>'), 500, "MustUnderstand"),
    "must understand 1": (SOAP, with_header('<Odd s:mustUnderstand="1"/>'), 500, "MustUnderstand"),
    "two headers": (SOAP, GOOD.replace(b"</s:Header>", b"</s:Header><s:Header/>"), 400, "Sender"),
    "a header behind the body": (SOAP, in_order("body", "header"), 400, "Sender"),
    "headers around the body": (SOAP, in_order("header", "body", "header"), 400, "Sender"),
    "an element before the body": (SOAP, in_order("header", "other", "body"), 400, "Sender"),
    "an element behind the body": (SOAP, in_order("header", "body", "other"), 400, "Sender"),
    "an element of SOAP beside the body": (SOAP, in_order("header", "body", "fault"), 400, "Sender"),
    "an element before the header": (SOAP, in_order("other", "header", "body"), 400, "Sender"),
    "a body in the header's place": (SOAP, in_order("body", "body"), 400, "Sender"),
    "text in the envelope": (SOAP, GOOD.replace(b"<s:Header>", b"text<s:Header>"), 400, "Sender"),
    "text behind the header": (SOAP, GOOD.replace(b"</s:Header>", b"</s:Header>text"), 400, "Sender"),
    "text behind the body": (SOAP, GOOD.replace(b"</s:Body>", b"</s:Body>text"), 400, "Sender"),
    "text in the header": (SOAP, GOOD.replace(b"<s:Header>", b"<s:Header>text"), 400, "Sender"),
    "text between headers": (SOAP, GOOD.replace(b"</s:Header>", b"text</s:Header>"), 400, "Sender"),
    "text before the body's child": (SOAP, with_body("text" + ask("1").decode()), 400, "Sender"),
    "text behind the body's child": (SOAP, with_body(ask("1").decode() + "text"), 400, "Sender"),
    "a blank that is none of XML": (SOAP, with_body(ask("1").decode() + "&#160;"), 400, "Sender"),
    "CDATA behind the body's child": (SOAP, with_body(ask("1").decode() + "<![CDATA[x]]>"), 400, "Sender"),
    "text only": (SOAP, with_body("text"), 400, "Sender"),
    "an instruction before the envelope": (SOAP, GOOD.replace(b"<s:Envelope", b"<?a b?><s:Envelope"), 400, "Sender"),
    "an instruction in the body": (SOAP, with_body(ask("1").decode() + "<?a b?>"), 400, "Sender"),
    "an instruction in the message": (SOAP, GOOD.replace(b"hello", b"hel<?a b?>lo"), 400, "Sender"),
    "an instruction behind the envelope": (SOAP, GOOD + b"<?a b?>", 400, "Sender"),
    "an attribute of the envelope": (SOAP, GOOD.replace(b"<s:Envelope", b"<s:Envelope id='1'"), 400, "Sender"),
    "an attribute of the body": (SOAP, GOOD.replace(b"<s:Body>", b"<s:Body Id='1'>"), 400, "Sender"),
    "encodingStyle of the envelope": (SOAP, GOOD.replace(b"<s:Envelope", b"<s:Envelope s:encodingStyle='u:x'"), 400, "Sender"),
    "encodingStyle of the body": (SOAP, GOOD.replace(b"<s:Body>", b"<s:Body s:encodingStyle=''>"), 400, "Sender"),
    "an encoding of the message": (
        SOAP, GOOD.replace(b"<t:Ask", f'<t:Ask s:encodingStyle="{ENCODING}"'.encode()), 500, "DataEncodingUnknown"),
    "an encoding of a header": (
        SOAP, with_header(f'<x:y xmlns:x="urn:x" s:encodingStyle="{ENCODING}"/>'), 500, "DataEncodingUnknown"),
    "must understand perhaps": (SOAP, with_header('<x:y xmlns:x="urn:x" s:mustUnderstand="yes"/>'), 400, "Sender"),
    "two Security headers": (SOAP, with_header(f'<o:Security xmlns:o="{WSSE}"/>' * 2), 400, "Sender/InvalidSecurity"),
    "two Security headers for the last receiver": (
        SOAP, with_header(
            f'<o:Security xmlns:o="{WSSE}"/><o:Security xmlns:o="{WSSE}" s:role="{SOAP12}/role/ultimateReceiver"/>'), 400,
        "Sender/InvalidSecurity"),
    "two elements of one Id": (
        SOAP, with_header(f'<o:Security xmlns:o="{WSSE}"><o:x {WSU}="a"/></o:Security>').replace(
            b"<s:Body>", f'<s:Body {WSU}=" a">'.encode()), 400, "Sender/InvalidSecurity"),
    "two assertions of one ID": (
        SOAP, with_header(f'<o:Security xmlns:o="{WSSE}"><o:x ID="a"/><o:x AssertionID="a"/></o:Security>'), 400,
        "Sender/InvalidSecurity"),
    "two actions": (
        SOAP, with_header("<wsa:Action>urn:test:Ask</wsa:Action>"), 400, "Sender/InvalidAddressingHeader/InvalidCardinality"),
    "asynchronous": (
        SOAP, GOOD.replace(f"{WSA}/anonymous".encode(), b"http://client/reply"), 400,
        "Sender/InvalidAddressingHeader/OnlyAnonymousAddressSupported"),
    "too large": (SOAP, GOOD + b" " * (64 << 10), 413, "Sender"),
    "multipart where plain is wanted": ('multipart/related; boundary="x"', b"--x--", 415, "Sender"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_answered_with_a_fault(edge: Bench, name: str) -> None:
    content_type, body, status, fault = WRONG[name]
    reply = edge.post("/ask", body, content_type)
    assert (reply.status, reply.fault, reply.kind) == (status, fault, SOAP)
    assert reply.text("s:Body/s:Fault/s:Reason/s:Text")
    assert edge.audited() == []


@pytest.mark.parametrize("coding", ["gzip", "deflate, gzip", "br", "x" * 1000])
def test_a_coded_body_is_not_read(edge: Bench, coding: str) -> None:
    reply = edge.post("/ask", GOOD, coding=coding)
    assert (reply.status, reply.fault, reply.kind) == (415, "Sender", SOAP)
    assert len(reply.text("s:Body/s:Fault/s:Reason/s:Text") or "") < 100
    assert edge.audited() == []
    assert edge.post("/ask", GOOD, coding="identity").status == 200


MULTI = 'multipart/related; type="application/xop+xml"; start="<root@x>"; start-info="application/soap+xml"; boundary=B'
ROOT = b'--B\r\nContent-Type: application/xop+xml; charset=UTF-8; type="application/soap+xml"\r\nContent-ID: <root@x>\r\n\r\n'
KEEP = ROOT + envelope(keep(), "urn:test:Keep")
PART = b"\r\n--B\r\nContent-ID: <%s>\r\n%s\r\nbytes"

WRONG_MTOM = {
    "plain where MTOM is wanted": (SOAP, envelope(keep(), "urn:test:Keep"), 400, "Sender"),
    "no type": (MULTI.replace('type="application/xop+xml"; ', ""), KEEP + b"\r\n--B--\r\n", 415, "Sender"),
    "soap with attachments": (MULTI.replace("application/xop+xml", "text/xml"), KEEP + b"\r\n--B--\r\n", 415, "Sender"),
    "no boundary": (MULTI.replace("boundary=B", ""), KEEP + b"\r\n--B--\r\n", 400, "Sender"),
    "empty": (MULTI, b"", 400, "Sender"),
    "cut in the root": (MULTI, KEEP[:-50], 400, "Sender"),
    "cut in a part": (MULTI, KEEP + PART % (b"a", b""), 400, "Sender"),
    "cut in the last boundary": (MULTI, KEEP + b"\r\n--B-", 400, "Sender"),
    "no root part": (MULTI.replace("root@x", "other@x"), KEEP + b"\r\n--B--\r\n", 400, "Sender"),
    "no parts": (MULTI, b"--B--\r\n", 400, "Sender"),
    "one id twice": (MULTI, KEEP + PART % (b"a", b"") + PART % (b"a", b"") + b"\r\n--B--\r\n", 400, "Sender"),
    "the root's id again": (MULTI, KEEP + PART % (b"root@x", b"") + b"\r\n--B--\r\n", 400, "Sender"),
    "the root's id again, and no start": (
        MULTI.replace('start="<root@x>"; ', ""), KEEP + PART % (b"root@x", b"") + b"\r\n--B--\r\n", 400, "Sender"),
    "base64 part": (
        MULTI, KEEP + PART % (b"a", b"Content-Transfer-Encoding: base64\r\n") + b"\r\n--B--\r\n", 400, "Sender"),
    "bad part header": (MULTI, KEEP + PART % (b"a", b"b\xff\r\n") + b"\r\n--B--\r\n", 400, "Sender"),
    "too many parts": (MULTI, KEEP + b"".join(PART % (b"%d" % n, b"") for n in range(20)) + b"\r\n--B--\r\n", 413, "Sender"),
    "large root": (MULTI, KEEP + b" " * (64 << 10) + b"\r\n--B--\r\n", 413, "Sender"),
    "large body": (MULTI, KEEP + PART % (b"a", b"") + b"x" * (256 << 10) + b"\r\n--B--\r\n", 413, "Sender"),
    "xml that is none in the root": (MULTI, ROOT + b"x\r\n--B--\r\n", 400, "Sender"),
}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", WRONG_MTOM)
def test_a_wrong_mtom_request_is_answered_with_a_fault(edge: Bench, name: str, chunked: bool) -> None:
    content_type, body, status, fault = WRONG_MTOM[name]
    reply = edge.post("/keep", body, content_type, chunked=chunked)
    assert (reply.status, reply.fault, reply.kind) == (status, fault, SOAP)
    assert edge.audited() == []


def test_a_limit_names_its_setting(edge: Bench) -> None:
    reply = edge.post("/ask", GOOD + b" " * (64 << 10), SOAP, chunked=True)
    assert reply.text("s:Body/s:Fault/s:Reason/s:Text") == "limit exceeded: server.max_request = 65536 bytes"
    assert reply.headers["Connection"] == "close"
    reply = edge.post("/keep", b"x", MULTI, length=1 << 30)
    assert reply.text("s:Body/s:Fault/s:Reason/s:Text") == "limit exceeded: server.max_body = 262144 bytes"


def test_a_body_shorter_than_its_length_is_refused(edge: Bench) -> None:
    reply = edge.post("/ask", GOOD, SOAP, length=len(GOOD) + 1)
    assert (reply.status, reply.fault) == (400, "Sender")
    assert reply.headers["Connection"] == "close"


def test_a_fault_answers_the_message_and_has_the_action_of_faults(edge: Bench) -> None:
    odd = "not a URI &lt;1&gt; "
    unknown = edge.post("/ask", GOOD.replace(b"urn:test:Ask", b"urn:x").replace(b"urn:uuid:1", odd.encode()))
    assert unknown.text("s:Header/a:RelatesTo") == "not a URI <1> "
    assert unknown.text("s:Header/a:Action") == f"{WSA}/fault"
    value = unknown.element(".//s:Subcode/s:Value")
    assert value is not None
    assert value.text == "q:ActionNotSupported"
    assert value.nsmap["q"] == WSA
    two = edge.post("/ask", with_body(ask("1").decode() * 2))
    assert two.text("s:Header/a:Action") == f"{WSA}/soap/fault"
    assert two.text("s:Header/a:RelatesTo") == "urn:uuid:1"
    assert two.element(".//s:Role") is None
    loose = edge.post("/ask", GOOD.replace(b"hello", b"hel<?a b?>lo").replace(b"</s:Body>", b"</s:Body><s:Header/>"))
    assert (loose.status, loose.text("s:Header/a:RelatesTo")) == (400, "urn:uuid:1")


def test_headers_tell_what_was_not_understood_and_what_is_spoken(edge: Bench) -> None:
    odd = with_header('<x:Odd xmlns:x="urn:odd" s:mustUnderstand="true"/>')
    block = edge.post("/ask", odd).element("s:Header/s:NotUnderstood")
    assert block is not None
    prefix, _, local = block.get("qname", "").partition(":")
    assert (block.nsmap[prefix], local) == ("urn:odd", "Odd")
    old = GOOD.replace(SOAP12.encode(), b"http://schemas.xmlsoap.org/soap/envelope/")
    assert edge.post("/ask", old).element("s:Header/s:Upgrade/s:SupportedEnvelope") is not None


@pytest.mark.parametrize("block", [
    '<x:Odd xmlns:x="urn:odd"/>',
    '<x:Odd xmlns:x="urn:odd" s:mustUnderstand="0"/>',
    f'<x:Odd xmlns:x="urn:odd" s:mustUnderstand="true" s:role="{SOAP12}/role/none"/>',
    f'<x:Security xmlns:x="{WSSE}" s:mustUnderstand="1"/>',
    f'<x:Security xmlns:x="{WSSE}" {WSU}="a"/><x:Security xmlns:x="{WSSE}" s:role="urn:other" {WSU}="b"/>',
    f'<x:Odd xmlns:x="urn:odd" s:encodingStyle="{SOAP12}/encoding/none"/>',
    f'<x:Odd xmlns:x="urn:odd" s:role="urn:other" s:encodingStyle="{ENCODING}"/>',
    '<x:Odd xmlns:x="urn:odd" s:role="urn:other" s:mustUnderstand="yes"/>',
])
def test_headers_that_need_not_be_understood_are_passed_over(edge: Bench, block: str) -> None:
    assert edge.post("/ask", with_header(block)).text("s:Body/t:Answer") == "hello"


def test_a_bug_is_a_receiver_fault_without_its_text(edge: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    reply = edge.ask("bug Zhang San")
    assert (reply.status, reply.fault) == (500, "Receiver")
    assert b"Zhang" not in reply.body
    out = "".join(capsys.readouterr())
    assert out.count("error=KeyError") == 1
    assert "_handle_ask" in out
    assert "Zhang" not in out
    assert ['EventOutcomeIndicator="8"' in line for line in edge.audited()] == [True]


def test_mtom_parts_are_not_kept_after_a_fault(edge: Bench) -> None:
    body = mtom(b"<x/>", "urn:x", ("a@b", b"bytes"))
    reply = edge.post("/keep", b"".join(body), body.content_type)
    assert (reply.status, reply.fault) == (400, "Sender/ActionNotSupported")
