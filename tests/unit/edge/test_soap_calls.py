"""Calls that reach their transaction: dispatch, headers, schema, audit, slots, the end of an answer."""

import base64
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.files.sources import FileSlice
from tests.helpers.soap import NS, Bench, ask, bench, envelope, keep, mtom
from tests.helpers.waiting import PATIENCE

WSA = "http://www.w3.org/2005/08/addressing"
GIVE = mtom(f'<Give xmlns="{NS}">10</Give>'.encode(), "urn:test:Give")
TRICKY = b"\r\n--mime.\r\n\0\r\n--\r\n" + bytes(range(256)) * 300 + b"\r\n"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Bench]:
    ready = bench(tmp_path, retrieve_slots=2)
    yield ready
    assert ready.spooled == []


def test_an_answer_carries_addressing_headers(edge: Bench) -> None:
    reply = edge.ask("hello", message_id="odd id")
    assert (reply.status, reply.kind, reply.text("s:Body/t:Answer")) == (200, "application/soap+xml", "hello")
    assert reply.headers["Content-Length"] == str(len(reply.body))
    assert reply.text("s:Header/a:Action") == "urn:test:AskAnswer"
    assert reply.text("s:Header/a:RelatesTo") == "odd id"
    assert (reply.text("s:Header/a:MessageID") or "").startswith("urn:uuid:")


@pytest.mark.parametrize(("name", "action", "answer", "reply_action"), [
    ("Ask", "urn:test:Ask", "hello", "urn:test:AskAnswer"),
    ("Ask", " urn:test:Ask\n", "hello", "urn:test:AskAnswer"),
    ("Ask", "urn:test:Again", "again", "urn:test:AgainAnswer"),
    ("Ask2", "urn:test:Ask2", "hello", "urn:test:Ask2Answer"),
])
def test_dispatch_by_body_child_and_action(edge: Bench, name: str, action: str, answer: str, reply_action: str) -> None:
    reply = edge.post("/ask", envelope(ask("hello", name), action), 'application/soap+xml; action="ignored"')
    assert (reply.text("s:Body/t:Answer"), reply.text("s:Header/a:Action")) == (answer, reply_action)


def test_a_request_without_addressing_is_served(edge: Bench) -> None:
    bare = b'<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope"><e:Body>' + ask("hello") + b"</e:Body></e:Envelope>"
    reply = edge.post("/ask", bare)
    assert reply.text("s:Body/t:Answer") == "hello"
    assert reply.element("s:Header/a:RelatesTo") is None


@pytest.mark.parametrize(("charset", "declared", "encoding"), [
    ("utf-8", "UTF-8", "utf-8"), ("UTF-8", "GB18030", "gb18030"), ("gb18030", "GB18030", "gb18030"), ("gbk", "", "gbk"),
    ("utf-16", "", "utf-16"),
])
def test_chinese_text_in_any_declared_charset(edge: Bench, charset: str, declared: str, encoding: str) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    text = envelope(ask("林美"), "urn:test:Ask").decode().partition("?>")[2]
    reply = edge.post("/ask", (head + text).encode(encoding), f'application/soap+xml; charset="{charset}"')
    assert reply.text("s:Body/t:Answer") == "林美"


def test_success_and_refusal_are_audited_with_the_caller(edge: Bench) -> None:
    told = {"hello": None, "reject": "Wrong", "down": "registry is not available", "large": "limit exceeded: a limit"}
    for text, answer in told.items():
        reply = edge.ask(text)
        assert reply.status == 200
        refused = reply.element("s:Body/t:Refused")
        assert (refused.get("code") if refused is not None else None) == answer
    lines = edge.audited()
    assert [line.partition('EventOutcomeIndicator="')[2][0] for line in lines] == ["0", "4", "8", "4"]
    assert all(f'UserID="{WSA}/anonymous"' in line and 'NetworkAccessPointID="10.1.2.3"' in line for line in lines)
    assert all('UserID="http://127.0.0.1:8080/ask"' in line for line in lines)
    assert base64.b64encode(b"hello").decode() in lines[0]


RAD69 = (
    '<r:RetrieveImagingDocumentSetRequest xmlns:r="urn:ihe:rad:xdsi-b:2009" xmlns="urn:ihe:iti:xds-b:2007">\n'
    '<r:StudyRequest studyInstanceUID="1.2"><r:SeriesRequest seriesInstanceUID="1.3">\n'
    "<DocumentRequest><RepositoryUniqueId>9</RepositoryUniqueId><DocumentUniqueId>1.4</DocumentUniqueId></DocumentRequest>"
    "</r:SeriesRequest></r:StudyRequest><r:TransferSyntaxUIDList><r:TransferSyntaxUID>1.2.840.10008.1.2.1</r:TransferSyntaxUID>"
    "</r:TransferSyntaxUIDList></r:RetrieveImagingDocumentSetRequest>")


@pytest.mark.parametrize(("request_", "text"), [
    (RAD69, "checked"),
    (RAD69.replace(' studyInstanceUID="1.2"', ""), "StudyRequest"),
    (RAD69.replace("<DocumentUniqueId>1.4</DocumentUniqueId>", "<Name>Zhang San</Name>"), "Name"),
    (RAD69.replace("1.4", "Zhang San" + "x" * 300), "DocumentUniqueId"),
])
def test_a_request_is_checked_by_its_schema(edge: Bench, request_: str, text: str) -> None:
    reply = edge.post("/xds/imaging", envelope(request_.encode(), "urn:test:Checked"))
    assert reply.status == 200
    refused = reply.element("s:Body/t:Refused")
    if refused is None:
        assert reply.text("s:Body/t:Answer") == text
        assert 'EventOutcomeIndicator="0"' in edge.audited()[0]
    else:
        assert refused.get("code") == "SchemaInvalid"
        assert text in (refused.text or "")
        assert "line " in (refused.text or "")
        assert "Zhang" not in (refused.text or "") + edge.audited()[0]
        assert "SchemaInvalid" in edge.audited()[0]


@pytest.mark.parametrize("document", [
    '<xop:Include xmlns:xop="http://www.w3.org/2004/08/xop/include" href="cid:a%40b"/>', "aGVsbG8=", "",
])
def test_an_xop_document_is_valid_where_base64_is(edge: Bench, document: str) -> None:
    body = (
        '<ProvideAndRegisterDocumentSetRequest xmlns="urn:ihe:iti:xds-b:2007">'
        '<l:SubmitObjectsRequest xmlns:l="urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0">'
        '<RegistryObjectList xmlns="urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"/></l:SubmitObjectsRequest>'
        f'<Document id="d1">{document}</Document></ProvideAndRegisterDocumentSetRequest>')
    message = mtom(body.encode(), "urn:test:P", ("a@b", b"bytes"))
    reply = edge.post("/xds/repository", b"".join(message), message.content_type)
    assert reply.text("s:Body/t:Answer") == "checked"


@pytest.mark.parametrize("root_last", [False, True])
def test_documents_come_and_go_byte_for_byte(edge: Bench, root_last: bool) -> None:
    documents = {"a@b": TRICKY, "c d": b"", "文@x": b"\r\n"}
    message = mtom(keep("cid:a%40b", "cid:c%20d", "cid:%E6%96%87@x"), "urn:test:Keep", *documents.items())
    pieces = list(message)
    if root_last:
        boundary = pieces[-1].strip(b"\r\n-")
        pieces = [pieces[1][2:], *pieces[2:-1], b"\r\n" + pieces[0], b"\r\n--" + boundary + b"--"]
    reply = edge.post("/keep", b"".join(pieces), message.content_type)
    assert reply.status == 200
    assert reply.headers["Content-Length"] == str(len(reply.body))
    assert (reply.text("s:Body/t:Kept") or "").split() == [hashlib.sha1(data).hexdigest() for data in documents.values()]
    parts = reply.parts()
    assert [parts[f"d{n}@broker"] for n in range(3)] == list(documents.values())


def test_inline_base64_inside_mtom(edge: Bench) -> None:
    text = base64.b64encode(TRICKY).decode()
    body = f'<Keep xmlns="{NS}"><Document>\n{text[:40]}\n {text[40:]}</Document></Keep>'
    message = mtom(body.encode(), "urn:test:Keep")
    reply = edge.post("/keep", b"".join(message), message.content_type)
    assert reply.parts()["d0@broker"] == TRICKY
    [[spooled]] = edge.actor.seen
    Path(spooled.path).unlink()  # inline documents belong to the handler


@pytest.mark.parametrize(("document", "code"), [
    (keep("cid:nothing"), "XDSMissingDocument"),
    (keep("http://127.0.0.1/x"), "XDSRepositoryError"),
    (keep("file:///etc/passwd"), "XDSRepositoryError"),
    (f'<Keep xmlns="{NS}"><Document>not base64!</Document></Keep>'.encode(), "XDSRepositoryError"),
    (f'<Keep xmlns="{NS}"><Document><x/></Document></Keep>'.encode(), "XDSRepositoryError"),
])
def test_a_document_that_is_not_there_is_refused_as_mtom(edge: Bench, document: bytes, code: str) -> None:
    message = mtom(document, "urn:test:Keep", ("other", b"x"))
    reply = edge.post("/keep", b"".join(message), message.content_type)
    refused = reply.element("s:Body/t:Refused")
    assert refused is not None
    assert (reply.status, reply.kind, refused.get("code")) == (200, "multipart/related", code)


def test_a_document_that_was_renamed_stays(edge: Bench, tmp_path: Path) -> None:
    edge.actor.keep_at = tmp_path
    message = mtom(keep("cid:a"), "urn:test:Keep", ("a", TRICKY))
    reply = edge.post("/keep", b"".join(message), message.content_type)
    assert reply.parts()["d0@broker"] == TRICKY
    assert (tmp_path / hashlib.sha1(TRICKY).hexdigest()).read_bytes() == TRICKY


def test_files_of_killed_processes_are_swept_at_start(tmp_path: Path) -> None:
    folder = tmp_path / "documents" / ".spool"
    folder.mkdir(parents=True)
    for name, age in (("in.old", 7200), ("in.new", 60)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    assert bench(tmp_path).spooled == ["in.new"]


def test_a_full_disk_is_answered_by_the_transaction(edge: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("broker.files.spool.tempfile.mkstemp", full)
    message = mtom(keep("cid:a", "cid:b"), "urn:test:Keep", ("a", TRICKY), ("b", TRICKY))
    reply = edge.post("/keep", b"".join(message), message.content_type)
    assert (reply.status, reply.fault) == (200, "")
    refused = reply.element("s:Body/t:Refused")
    assert refused is not None
    assert refused.get("code") == "the spool folder is full"
    assert ['EventOutcomeIndicator="8"' in line for line in edge.audited()] == [True]
    assert edge.spooled == []


def test_a_spool_folder_that_is_away_is_unavailable(edge: Bench) -> None:
    folder = edge.settings.documents_folder / ".spool"
    folder.rmdir()
    message = mtom(keep("cid:a"), "urn:test:Keep", ("a", TRICKY))
    reply = edge.post("/keep", b"".join(message), message.content_type)
    assert (reply.status, reply.fault, reply.headers["Retry-After"]) == (503, "Receiver", "5")


def test_no_slot_is_http_503_and_audited(edge: Bench) -> None:
    inner: list[int] = []

    def enter() -> None:
        if len(inner) < 3:
            inner.append(0)
            reply = edge.post("/give", b"".join(GIVE), GIVE.content_type)
            inner[inner.index(0)] = reply.status
            if reply.status == 503:
                assert (reply.fault, reply.headers["Retry-After"]) == ("Receiver", "5")
                assert "Connection" not in reply.headers
    edge.actor.enter = enter
    assert edge.post("/give", b"".join(GIVE), GIVE.content_type).status == 200
    assert sorted(inner) == [200, 503]
    assert [("a retrieve slot is not available" in line) for line in edge.audited()] == [True, False, False]
    assert edge.post("/give", b"".join(GIVE), GIVE.content_type).status == 200


def test_a_slot_is_free_again_after_a_dropped_answer(edge: Bench) -> None:
    for _ in range(5):
        assert edge.post("/give", b"".join(GIVE), GIVE.content_type, take=1).status == 200


def test_an_answer_not_taken_whole_is_audited(edge: Bench) -> None:
    edge.post("/give", b"".join(GIVE), GIVE.content_type, take=2)
    assert ["not taken whole" in line for line in edge.audited()] == [False, True]


def test_a_row_may_answer_with_another_action(edge: Bench) -> None:
    reply = edge.post("/give", b"".join(GIVE), GIVE.content_type)
    assert reply.text("s:Header/a:Action") == "urn:test:Special"
    assert reply.parts()["picture@broker"] == b"\0" * 10


def test_a_source_that_shrank_breaks_the_answer(edge: Bench, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * 100)
    edge.actor.give = FileSlice(str(tmp_path / "image"), 200)
    with pytest.raises(OSError, match="shorter"):
        edge.post("/give", b"".join(GIVE), GIVE.content_type)
    assert "not taken whole" in edge.audited()[-1]


@dataclass(frozen=True)
class Odd:
    size: int = 1


def test_a_bug_in_writing_gives_the_slot_back(edge: Bench) -> None:
    edge.actor.give = Odd()
    for _ in range(3):
        with pytest.raises(AttributeError):
            edge.post("/give", b"".join(GIVE), GIVE.content_type)
    edge.actor.give = None
    assert edge.post("/give", b"".join(GIVE), GIVE.content_type).status == 200


@pytest.mark.slow
def test_large_envelopes_are_worked_on_two_at_a_time_and_small_ones_do_not_wait(tmp_path: Path) -> None:
    ready = bench(tmp_path, max_request=16 << 20)
    inside, most, gate, small_done = 0, 0, threading.Lock(), threading.Event()

    def enter() -> None:
        nonlocal inside, most
        with gate:
            inside += 1
            most = max(most, inside)
        assert small_done.wait(PATIENCE)
        with gate:
            inside -= 1
    ready.actor.enter = enter
    padding = b"<!--" + b"x" * (5 << 20) + b"-->"
    large = mtom(b'<Give xmlns="urn:test">10' + padding + b"</Give>", "urn:test:Give")
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(ready.post, "/give", b"".join(large), large.content_type) for _ in range(5)]
        assert ready.ask("hello").status == 200
        small_done.set()
        assert [one.result().status for one in running] == [200] * 5
    assert most <= 2
