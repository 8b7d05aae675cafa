"""What real senders do differently and are right to: encodings, blanks, comments, no WS-Addressing, plain retrieves."""

import codecs
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.imaging import rad69_retrieve
from broker.model.transaction import Packaging
from broker.repository import iti41_provide, iti43_retrieve
from tests.helpers.soap import NS, Bench, ask, bench, envelope, keep

SOAP12 = "http://www.w3.org/2003/05/soap-envelope"
WSA = "http://www.w3.org/2005/08/addressing"
SOAP = "application/soap+xml"
MULTI = 'multipart/related; type="application/xop+xml"; start="<r>"; boundary=B'


def bare(body: bytes | str, header: str = "") -> str:
    """Return an envelope with no more than this."""
    text = body if isinstance(body, str) else body.decode()
    return f'<s:Envelope xmlns:s="{SOAP12}">{header and f"<s:Header>{header}</s:Header>"}<s:Body>{text}</s:Body></s:Envelope>'


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Bench]:
    ready = bench(tmp_path)
    yield ready
    assert ready.spooled == []


# --- encodings (RFC 7303 3.2, 3.3)

ENCODINGS = {
    # name: (declared, charset, encoding of the bytes, byte order mark)
    "as .NET sends it": ("utf-16", "utf-16", "utf-16-le", codecs.BOM_UTF16_LE),
    "big endian": ("UTF-16", "utf-16", "utf-16-be", codecs.BOM_UTF16_BE),
    "no mark": ("UTF-16", "UTF-16", "utf-16-le", b""),
    "no mark, big endian": ("UTF-16", "UTF-16", "utf-16-be", b""),
    "names the order": ("UTF-16LE", "utf-16le", "utf-16-le", b""),
    "names the order, and has a mark": ("UTF-16", "utf-16le", "utf-16-le", codecs.BOM_UTF16_LE),
    "names the order, big endian": ("UTF-16BE", "utf-16be", "utf-16-be", b""),
    "another order than it says": ("UTF-16", "utf-16be", "utf-16-le", codecs.BOM_UTF16_LE),
    "not declared": ("", "utf-16", "utf-16-le", codecs.BOM_UTF16_LE),
    "not declared, no mark": ("", "utf-16", "utf-16-be", b""),
    "no charset": ("UTF-16", "", "utf-16-le", codecs.BOM_UTF16_LE),
    "no charset, no mark": ("UTF-16", "", "utf-16-be", b""),
    "declared as something else": ("utf-8", "utf-16", "utf-16-le", codecs.BOM_UTF16_LE),
    "charset is something else": ("UTF-16", "utf-8", "utf-16-le", codecs.BOM_UTF16_LE),
    "utf-8 that .NET's StringWriter declares as UTF-16": ("utf-16", "utf-8", "utf-8", b""),
    "utf-8 declared as UTF-16, with a mark": ("utf-16", "utf-8", "utf-8", codecs.BOM_UTF8),
    "utf-8 that nobody calls so": ("utf-16", "utf-16", "utf-8", b""),
    "gb18030 declared as UTF-16": ("utf-16", "gb18030", "gb18030", b""),
    "utf-8 with a mark": ("UTF-8", "utf-8", "utf-8", codecs.BOM_UTF8),
}


def encoded(name: str, text: str) -> tuple[bytes, str]:
    """Return the bytes of the document, and the charset parameter."""
    declared, charset, encoding, mark = ENCODINGS[name]
    head = f"<?xml version='1.0' encoding='{declared}' standalone='yes'?>\r\n" if declared else ""
    return mark + (head + text).encode(encoding), f"; charset={charset}" if charset else ""


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_bytes_of_utf_16_tell_it(edge: Bench, name: str) -> None:
    data, charset = encoded(name, bare(ask("林美")))
    assert edge.post("/ask", data, SOAP + charset).text("s:Body/t:Answer") == "林美"


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_same_in_the_root_part_of_mtom(edge: Bench, name: str) -> None:
    data, charset = encoded(name, bare(keep("cid:a")))
    root = f'Content-Type: application/xop+xml{charset}; type="{SOAP}"\r\nContent-ID: <r>\r\n\r\n'.encode()
    reply = edge.post("/keep", b"--B\r\n" + root + data + b"\r\n--B\r\nContent-ID: <a>\r\n\r\nbytes\r\n--B--", MULTI)
    assert reply.parts()["d0@broker"] == b"bytes"


# --- blanks behind a boundary (RFC 2046 5.1.1)

@pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t  ", b" " * 1000])
@pytest.mark.parametrize("place", ["first", "between", "last", "everywhere"])
@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"This is a message.\r\n"])
def test_blanks_behind_a_boundary_are_no_part_of_it(edge: Bench, blanks: bytes, place: str, preamble: bytes) -> None:
    padding = {name: blanks if place in {name, "everywhere"} else b"" for name in ("first", "between", "last")}
    root = envelope(keep("cid:a"), "urn:test:Keep")
    data = b"".join((
        preamble, b"--B", padding["first"], b"\r\nContent-ID: <r>\r\n\r\n", root,
        b"\r\n--B", padding["between"], b"\r\nContent-ID: <a>\r\n\r\nbytes \r\n", b"\r\n--B--", padding["last"], b"\r\n"))
    reply = edge.post("/keep", data, MULTI)
    assert reply.parts()["d0@broker"] == b"bytes \r\n"


# --- envelopes that look odd and are right

ODD = {
    "nothing else": bare(ask("1")),
    "blanks and comments in the body": bare(f"\n <!-- a -->{ask('1').decode()}<!-- b -->\t\r\n"),
    "comments in the envelope": bare(ask("1"), "<!-- a -->").replace("<s:Body>", "<!-- b -->\n<s:Body>").replace(
        "</s:Envelope>", "<!-- c --> </s:Envelope>"),
    "comments around the envelope": f"<!-- before -->{bare(ask('1'))}<!-- behind -->\n",
    "a comment in the text": bare(ask("<!-- <?no instruction?> -->1")),
    "CDATA": bare(ask("<![CDATA[1]]>")),
    "an empty header": bare(ask("1")).replace("<s:Body>", "<s:Header/><s:Body>"),
    "an Id and a language of the body": bare(ask("1")).replace("<s:Body>", '<s:Body xmlns:u="urn:u" u:Id="b" xml:lang="zh">'),
    "no prefix": f'<Envelope xmlns="{SOAP12}"><Body><Ask xmlns="{NS}">1</Ask></Body></Envelope>',
    "another prefix": f'<E-1:Envelope xmlns:E-1="{SOAP12}"><E-1:Body><Ask xmlns="{NS}">1</Ask></E-1:Body></E-1:Envelope>',
}


@pytest.mark.parametrize("name", ODD)
def test_an_envelope_may_look_odd(edge: Bench, name: str) -> None:
    assert edge.post("/ask", ODD[name].encode(), SOAP).text("s:Body/t:Answer") == "1"


def test_what_looks_like_an_instruction_in_cdata_is_text(edge: Bench) -> None:
    assert edge.post("/ask", bare(ask("<![CDATA[<?xml version='1.0'?>]]>")).encode(), SOAP).status == 200


# --- WS-Addressing is answered to those who speak it

UNADDRESSED = {
    "success": ("/ask", bare(ask("hello"))),
    "refusal": ("/ask", bare(ask("reject"))),
    "bug": ("/ask", bare(ask("bug"))),
    "unknown message": ("/ask", bare("<x/>")),
    "empty body": ("/ask", bare("")),
    "no xml": ("/ask", "no xml"),
    "no envelope": ("/ask", "<x/>"),
    "wrong packaging": ("/keep", bare(keep())),
    "another header": ("/ask", bare(ask("hello"), '<o:x xmlns:o="urn:o"/>')),
    "addressing of 2004": (
        "/ask", bare(ask("hello"), '<o:MessageID xmlns:o="http://schemas.xmlsoap.org/ws/2004/08/addressing">1</o:MessageID>')),
}


@pytest.mark.parametrize("name", UNADDRESSED)
def test_who_sends_no_addressing_gets_none(edge: Bench, name: str) -> None:
    path, message = UNADDRESSED[name]
    reply = edge.post(path, message.encode(), SOAP)
    assert reply.element("s:Header/a:*") is None
    assert not [word for word in (b"mustUnderstand", b"xmlns:wsa", b"RelatesTo") if word in reply.body]


def test_an_answer_without_headers_has_no_header_element(edge: Bench) -> None:
    reply = edge.post("/ask", bare(ask("hello")).encode(), SOAP)
    assert [child.tag for child in reply.root()] == [f"{{{SOAP12}}}Body"]


def test_what_was_not_understood_is_told_without_addressing(edge: Bench) -> None:
    odd = bare(ask("1"), '<o:x xmlns:o="urn:o" s:mustUnderstand="1"/>')
    reply = edge.post("/ask", odd.encode(), SOAP)
    assert reply.fault == "MustUnderstand"
    assert reply.element("s:Header/s:NotUnderstood") is not None
    assert b"addressing" not in reply.body


def test_an_mtom_answer_without_addressing(edge: Bench) -> None:
    body = b"--B\r\nContent-ID: <r>\r\n\r\n" + bare(keep()).encode() + b"\r\n--B--"
    root = edge.post("/keep", body, MULTI).parts()["root"]
    assert b"Kept" in root
    assert b"addressing" not in root


@pytest.mark.parametrize(("header", "relates"), [
    ("<a:MessageID>urn:uuid:1</a:MessageID>", "urn:uuid:1"),
    ("<a:Action>urn:test:Ask</a:Action>", None),
    ("<a:To>http://broker/</a:To>", None),
    (f"<a:ReplyTo><a:Address>{WSA}/anonymous</a:Address></a:ReplyTo>", None),
    ('<a:MessageID s:mustUnderstand="1">urn:uuid:1</a:MessageID>', "urn:uuid:1"),
])
@pytest.mark.parametrize(("body", "action"), [
    (ask("hello").decode(), "urn:test:AskAnswer"), ("", f"{WSA}/soap/fault"), ("<x/>", f"{WSA}/fault"),
])
def test_any_header_of_it_is_enough(edge: Bench, header: str, relates: str | None, body: str, action: str) -> None:
    reply = edge.post("/ask", bare(body, header.replace(">", f' xmlns:a="{WSA}">', 1)).encode(), SOAP)
    assert reply.text("s:Header/a:Action") == action
    assert reply.text("s:Header/a:RelatesTo") == relates


# --- plain retrieves

PLAIN = envelope(f'<Give xmlns="{NS}">3</Give>'.encode(), "urn:test:Give")


def test_a_plain_retrieve_is_told_how_to_switch_mtom_on(edge: Bench) -> None:
    reply = edge.post("/give", PLAIN, SOAP)
    reason = reply.text("s:Body/s:Fault/s:Reason/s:Text") or ""
    assert (reply.status, reply.fault) == (400, "Sender")
    for word in ("MTOM", "MTOMFeature", "mtom-enabled", "enableMTOM", "messageEncoding", "server.plain_retrieve"):
        assert word in reason
    assert "server.plain_retrieve" not in (edge.post("/keep", envelope(keep(), "urn:test:Keep"), SOAP).text(
        "s:Body/s:Fault/s:Reason/s:Text") or "")


def test_a_plain_retrieve_is_answered_as_mtom_where_the_setting_says_so(tmp_path: Path) -> None:
    edge = bench(tmp_path, plain_retrieve=True)
    reply = edge.post("/give", PLAIN, SOAP)
    assert (reply.status, reply.kind, reply.parts()["picture@broker"]) == (200, "multipart/related", b"\0\0\0")
    assert edge.post("/give", PLAIN.replace(b">3<", b">x<"), SOAP).kind == "multipart/related"  # a refusal, too
    assert edge.post("/keep", envelope(keep(), "urn:test:Keep"), SOAP).status == 400
    with_parts = b"--B\r\nContent-ID: <r>\r\n\r\n" + PLAIN + b"\r\n--B--"
    assert edge.post("/give", with_parts, MULTI).status == 200


def test_only_retrieves_may_be_plain() -> None:
    rows = (iti41_provide.ROW, iti43_retrieve.ROW, rad69_retrieve.ROW)
    assert [row.code for row in rows if row.may_be_plain and row.packaging is Packaging.MTOM] == ["ITI-43", "RAD-69"]
