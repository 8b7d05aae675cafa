import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from lxml import etree

from broker.audit.spool import AuditLog
from broker.client.messages import read_documents
from broker.config.profile import Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from broker.edge.soap import schema
from broker.imaging.rad69_retrieve import ROW, ImagingSource
from broker.model.caller import Caller
from broker.model.transaction import ServedTransaction
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import RAD, XDS, parse
from tests.helpers.fetch import EXPLICIT, JPEG, OURS, THEIRS, Centre, Pacs, build, octets, read, refs_of, working

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))["case"]
SOURCES = {"ours": OURS, "theirs": THEIRS}


@pytest.fixture
def centre(database: Database, tmp_path: Path, profile: Profile) -> Iterator[Centre]:
    built = build(database, tmp_path, profile)
    built.land("a", refs_of("1.2.1", 2, OURS))
    built.land("a", refs_of("1.2.1", 2, OURS, series=2)[2:], syntax=JPEG)
    built.land("a", refs_of("1.2.2", 2, OURS))
    built.pack("1.2.2")
    origin = refs_of("1.2.3", 3, THEIRS)
    built.catalogue(origin)
    with working(built, Pacs(built, origin[:2])):
        yield built
    assert isinstance(built.coord, LocalCoord)
    built.coord.close()


def _request(rows: list[list[str]], syntaxes: list[str]) -> SoapRequest:
    body = "".join(
        f"<r:StudyRequest studyInstanceUID={quoteattr(study)}><r:SeriesRequest seriesInstanceUID={quoteattr(series)}>"
        "<DocumentRequest>" + "".join(f"<HomeCommunityId>{home}</HomeCommunityId>" for home in homes)
        + f"<RepositoryUniqueId> {SOURCES.get(source, source)}\n</RepositoryUniqueId><DocumentUniqueId>{escape(sop)}"
        "</DocumentUniqueId></DocumentRequest></r:SeriesRequest></r:StudyRequest>"
        for study, series, source, sop, *homes in rows)
    listed = "".join(f"<r:TransferSyntaxUID>{uid}</r:TransferSyntaxUID>" for uid in syntaxes)
    element = parse((
        f'<r:RetrieveImagingDocumentSetRequest xmlns:r="{RAD}" xmlns="{XDS}">{body}'
        f"<r:TransferSyntaxUIDList>{listed}</r:TransferSyntaxUIDList></r:RetrieveImagingDocumentSetRequest>").encode())
    schema.check(ROW.schema, element)
    return SoapRequest(body=element, message=ROW.messages[0])


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case: dict[str, Any], centre: Centre, tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit", "broker", "demo")
    served = ServedTransaction(ROW, ImagingSource(centre.fetch, centre.profile))
    raw = _request(case["ask"], case.get("syntaxes", [EXPLICIT, JPEG]))
    reply = Gate(Open(), audit).perform(served, raw, Caller(node="consumer", address="10.0.0.9"))
    assert isinstance(reply, SoapReply)

    element = parse(b"".join(reply.fragments))
    schema.check("xds.xsd", element)
    response, documents = read_documents(element)
    give, parts = case.get("give", []), {part.content_id: part for part in reply.parts}
    assert response.status.rpartition(":")[2] == case["status"]
    assert [document.unique_id for document in documents] == give
    assert [(problem.code, problem.location) for problem in response.problems] == [tuple(e) for e in case.get("errors", [])]
    asked = {(SOURCES.get(source, source), sop) for _, _, source, sop, *_ in case["ask"]}
    assert {(document.repository_uid, document.unique_id) for document in documents} <= asked
    assert sorted(parts) == sorted(document.attachment for document in documents)
    for document in documents:
        part = parts[document.attachment]
        assert (part.media_type, read(part.source)) == ("application/dicom", octets(document.unique_id))
    assert [e.text for e in element.iter(f"{{{XDS}}}mimeType")] == ["application/dicom"] * len(give)
    if "homes" in case:
        assert [e.findtext(f"{{{XDS}}}HomeCommunityId", "") for e in element.iter(f"{{{XDS}}}DocumentResponse")] == case["homes"]
    _assert_audited(case, tmp_path / "audit")


def _assert_audited(case: dict[str, Any], folder: Path) -> None:
    records = [etree.fromstring(line) for file in folder.iterdir() for line in file.read_bytes().splitlines()]
    patients = case.get("patients")
    assert len(records) == (len(patients) if patients else 1)
    event = records[0].find("EventIdentification")
    assert event is not None
    assert event.get("EventActionCode") == "R"
    assert event.get("EventOutcomeIndicator") == ("4" if case["status"] == "Failure" else "0")
    assert event.xpath("string(EventID/@csd-code)") == "110104"
    assert records[0].xpath("string(ActiveParticipant[RoleIDCode/@csd-code='110152']/@UserID)") == "consumer"
    expected = {study for study, _, _, sop, *_ in case["ask"] if sop in case["give"]} if "give" in case else {
        study for study, *_ in case["ask"]}
    found = records[0].xpath(
        "ParticipantObjectIdentification[ParticipantObjectIDTypeCode/@csd-code='110180']/@ParticipantObjectID")
    assert set(found) == expected
    if patients:
        assert [
            str(record.xpath("string(ParticipantObjectIdentification[@ParticipantObjectTypeCode='1']/@ParticipantObjectID)"))
            .partition("^")[0] for record in records] == patients


def test_every_kind_of_case_is_there() -> None:
    assert {case["id"].partition(":")[0] for case in CASES} == {"accept", "partial", "reject"}
