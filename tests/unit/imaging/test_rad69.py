from collections.abc import Iterator

import pytest

from broker.archive.tiers.posix import PosixStore
from broker.archive.tiers.posix import Reader as PosixReader
from broker.client.messages import read_documents, retrieve_images
from broker.imaging import rad69_retrieve
from broker.imaging.rad69_retrieve import ROW, Answer, ImagingSource, Wanted
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.errors import Rejected, TooLarge, Unavailable, XdsCode
from broker.model.imaging import InstanceRef
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import RAD, parse
from tests.helpers.fetch import OURS, Centre, octets, read, refs_of


def _raw(body: bytes) -> SoapRequest:
    return SoapRequest(body=parse(body), message=ROW.messages[0])


def _answer(centre: Centre, refs: list[InstanceRef]) -> tuple[Wanted, Answer, AuditFacts]:
    wanted = rad69_retrieve.read(_raw(retrieve_images(refs)), AuditFacts())
    facts = AuditFacts()
    answer = rad69_retrieve.handle(ImagingSource(centre.fetch, centre.profile), wanted, Call(caller=ANONYMOUS, facts=facts))
    rad69_retrieve.disclosed(answer, facts)
    return wanted, answer, facts


def test_what_the_client_writes_is_read_back() -> None:
    refs = refs_of("1.2.1", 2, OURS, series=2)
    wanted = rad69_retrieve.read(_raw(retrieve_images(refs, ["1.2.840.10008.1.2.1"])), AuditFacts())
    assert [(ref.study_uid, ref.series_uid, ref.sop_uid, ref.source_uid) for ref in wanted.homes] == [
        (ref.study_uid, ref.series_uid, ref.sop_uid, ref.source_uid) for ref in refs]
    assert wanted.syntaxes == {"1.2.840.10008.1.2.1"}


@pytest.mark.parametrize("inner", [
    b"", b'<StudyRequest studyInstanceUID="1.2"/>',
    b'<StudyRequest studyInstanceUID="1.2"><SeriesRequest seriesInstanceUID="1.2.3"/></StudyRequest>',
])
def test_a_request_for_nothing_is_refused(inner: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        rad69_retrieve.read(_raw(
            b'<RetrieveImagingDocumentSetRequest xmlns="%s">%s</RetrieveImagingDocumentSetRequest>' % (RAD.encode(), inner)),
            AuditFacts())
    assert caught.value.problems[0].code == XdsCode.REPOSITORY_ERROR


def test_facts_name_what_was_given_and_whose_it_is(centre: Centre) -> None:
    refs = refs_of("1.2.1", 3, OURS)
    centre.land("a", refs[:2])
    _, _, facts = _answer(centre, refs)
    assert facts.studies == {"1.2.1": [ref.sop_uid for ref in refs[:2]]}
    assert [(patient.domain, patient.value) for patient in facts.patients] == [("2.999.2.1", "P-a")]


def test_facts_name_what_was_asked_when_nothing_can_be_given(centre: Centre) -> None:
    refs = refs_of("1.2.1", 2, OURS)
    wanted, answer, facts = _answer(centre, refs)
    with pytest.raises(Rejected):
        rad69_retrieve.write(wanted, answer)
    assert facts.studies == {"1.2.1": [ref.sop_uid for ref in refs]}


def test_what_may_not_be_seen_looks_like_what_is_not_there(centre: Centre) -> None:
    refs = refs_of("1.2.1", 2, OURS)
    centre.land("a", refs)
    wanted, answer, _ = _answer(centre, refs)
    shown = rad69_retrieve.filtered(answer, lambda item: item.unique_id == refs[0].sop_uid)
    reply = rad69_retrieve.write(wanted, shown)
    response, documents = read_documents(parse(b"".join(reply.fragments)))
    assert [document.unique_id for document in documents] == [refs[0].sop_uid]
    assert [(p.code, p.location) for p in response.problems] == [(XdsCode.DOCUMENT_UNIQUE_ID_ERROR, refs[1].sop_uid)]
    _, absent, _ = _answer(centre, [InstanceRef("1.2.1", "1.2.1.1", refs[1].sop_uid + ".9", source_uid=OURS)])
    assert absent.problems[0].context.replace(".9 ", " ") == response.problems[0].context
    assert rad69_retrieve.filtered(answer, lambda item: item.patient is not None and item.patient.value == "P-a") == answer


def test_pictures_are_not_held_in_memory(centre: Centre) -> None:
    refs = refs_of("1.2.1", 1, OURS)
    centre.land("a", refs)
    wanted, answer, _ = _answer(centre, refs)
    reply = rad69_retrieve.write(wanted, answer)
    assert reply.parts[0].source.size == len(octets(refs[0].sop_uid))
    assert max(len(chunk) for chunk in reply.parts[0].source.chunks(100)) == 100
    assert read(reply.parts[0].source) == read(reply.parts[0].source) == octets(refs[0].sop_uid)


def test_a_container_is_read_forward_whatever_the_order_of_the_request(
    centre: Centre, monkeypatch: pytest.MonkeyPatch,
) -> None:
    refs = refs_of("1.2.1", 12, OURS)
    centre.land("a", refs)
    centre.pack("1.2.1")
    streams: list[int] = []
    stream = PosixReader.stream

    def counted(self: PosixReader, offset: int, length: int) -> Iterator[bytes]:
        streams.append(offset)
        return stream(self, offset, length)

    monkeypatch.setattr(PosixStore, "gap", 1 << 20)
    monkeypatch.setattr(PosixReader, "stream", counted)
    asked = [*refs[::2], *refs[::-2]]
    wanted, answer, _ = _answer(centre, asked)
    reply = rad69_retrieve.write(wanted, answer)
    _, documents = read_documents(parse(b"".join(reply.fragments)))
    assert [document.unique_id for document in documents] == [ref.sop_uid for ref in asked]
    sops = {document.attachment: document.unique_id for document in documents}
    assert [read(part.source) for part in reply.parts] == [octets(sops[part.content_id]) for part in reply.parts]
    assert len(streams) == 1


@pytest.mark.parametrize(("error", "code"), [
    (Unavailable("database"), XdsCode.REPOSITORY_BUSY), (TooLarge("server.max_request"), XdsCode.REPOSITORY_OUT_OF_RESOURCES),
    (Rejected(XdsCode.REPOSITORY_ERROR, "no"), XdsCode.REPOSITORY_ERROR),
])
def test_a_failure_of_the_whole_is_a_retrieve_response(error: Unavailable | TooLarge | Rejected, code: str) -> None:
    reply = rad69_retrieve.refuse(_raw(retrieve_images(refs_of("1.2.1", 1, OURS))), error)
    assert isinstance(reply, SoapReply)
    response, documents = read_documents(parse(b"".join(reply.fragments)))
    assert (response.status.rpartition(":")[2], documents) == ("Failure", ())
    assert [problem.code for problem in response.problems] == [code]
