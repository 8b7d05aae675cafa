import base64
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.client.consult import DAMAGED, NOT_ANSWERED, UNASKED, Consultation, ManifestFile
from broker.client.soap import Limits
from broker.config.profile import Profile
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import PatientId, new_oid
from broker.model.imaging import InstanceRef, SeriesFacts, StudyFacts
from broker.model.message_id import MessageId
from broker.model.metadata import APPROVED, HAS_MEMBER, Association, DocumentEntry, RegistryObjects, SubmissionSet
from broker.model.syntaxes import RECEIVED_SYNTAXES
from broker.wire import ebxml, hl7v3, kos, xml
from broker.wire.xml import RAD, XDS
from tests.helpers.client import Got, Reply, Script, envelope, mtom, peer, plain, retrieved

pytestmark = pytest.mark.outside

LIMITS = Limits(connect=2, silence=5, attempts=2)
XAD = PatientId("2.999.1.1", "R-1")
PICTURES = [b"\r\n--picture\r\n\0" + bytes([n]) * 3000 for n in range(4)]


CT = "1.2.840.10008.5.1.4.1.1.2"


def refs(count: int = 4) -> list[InstanceRef]:
    return [InstanceRef(f"1.2.{n % 2}", f"1.2.{n % 2}.7", f"1.2.3.{n}", CT, "2.999.1.3") for n in range(count)]


def all_four() -> Script:
    return mtom(retrieved([(f"1.2.3.{n}", f"{n}@b") for n in range(4)]), [(f"{n}@b", PICTURES[n]) for n in range(4)])


def entry(data: bytes = b"", unique_id: str = "1.2.9") -> DocumentEntry:
    return DocumentEntry(
        id="urn:uuid:1", unique_id=unique_id, patient_id=str(XAD), mime_type="application/dicom", size=len(data) or None,
        hash=hashlib.sha1(data).hexdigest() if data else "", repository_unique_id="2.999.1.2")


def manifest(study: str) -> bytes:
    facts = StudyFacts(uid=study, patient=PatientId("2.999.2.1", "A-1"), series=(
        SeriesFacts(uid=f"{study}.7", modality="CT", instances=((CT, f"{study}.7.1"),)),))
    return kos.write_manifest(
        facts, retrieve_ae="BROKER", location_uid="2.999.1.3", sop_uid=new_oid(), series_uid=new_oid(),
        now=datetime(2026, 3, 1, tzinfo=UTC), issuer=("HOSPA", "2.999.2.1"))


def test_one_request_names_every_picture_once_under_its_study_and_series(profile: Profile, tmp_path: Path) -> None:
    wanted = [*refs(), refs()[0]]
    with peer(all_four()) as other, Consultation(other.url, profile, LIMITS) as client:
        got = client.images(wanted, tmp_path)
    assert got.missing == ()
    for picture in got.pictures:
        number = int(picture.sop_uid[-1])
        assert picture.path == tmp_path / picture.study_uid / picture.series_uid / f"{picture.sop_uid}.dcm"
        assert picture.path.read_bytes() == PICTURES[number]
        assert (picture.size, picture.sha256) == (len(PICTURES[number]), hashlib.sha256(PICTURES[number]).hexdigest())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.2.0", "1.2.1"]
    (request,) = other.got
    body = xml.parse(request.body[request.body.index(b"<?xml"):request.body.rindex(b"Envelope>") + 9])
    studies = {
        study.get("studyInstanceUID"): [document.text for document in study.iter(f"{{{XDS}}}DocumentUniqueId")]
        for study in body.iter(f"{{{RAD}}}StudyRequest")}
    assert studies == {"1.2.0": ["1.2.3.0", "1.2.3.2"], "1.2.1": ["1.2.3.1", "1.2.3.3"]}
    assert {d.text for d in body.iter(f"{{{XDS}}}RepositoryUniqueId")} == {"2.999.1.3"}


def test_what_does_not_come_is_named_object_by_object(profile: Profile, tmp_path: Path) -> None:
    answer = mtom(retrieved([("1.2.3.0", "0@b")], [("XDSDocumentUniqueIdError", "1.2.3.1")]), [("0@b", PICTURES[0])])
    with peer(answer) as other, Consultation(other.url, profile, LIMITS) as client:
        got = client.images(refs(3), tmp_path)
    assert [picture.sop_uid for picture in got.pictures] == ["1.2.3.0"]
    assert {(p.code, p.location) for p in got.missing} == {("XDSDocumentUniqueIdError", "1.2.3.1"), (NOT_ANSWERED, "1.2.3.2")}


def test_one_sop_uid_in_two_studies_is_written_twice(profile: Profile, tmp_path: Path) -> None:
    """An answer tells objects apart by their SOP Instance UID alone, so the second one is asked for by itself."""
    first, other = refs(2)
    twin = replace(other, sop_uid=first.sop_uid)
    answers = [mtom(retrieved([(uid, f"{n}@b") for n, uid in enumerate(uids)]), [(f"{n}@b", data[n]) for n in range(len(uids))])
               for uids, data in (((first.sop_uid, other.sop_uid), PICTURES[:2]), ((twin.sop_uid,), PICTURES[2:3]))]
    files = [ManifestFile(entry=entry(), path=tmp_path / "m", images=part) for part in ((first, other), (twin, first))]
    told: list[tuple[int, int]] = []
    with peer(*answers) as peers, Consultation(peers.url, profile, LIMITS) as client:
        got = client.pictures(files, tmp_path, lambda objects, size: told.append((objects, size)))
    assert got.missing == ()
    assert [(one.study_uid, one.sop_uid, one.path.read_bytes()) for one in got.pictures] == [
        (ref.study_uid, ref.sop_uid, data) for ref, data in zip((first, other, twin), PICTURES[:3], strict=True)]
    assert told[-1] == (3, sum(map(len, PICTURES[:3])))
    assert [request.body.count(b"<DocumentUniqueId>") for request in peers.got] == [2, 1]


def test_of_one_sop_uid_in_two_studies_the_missing_one_is_named(profile: Profile, tmp_path: Path) -> None:
    first, other = refs(2)
    twin = replace(other, sop_uid=first.sop_uid)
    answers = [mtom(retrieved([(first.sop_uid, "0@b")]), [("0@b", PICTURES[0])]),
               mtom(retrieved([], [("XDSDocumentUniqueIdError", twin.sop_uid)]))]
    with peer(*answers) as peers, Consultation(peers.url, profile, LIMITS) as client:
        got = client.images([first, twin], tmp_path)
    assert [one.study_uid for one in got.pictures] == [first.study_uid]
    assert [(one.location, f"(of study {twin.study_uid})" in one.context) for one in got.missing] == [(twin.sop_uid, True)]


@pytest.mark.parametrize(("second", "names"), [
    (PICTURES[1], ["1.2.3.0-2.999.9.3.dcm", "1.2.3.0.dcm"]), (PICTURES[0], ["1.2.3.0.dcm"])], ids=["other bytes", "same bytes"])
def test_two_sources_with_the_same_uids_overwrite_nothing(
        profile: Profile, tmp_path: Path, second: bytes, names: list[str]) -> None:
    ref = refs(1)[0]
    answers = [mtom(retrieved([(ref.sop_uid, "0@b")]), [("0@b", data)]) for data in (PICTURES[0], second)]
    with peer(*answers) as peers, Consultation(peers.url, profile, LIMITS) as client:
        got = client.images([ref, replace(ref, source_uid="2.999.9.3")], tmp_path)
    assert [(one.source_uid, one.path.read_bytes()) for one in got.pictures] == [
        ("2.999.1.3", PICTURES[0]), ("2.999.9.3", second)]
    assert sorted(path.name for path in (tmp_path / ref.study_uid / ref.series_uid).iterdir()) == names


def test_every_syntax_that_the_receiver_takes_is_asked_for(profile: Profile, tmp_path: Path) -> None:
    with peer(all_four()) as other, Consultation(other.url, profile, LIMITS) as client:
        client.images(refs(), tmp_path)
    listed = re.findall(rb"TransferSyntaxUID>([0-9.]+)<", other.got[0].body)
    assert sorted(uid.decode() for uid in listed) == sorted(RECEIVED_SYNTAXES)


def test_who_submitted_an_entry_is_asked_of_the_registry(profile: Profile) -> None:
    sets = tuple(SubmissionSet(id=f"urn:uuid:{n}", unique_id=f"1.{n}", source_id=f"2.999.{n}", patient_id=str(XAD),
                               submission_time="20260301") for n in (2, 3))
    links = (Association(id="a", type=HAS_MEMBER, source="urn:uuid:2", target="urn:uuid:1", submission_set_status="Original"),
             Association(id="b", type=HAS_MEMBER, source="urn:uuid:3", target="urn:uuid:1", submission_set_status="Reference"))
    listing = ebxml.write_objects(RegistryObjects(submission_sets=sets, associations=links)).decode()
    body = f'<q:AdhocQueryResponse xmlns:q="{xml.QUERY}" status="{ebxml.SUCCESS}">{listing}</q:AdhocQueryResponse>'
    with peer(plain(body)) as other, Consultation(other.url, profile, LIMITS) as client:
        assert client.publishers([]) == {}
        assert client.publishers([entry()]) == {"urn:uuid:1": "2.999.2"}
    assert b"51224314-5390-4169-9b91-b1980040715a" in other.got[0].body
    assert b"('urn:uuid:1')" in other.got[0].body


def test_an_attachment_that_is_referred_to_and_absent_is_missing(profile: Profile, tmp_path: Path) -> None:
    with peer(mtom(retrieved([("1.2.3.0", "0@b")]))) as other, Consultation(other.url, profile, LIMITS) as client:
        got = client.images(refs(1), tmp_path)
    assert [(p.code, p.location) for p in got.missing] == [(NOT_ANSWERED, "1.2.3.0")]


@pytest.mark.parametrize("bad", [
    {"sop_uid": "../../evil"}, {"study_uid": "/etc"}, {"series_uid": ""}, {"source_uid": ""},
])
def test_a_manifest_cannot_choose_where_files_go(bad: dict[str, str], profile: Profile, tmp_path: Path) -> None:
    wrong = replace(refs(1)[0], **bad)
    with peer() as other, Consultation(other.url, profile, LIMITS) as client:
        got = client.images([wrong], tmp_path)
    assert [(p.code, p.location) for p in got.missing] == [(UNASKED, wrong.sop_uid)]
    assert other.got == []


def test_a_picture_that_was_not_asked_for_is_not_kept(profile: Profile, tmp_path: Path) -> None:
    answer = mtom(retrieved([("1.2.3.0", "0@b"), ("6.6.6", "1@b")]), [("0@b", PICTURES[0]), ("1@b", PICTURES[1])])
    with peer(answer) as other, Consultation(other.url, profile, LIMITS) as client:
        client.images(refs(1), tmp_path)
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [PICTURES[0]]


def test_nothing_is_left_behind_when_the_answer_stays_cut(profile: Profile, tmp_path: Path) -> None:
    answer = mtom(retrieved([("1.2.3.0", "0@b")]), [("0@b", PICTURES[0] * 100)], cut=9000)
    with peer(answer, answer) as other, Consultation(other.url, profile, LIMITS) as client, pytest.raises(Unavailable):
        client.images(refs(1), tmp_path)
    assert len(other.got) == 2
    assert list(tmp_path.iterdir()) == []


def test_manifests_are_checked_against_the_registry_and_read(profile: Profile, tmp_path: Path) -> None:
    good, other_hash = manifest("1.2.1"), manifest("1.2.2")
    entries = [entry(good, "1.9.1"), entry(other_hash + b"x", "1.9.2"), entry(b"", "1.9.3"), entry(b"", "1.9.4")]
    answer = mtom(
        retrieved([("1.9.1", "a@b"), ("1.9.2", "b@b"), ("1.9.3", "c@b")], [("XDSDocumentUniqueIdError", "1.9.4")]),
        [("a@b", good), ("b@b", other_hash), ("c@b", b"not DICOM")])
    with peer(answer) as other, Consultation(other.url, profile, LIMITS) as client:
        got = client.manifests(entries, tmp_path)
    (file,) = got.files
    assert file.path.read_bytes() == good
    assert [ref.sop_uid for ref in file.images] == ["1.2.1.7.1"]
    assert {(p.code, p.location) for p in got.missing} == {
        (DAMAGED, "1.9.2"), ("InvalidDocumentContent", "1.9.3"), ("XDSDocumentUniqueIdError", "1.9.4")}


def test_pictures_of_several_manifests_travel_in_one_request(profile: Profile, tmp_path: Path) -> None:
    files = [ManifestFile(entry=entry(), path=tmp_path / "m", images=tuple(part)) for part in (refs()[:2], refs()[2:])]
    told: list[tuple[int, int]] = []
    with peer(all_four()) as other, Consultation(other.url, profile, LIMITS) as client:
        got = client.pictures(files, tmp_path, lambda objects, size: told.append((objects, size)))
    assert len(got.pictures) == 4
    assert len(other.got) == 1
    assert told[-1] == (4, sum(map(len, PICTURES)))


def test_documents_are_asked_for_by_patient_status_and_format(profile: Profile) -> None:
    body = ('<query:AdhocQueryResponse xmlns:query="urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0" '
            'status="urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success">'
            '<RegistryObjectList xmlns="urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"/></query:AdhocQueryResponse>')
    with peer(plain(body)) as other, Consultation(other.url, profile, LIMITS) as client:
        assert client.documents(PatientId("2.999.1.1", "O'Hara")) == ()
    sent = other.got[0].body.decode()
    assert "'O''Hara^^^&amp;2.999.1.1&amp;ISO'" in sent
    assert f"('{APPROVED}')" in sent
    assert "('1.2.840.10008.5.1.4.1.1.88.59^^1.2.840.10008.2.6.1')" in sent


def test_a_registry_failure_is_raised_with_its_codes(profile: Profile) -> None:
    body = ('<query:AdhocQueryResponse xmlns:query="urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0" '
            'xmlns:rs="urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0" '
            'status="urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure"><rs:RegistryErrorList>'
            '<rs:RegistryError errorCode="XDSUnknownPatientId" codeContext="x" '
            'severity="urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Error"/></rs:RegistryErrorList></query:AdhocQueryResponse>')
    failed = pytest.raises(Rejected, match="XDSUnknownPatientId")
    with peer(plain(body)) as other, Consultation(other.url, profile, LIMITS) as client, failed:
        client.documents(XAD)


def test_an_affinity_domain_id_is_not_translated(profile: Profile) -> None:
    with peer() as other, Consultation(other.url, profile, LIMITS) as client:
        assert client.affinity_id(XAD) == XAD
    assert other.got == []


def test_a_retrieve_that_is_refused_as_a_whole_names_every_instance(profile: Profile, tmp_path: Path) -> None:
    script = mtom(retrieved([], [("XDSUnknownRepositoryId", "1.2.3.0"), ("XDSUnknownRepositoryId", "1.2.3.1")]))
    with peer(script) as other, Consultation(other.url, profile, LIMITS) as client:
        got = client.images(refs(2), tmp_path)
    assert got.pictures == ()
    assert [p.location for p in got.missing] == ["1.2.3.0", "1.2.3.1"]


def test_ids_of_a_patient_are_asked_in_the_wanted_domains(profile: Profile) -> None:
    local, wanted = PatientId("2.999.2.1", "A-1"), PatientId("2.999.1.1", "R-1")

    def script(got: Got) -> Reply:
        query = xml.parse(got.body).find(f"{{{xml.SOAP}}}Body")
        assert query is not None
        read = hl7v3.read_pix_query(query[0])
        assert (read.patient.root, read.patient.extension) == (local.domain, local.value)
        assert [domain.root for domain in read.domains] == ["2.999.1.1"]
        answer = hl7v3.write_pix_answer(
            query[0], MessageId("20260301101500+0800", "r1"), [(wanted, "REGION")], manager="2.999.1.4")
        return Reply(200, {"Content-Type": "application/soap+xml"}, envelope(answer.decode(), got.message_id))

    with peer(script) as other, Consultation(other.url, profile, LIMITS) as client:
        assert client.affinity_id(local) == wanted


def submission() -> RegistryObjects:
    kind = SubmissionSet(id="set", unique_id="1.9", source_id="2.999.2", patient_id=str(XAD), submission_time="20260301")
    return RegistryObjects(submission_sets=(kind,), documents=(entry(),))


def registry_response(*codes: str, severity: str = "Error") -> str:
    state = "Failure" if codes and severity == "Error" else "Success"
    listed = "".join(f'<r:RegistryError errorCode="{code}" codeContext="x" severity="urn:oasis:names:tc:ebxml-regrep:'
                     f'ErrorSeverityType:{severity}"/>' for code in codes)
    listing = f"<r:RegistryErrorList>{listed}</r:RegistryErrorList>" if codes else ""
    return (f'<r:RegistryResponse xmlns:r="{xml.RS}" status="urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:{state}">'
            f"{listing}</r:RegistryResponse>")


def test_a_submission_carries_its_document_and_gives_the_warnings(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "document").write_bytes(PICTURES[0])
    answer = mtom(registry_response("XDSExtraMetadataNotSaved", severity="Warning"))
    with peer(answer) as other, Consultation(other.url, profile, LIMITS) as client:
        warnings = client.submit(submission(), {"urn:uuid:1": tmp_path / "document"}, tmp_path / "in")
    assert [warning.code for warning in warnings] == ["XDSExtraMetadataNotSaved"]
    assert PICTURES[0] in other.got[0].body
    assert b'Document id="urn:uuid:1"' in other.got[0].body


@pytest.mark.parametrize("body", [
    registry_response("XDSUnknownPatientId"),
    f'<r:RegistryResponse xmlns:r="{xml.RS}" status="urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure"/>',
])
def test_a_refused_submission_is_raised(body: str, profile: Profile, tmp_path: Path) -> None:
    with peer(mtom(body)) as other, Consultation(other.url, profile, LIMITS) as client, pytest.raises(Rejected):
        client.submit(submission(), {}, tmp_path)


def test_documents_in_the_message_itself_are_taken_too(profile: Profile, tmp_path: Path) -> None:
    data = manifest("1.2.1")
    inline = f"<Document>{base64.b64encode(data).decode()}</Document>"
    body = re.sub(r"<Document>.*?</Document>", inline, retrieved([("urn:uuid:x", "a@b")]))
    foreign = replace(entry(data, "urn:uuid:x"), home="urn:oid:2.999.8")
    with peer(mtom(body)) as other, Consultation(other.url, profile, LIMITS) as client:
        got = client.manifests([foreign], tmp_path)
    assert got.missing == ()
    assert got.files[0].path.parent == tmp_path
    assert got.files[0].path.read_bytes() == data
    assert b"<HomeCommunityId>urn:oid:2.999.8</HomeCommunityId><RepositoryUniqueId>" in other.got[0].body


@pytest.mark.parametrize("body", [
    "<answer/>", f'<RetrieveDocumentSetResponse xmlns="{XDS}"/>',
    re.sub(r"<Document>.*?</Document>", "<Document>!</Document>", retrieved([("1.2", "a@b")])),
])
def test_what_is_no_retrieve_answer_is_refused(body: str, profile: Profile, tmp_path: Path) -> None:
    with peer(mtom(body)) as other, Consultation(other.url, profile, LIMITS) as client, pytest.raises(Rejected):
        client.manifests([entry()], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_ask_for_is_not_asked(profile: Profile, tmp_path: Path) -> None:
    with peer() as other, Consultation(other.url, profile, LIMITS) as client:
        assert client.manifests((), tmp_path).files == ()
        assert client.pictures((), tmp_path).pictures == ()
    assert other.got == []


def test_a_patient_without_an_affinity_id_is_told_apart(profile: Profile) -> None:
    def script(got: Got) -> Reply:
        query = xml.parse(got.body).find(f"{{{xml.SOAP}}}Body")
        assert query is not None
        answer = hl7v3.write_pix_answer(query[0], MessageId("20260301101500+0800", "r1"), manager="2.999.1.4")
        return Reply(200, {"Content-Type": "application/soap+xml"}, envelope(answer.decode(), got.message_id))

    none = pytest.raises(Rejected, match="NoAffinityId")
    with peer(script) as other, Consultation(other.url, profile, LIMITS) as client, none:
        client.affinity_id(PatientId("2.999.2.1", "A-1"))
