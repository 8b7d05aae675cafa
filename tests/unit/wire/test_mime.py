import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from broker.files.sources import FileSlice, Octets
from broker.files.spool import spool
from broker.model.errors import Rejected, TooLarge, Unavailable
from broker.wire.mime import BadMultipart, MtomBody, Multipart, content_id, content_type_parameters, limited
from broker.wire.soap import Part

Parts = list[tuple[dict[str, str], bytes]]


def read(data: bytes, boundary: str = "B", size: int = 1 << 18, max_parts: int = 100) -> Parts:
    chunks = (data[at:at + size] for at in range(0, len(data), size))
    return [(headers, b"".join(body)) for headers, body in Multipart(chunks, boundary, max_parts)]


@pytest.mark.parametrize(("value", "kind", "parameters"), [
    ("", "", {}),
    ("Text/XML", "text/xml", {}),
    ('multipart/related; BOUNDARY="a;b=c"; type=application/xop+xml', "multipart/related",
     {"boundary": "a;b=c", "type": "application/xop+xml"}),
    ('a/b;start="<x\\"y>"', "a/b", {"start": '<x"y>'}),
    ('application/soap+xml; charset=utf-8; action="urn:x"', "application/soap+xml", {"charset": "utf-8", "action": "urn:x"}),
    ("text/xml; charset=區", "", {}),
    ("text/xml; charset=\ud800", "", {}),
    ("text/xml; charset=\xe5", "text/xml", {"charset": "\xe5"}),
    ("a/b;;;=;c;=d", "a/b", {"": "d", "c": ""}),
])
def test_content_type_parameters(value: str, kind: str, parameters: dict[str, str]) -> None:
    assert content_type_parameters(value) == (kind, parameters)


@pytest.mark.parametrize(("text", "name"), [("<a@b>", "a@b"), (" <a b> ", "a b"), ("a", "a"), ("", ""), ("<<a>>", "<a>")])
def test_content_id(text: str, name: str) -> None:
    assert content_id(text) == name


ONE = b"--B\r\nA: 1\r\n\r\nx\r\n--B--"

WHOLE: dict[str, tuple[bytes, Parts]] = {
    "one part": (ONE, [({"a": "1"}, b"x")]),
    "line end behind": (ONE + b"\r\n", [({"a": "1"}, b"x")]),
    "epilogue": (ONE + b"\r\nanything --B\r\n\r\n", [({"a": "1"}, b"x")]),
    "line end before": (b"\r\n" + ONE, [({"a": "1"}, b"x")]),
    "preamble": (b"This is a message\r\nin parts - you know\r\n" + ONE, [({"a": "1"}, b"x")]),
    "empty parts": (b"--B\r\n\r\n\r\n--B\r\nA: 1\r\n\r\n\r\n--B--", [({}, b""), ({"a": "1"}, b"")]),
    "padding behind a boundary": (b"--B\r\n\r\nx\r\n--B \t\r\n\r\ny\r\n--B--", [({}, b"x"), ({}, b"y")]),
    "padding behind the first boundary": (b"--B \t\r\n\r\nx\r\n--B--", [({}, b"x")]),
    "padding behind the first boundary after a preamble": (b"hello\r\n--B  \r\n\r\nx\r\n--B--", [({}, b"x")]),
    "padding behind the last boundary": (b"--B\r\n\r\nx\r\n--B-- \t\r\n", [({}, b"x")]),
    "looks like a boundary": (
        b"--B\r\n\r\n--B\r\n--\r\n-B\r\n\r\n--C\n--B--\r\r\n--B--", [({}, b"--B\r\n--\r\n-B\r\n\r\n--C\n--B--\r")]),
    "bytes": (b"--B\r\nA:1\r\n\r\n" + bytes(range(256)) + b"\r\n--B--", [({"a": "1"}, bytes(range(256)))]),
    "no parts": (b"--B--", []),
    "chinese header": ("--B\r\nA: 林\r\n\r\n\r\n--B--".encode(), [({"a": "林"}, b"")]),
    "header twice": (b"--B\r\nA: 1\r\nA: 2\r\n\r\n\r\n--B--", [({"a": "2"}, b"")]),
}


@pytest.mark.parametrize("size", [1, 3, 1 << 18])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_messages(name: str, size: int) -> None:
    data, parts = WHOLE[name]
    assert read(data, size=size) == parts


BROKEN = {
    "nothing": b"",
    "no boundary": b"hello",
    "other boundary": ONE.replace(b"--B", b"--C"),
    "ends in a part": ONE[:-7],
    "ends in the boundary": ONE[:-1],
    "ends after a boundary": b"--B\r\nA: 1\r\n\r\nx\r\n--B\r\n",
    "ends in headers": b"--B\r\nA: 1\r\n",
    "ends in the padding": b"--B\r\n\r\nx\r\n--B  ",
    "ends in the first padding": b"--B  ",
    "endless padding": b"--B" + b" " * 100_000,
    "text behind a boundary": b"--B\r\n\r\nx\r\n--B  text\r\n\r\ny\r\n--B--",
    "text behind the first boundary": b"--B  text\r\n\r\nx\r\n--B--",
    "no colon": b"--B\r\nhello\r\n\r\nx\r\n--B--",
    "folded header": b"--B\r\nA: 1;\r\n b=2\r\n\r\nx\r\n--B--",
    "long header": b"--B\r\nA: " + b"1" * 10_000 + b"\r\n\r\nx\r\n--B--",
    "many headers": b"--B\r\n" + b"A: 1\r\n" * 100 + b"\r\nx\r\n--B--",
    "endless header": b"--B\r\n" + b"A" * 100_000,
    "endless preamble": b"x" * 100_000,
    "preamble over its limit": b"x" * 65_537 + b"\r\n" + ONE,
}


@pytest.mark.parametrize("size", [1, 1 << 18])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_messages(name: str, size: int) -> None:
    with pytest.raises(BadMultipart):
        read(BROKEN[name], size=size)


@pytest.mark.parametrize("boundary", ["", "x" * 201, "漢"])
def test_broken_boundary(boundary: str) -> None:
    with pytest.raises(Rejected):
        read(ONE, boundary)


def test_too_many_parts_are_refused_as_they_come() -> None:
    fed: list[int] = []

    def endless() -> Iterable[bytes]:
        for n in range(200_000):
            fed.append(n)
            yield b"--B\r\n\r\n\r\n"
    with pytest.raises(TooLarge, match=r"server\.max_parts = 10000"):
        for _ in Multipart(endless(), "B", 10_000):
            pass
    assert len(fed) < 10_010


def test_what_is_left_of_a_part_is_skipped() -> None:
    data = b"--B\r\nA: 1\r\n\r\n" + b"x" * 1000 + b"\r\n--B\r\nA: 2\r\n\r\ny\r\n--B--"
    found = []
    for headers, body in Multipart((data[at:at + 10] for at in range(0, len(data), 10)), "B"):
        next(body)
        found.append(headers["a"])
    assert found == ["1", "2"]


def test_limited_names_the_setting() -> None:
    assert b"".join(limited([b"123", b"45"], 5, "x")) == b"12345"
    with pytest.raises(TooLarge, match=r"server\.max_body = 4 bytes"):
        list(limited([b"123", b"45"], 4, "server.max_body"))


def test_an_mtom_body_knows_its_length_and_can_be_sent_twice(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    parts = [
        Part(content_id="a@b", media_type="application/dicom", source=FileSlice(str(tmp_path / "f"), 4, 3)),
        Part(content_id="c", media_type="text/x\r\nContent-Length: 1", source=Octets(b"")),
    ]
    body = MtomBody("<林/>".encode(), parts)
    once, twice = b"".join(body), b"".join(body)
    assert once == twice
    assert len(once) == body.length
    kind, parameters = content_type_parameters(body.content_type)
    assert kind == "multipart/related"
    assert parameters["type"] == "application/xop+xml"
    got = read(once, parameters["boundary"])
    assert [data for _, data in got] == ["<林/>".encode(), b"3456", b""]
    assert got[0][0]["content-id"] == parameters["start"]
    assert got[0][0]["content-type"] == 'application/xop+xml; charset=UTF-8; type="application/soap+xml"'
    assert all(headers["content-transfer-encoding"] == "binary" for headers, _ in got)
    assert set(got[2][0]) == {"content-type", "content-transfer-encoding", "content-id"}


def test_a_spooled_file_has_its_hash_and_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    spooled = spool("a/b", [b"12", b"", b"3"], tmp_path)
    assert (spooled.size, spooled.sha1) == (3, hashlib.sha1(b"123").hexdigest())
    assert Path(spooled.path).read_bytes() == b"123"
    Path(spooled.path).unlink()

    def broken() -> Iterable[bytes]:
        yield b"1"
        raise BadMultipart("cut")
    with pytest.raises(BadMultipart):
        spool("a/b", broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Unavailable):
        spool("a/b", [b"1"], tmp_path / "missing")
