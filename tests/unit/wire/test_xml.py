"""What the parser takes, and what it refuses before it costs anything."""

import pytest

from broker.wire import xml
from broker.wire.xml import NotXml


@pytest.mark.parametrize("data", [
    b"<a/>", b"\xef\xbb\xbf<?xml version='1.0'?><a/>", b"\n <!-- <!DOCTYPE a> --><?b c?><a/>\n<!-- d -->", "<圖/>".encode(),
    b"<_a/>", b"<!-- > --><a/>",
])
def test_documents(data: bytes) -> None:
    assert xml.parse(data) is not None


@pytest.mark.parametrize("encoding", [
    "utf-8", "UTF-8", "US-ASCII", "GB18030", "gbk", "GB2312", "cp936", "Big5", "ISO-8859-1", "windows-1252", "Shift_JIS",
    "EUC-KR"])
def test_encodings_of_the_field(encoding: str) -> None:
    text = {"GB18030": "葉區瑋錦誠𠮷", "Big5": "葉區瑋", "Shift_JIS": "ソ表", "EUC-KR": "홍"}.get(encoding, "a")
    assert xml.parse(f'<?xml version="1.0" encoding="{encoding}"?><a>{text}</a>'.encode(encoding)).text == text


@pytest.mark.parametrize(("data", "why"), [
    (b"", "empty"),
    (b" \r\n", "empty"),
    (b"hello", "empty"),
    (b"<", "empty"),
    (b"<!-- never ends", "empty"),
    (b"<?never ends", "empty"),
    (b"<a", "not well-formed"),
    (b"<a></b>", "not well-formed"),
    (b"<a/><b/>", "not well-formed"),
    (b"<a>&lt</a>", "not well-formed"),
    (b"<a>&e;</a>", "not well-formed"),
    (b"<a>\0</a>", "not well-formed"),
    (b"<a>\xff</a>", "not well-formed"),
    (b"<a b='1' b='2'/>", "not well-formed"),
    (b"<a:b/>", "not well-formed"),
    ("<a/>".encode("utf-16"), "empty"),
    (b"<!DOCTYPE a><a/>", "DTD"),
    (b"\xef\xbb\xbf\n<!--x--><!DOCTYPE a><a/>", "DTD"),
    (b"<!--><a/>--><!DOCTYPE a [<!ENTITY e 'e'>]><a>&e;</a>", "DTD"),           # `<!-->` opens a comment and does not end it
    (b"<!--->--><!DOCTYPE a><a/>", "DTD"),
    (b"<?xml version='1.0' encoding='UTF-7'?><a>+ADw-b/+AD4-</a>", "encoding"),
    (b"<?xml version='1.0' encoding='csUnicode11UTF7'?><a/>", "encoding"),
    (b"<?xml version='1.0' encoding='ISO-2022-JP'?><a/>", "encoding"),
    (b"<?xml version='1.0' encoding=''?><a/>", "encoding"),
])
def test_documents_that_are_none(data: bytes, why: str) -> None:
    with pytest.raises(NotXml, match=why):
        xml.parse(data)


def attributes(count: int) -> bytes:
    return b" ".join(b"a%d='<>'" % n for n in range(count)).replace(b"<", b"&lt;")


def namespaces(count: int) -> bytes:
    return b"".join(b"<a xmlns:p%d=\"urn:%d\" b='%s'/>" % (n, n, b"=" * 10) for n in range(count))


@pytest.mark.parametrize(("data", "why"), [
    (b"<a>" * 100_001, "too many tags"),
    (b"<a>" * 300 + b"</a>" * 300, "depth"),
    (b"<r>" + b"<a/>" * 400_000 + b"</r>", "too many tags"),
    (b"<r " + attributes(100_001) + b"/>", "too many tags or attributes"),
    (b"<r " + attributes(99_000) + b"/>", "attributes of one element"),
    (b"<r>" + b"<b c='d'/>" * 3000 + b"<q:x  xmlns:q = 'urn:q'\n" + attributes(256) + b"></q:x></r>", "of one element"),
    (b"<r>" + namespaces(2049) + b"</r>", "namespaces"),
    (b"<r>" + b"x" * (11 << 20) + b"</r>", "not well-formed"),
    (b"<r b='" + b"x" * (11 << 20) + b"'/>", "not well-formed"),
    (b"<" + b"r" * 100_000 + b"/>", "not well-formed"),
    (b"<" + b"r" * 140_000 + b"/>", "too many names"),
    (b"<r>" + b"".join(b"<a%d/>" % n for n in range(9000)) + b"</r>", "too many names"),
    (b"<r>" + b"".join(b"<a b%d='c'/>" % n for n in range(9000)) + b"</r>", "too many names"),
    (b"<r>" + b"".join(b"<?a%d b?>" % n for n in range(9000)) + b"</r>", "too many names"),
    (b"<r>" + b"".join(b"<%s%d/>" % (b"x" * 1000, n) for n in range(200)) + b"</r>", "too many names"),
    (b"<r>" + b"".join(b"<a xmlns = 'urn:%s%d'/>" % (b"x" * 1000, n) for n in range(200)) + b"</r>", "too many names"),
])
def test_documents_that_cost_more_than_their_size_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(NotXml, match=why):
        xml.parse(data)


@pytest.mark.slow
@pytest.mark.parametrize("data", [
    b"<r>" + b"<a/>" * 99_000 + b"</r>",
    b"<r>" + b"<a b='c'>0123456789</a>" * 110_000 + b"</r>",
    b"<r>" + b"<a %s/>" % attributes(256) * 380 + b"</r>",
    b"<r>" + b"<a xmlns='urn:a'>a = b, b = c</a>" * 2000 + b"</r>",
    b"<r a='" + b"=" * 90_000 + b"'>" + b"=" * 9_000 + b"</r>",
    b"<r>" + namespaces(2000) + b"</r>",
    b"<r " + attributes(2048) + b"/>",
    b"<a>" * 255 + b"</a>" * 255,
    b"<!---->" * 90_000 + b"<r/>",
    b"<r>" + b"&#x533a;" * 1_000_000 + b"</r>",
])
def test_large_documents_are_read_and_written(data: bytes) -> None:
    root = xml.parse(data)
    assert xml.parse(xml.canonical(root)).tag == root.tag
    assert len(xml.parse(xml.in_default_namespace(root))) == len(root)


def test_what_has_no_canonical_form_is_not_xml_for_us() -> None:
    with pytest.raises(NotXml, match="relative URI"):
        xml.canonical(xml.parse(b"<a xmlns:b='c'><b:d/></a>"))
