import hashlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from broker.client.soap import Endpoint, Limits
from broker.files.sources import FileSlice, Octets
from broker.model.errors import Rejected, TooLarge, Unavailable
from broker.wire.mime import Multipart, content_type_parameters
from broker.wire.soap import Part
from broker.wire.xml import QUERY, XDS
from tests.helpers.client import Got, Reply, busy, envelope, fault, mtom, peer, plain

pytestmark = pytest.mark.outside

REGISTRY, REPOSITORY = "/xds/registry", "/xds/repository"
LIMITS = Limits(connect=2, silence=5, attempts=3)
QUERY_BODY = f'<AdhocQueryRequest xmlns="{QUERY}"/>'.encode()
RETRIEVE = f'<RetrieveDocumentSetRequest xmlns="{XDS}"/>'.encode()
PROVIDE = f'<ProvideAndRegisterDocumentSetRequest xmlns="{XDS}"/>'.encode()
# What multipart readers like to eat: line ends at the edges, boundary look-alikes, NUL.
HARD = b"\r\n\r\n--mime.\r\n" + bytes(range(256)) * 3 + b"\r\n--\r\n\n\r"


def test_a_plain_call_takes_address_and_action_from_the_wsdl() -> None:
    with peer(plain("<answer/>")) as other, Endpoint(other.url + REGISTRY, LIMITS) as endpoint:
        assert endpoint.call(QUERY_BODY).tag == "answer"
    (got,) = other.got
    assert got.path == "/xds/registry"
    assert got.headers["content-type"].startswith("application/soap+xml")
    assert b">urn:ihe:iti:2007:RegistryStoredQuery</wsa:Action>" in got.body
    assert got.message_id.startswith("urn:uuid:")
    assert QUERY_BODY in got.body


def test_a_fault_is_the_callers_error_with_its_innermost_code() -> None:
    script = fault("Sender", "no such thing", "ActionNotSupported")
    with peer(script) as other, Endpoint(other.url + REGISTRY, LIMITS) as endpoint, pytest.raises(Rejected) as raised:
        endpoint.call(QUERY_BODY)
    assert [(p.code, p.context) for p in raised.value.problems] == [("ActionNotSupported", "no such thing")]
    assert len(other.got) == 1


def test_a_busy_broker_is_asked_again() -> None:
    with peer(busy(), plain("<answer/>")) as other, Endpoint(other.url + REGISTRY, LIMITS) as endpoint:
        assert endpoint.call(QUERY_BODY).tag == "answer"
    assert len(other.got) == 2


def test_a_broker_that_stays_busy_is_unavailable_and_says_when_to_come_back(tmp_path: Path) -> None:
    script = (busy(), busy(), busy("7"))
    with peer(*script) as other, Endpoint(other.url + REPOSITORY, LIMITS) as endpoint, pytest.raises(Unavailable) as raised:
        endpoint.exchange(RETRIEVE, (), tmp_path)
    assert raised.value.retry_after == 7
    assert len(other.got) == 3


@pytest.mark.parametrize("reply", [
    Reply(200, {"Content-Type": "text/html"}, b"<html><p>hello"),
    Reply(404, {"Content-Type": "text/plain"}, b"nothing here"),
    Reply(200, {"Content-Type": "application/soap+xml"}, envelope("<answer/>", "urn:uuid:of-somebody-else")),
    Reply(200, {"Content-Type": "application/soap+xml"}, envelope("", "")),
])
def test_what_is_no_answer_to_this_request_is_refused(reply: Reply) -> None:
    with peer(lambda _got: reply) as other, Endpoint(other.url + REGISTRY, LIMITS) as endpoint, pytest.raises(Rejected):
        endpoint.call(QUERY_BODY)


def test_a_peer_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with Endpoint(url, Limits(connect=1, attempts=1)) as endpoint, pytest.raises(Unavailable):
        endpoint.call(QUERY_BODY)


def test_an_operation_the_endpoint_lacks_is_refused_before_it_is_sent() -> None:
    with peer() as other, Endpoint(other.url + REGISTRY, LIMITS) as endpoint, pytest.raises(Rejected, match="NoOperation"):
        endpoint.call(b'<Unknown xmlns="urn:x"/>')
    assert other.got == []


def test_attachments_become_files_byte_for_byte(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    parts = [("one@b", HARD), ("two@b", b""), ("three@b", HARD * 400)]
    with peer(mtom("<answer/>", parts)) as other, Endpoint(other.url + REPOSITORY, LIMITS) as endpoint:
        answer = endpoint.exchange(RETRIEVE, (), tmp_path, lambda count, size: told.append((count, size)))
    assert answer.body.tag == "answer"
    for name, data in parts:
        landed = answer.parts[name]
        assert landed.path.read_bytes() == data
        assert (landed.size, landed.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert told[-1] == (3, sum(len(data) for _, data in parts))
    assert other.got[0].headers["content-type"].startswith("multipart/related")


def test_parts_of_a_request_are_streamed_with_their_length(tmp_path: Path) -> None:
    (tmp_path / "document").write_bytes(HARD * 1000)
    big = FileSlice(str(tmp_path / "document"), len(HARD) * 1000)
    sent = [Part(content_id="d@c", media_type="application/dicom", source=big),
            Part(content_id="e@c", media_type="text/plain", source=Octets(b"x"))]
    with peer(mtom("<answer/>")) as other, Endpoint(other.url + REPOSITORY, LIMITS) as endpoint:
        endpoint.exchange(PROVIDE, sent, tmp_path)
    got = other.got[0]
    _, parameters = content_type_parameters(got.headers["content-type"])
    read = [(headers.get("content-id"), b"".join(content)) for headers, content in Multipart([got.body], parameters["boundary"])]
    assert read[1:] == [("<d@c>", HARD * 1000), ("<e@c>", b"x")]
    assert parameters["start"] == read[0][0]


def test_a_cut_answer_is_asked_for_again_and_leaves_no_pieces(tmp_path: Path) -> None:
    script = (mtom("<answer/>", [("one@b", HARD * 1000)], cut=50_000), mtom("<answer/>", [("one@b", HARD)]))
    with peer(*script) as other, Endpoint(other.url + REPOSITORY, LIMITS) as endpoint:
        answer = endpoint.exchange(RETRIEVE, (), tmp_path)
    assert len(other.got) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [HARD]
    assert answer.parts["one@b"].size == len(HARD)


def test_an_answer_that_lacks_its_end_is_not_taken_for_whole(tmp_path: Path) -> None:
    def script(got: Got) -> Reply:
        whole = mtom("<answer/>", [("one@b", HARD)])(got)
        return Reply(whole.status, whole.headers, whole.body[:-4])     # a good length, no closing boundary
    with peer(script) as other, Endpoint(other.url + REPOSITORY, Limits(attempts=1)) as endpoint, pytest.raises(Unavailable):
        endpoint.exchange(RETRIEVE, (), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_submission_is_not_sent_twice_after_a_cut_answer(tmp_path: Path) -> None:
    script = (mtom("<answer/>", [("x@b", HARD * 99)], cut=2000), mtom("<answer/>"))
    with peer(*script) as other, Endpoint(other.url + REPOSITORY, LIMITS) as endpoint, pytest.raises(Unavailable):
        endpoint.exchange(PROVIDE, (), tmp_path, repeatable=False)
    assert len(other.got) == 1


@pytest.mark.parametrize("limits", [Limits(root_bytes=100), Limits(part_bytes=100), Limits(parts=1)])
def test_an_answer_over_a_limit_is_dropped(limits: Limits, tmp_path: Path) -> None:
    script = mtom("<answer/>", [("one@b", HARD), ("two@b", HARD)])
    with peer(script) as other, Endpoint(other.url + REPOSITORY, limits) as endpoint, pytest.raises(TooLarge):
        endpoint.exchange(RETRIEVE, (), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with peer(plain("<answer/>"), mtom("<answer/>")) as other:
        with Endpoint(other.url + REGISTRY, LIMITS) as endpoint:
            assert endpoint.call(QUERY_BODY).tag == "answer"
        with Endpoint(other.url + REPOSITORY, LIMITS) as endpoint:
            assert endpoint.exchange(RETRIEVE, (), tmp_path).body.tag == "answer"


def test_an_endpoint_without_a_wsdl_is_refused_and_a_busy_one_is_unavailable() -> None:
    for path, kind in (("/nothing", Rejected), ("/no-wsdl", Rejected), ("/busy", Unavailable)):
        with peer() as other, Endpoint(other.url + path, Limits(attempts=1)) as endpoint, pytest.raises(kind):
            endpoint.call(QUERY_BODY)


def test_a_cut_plain_answer_is_asked_for_again() -> None:
    whole = plain("<answer/>")
    with peer(lambda got: replace(whole(got), cut=20), whole) as other, Endpoint(other.url + REGISTRY, LIMITS) as endpoint:
        assert endpoint.call(QUERY_BODY).tag == "answer"
    assert len(other.got) == 2
