import hashlib
from datetime import timedelta, timezone
from typing import Any

import pytest
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from broker.config.profile import Code as ProfileCode
from broker.config.profile import Hospital, Profile
from broker.model.ids import is_uuid_urn
from broker.model.imaging import SeriesFacts
from broker.model.metadata import APPROVED, HAS_MEMBER, RPLC, STABLE, Code
from broker.wire.ebxml import read_submission, submit_request
from broker.wire.terms import BODY_PARTS, MODALITIES
from broker.wire.xdsi import ManifestFacts, describe, utc, xpn
from broker.wire.xml import parse
from tests.helpers.manifests import CT, NOW, PATIENT, metadata, study

ENTRY, OLD = "urn:uuid:3e0fd0cb-0d6f-4d0e-9c53-6f1f6f0a2b10", "urn:uuid:7c1d2a90-2f0e-4c62-8f39-5b7d9f0c11aa"


def described(profile: Profile, **changes: Any) -> Any:
    facts = {"unique_id": "2.25.200", "entry_id": ENTRY, "set_uid": "2.25.300", **changes}
    return metadata(profile, b"the manifest", **facts)


def test_the_entry_says_what_the_study_says(profile: Profile) -> None:
    entry = described(profile).documents[0]
    assert (entry.id, entry.unique_id, entry.object_type) == (ENTRY, "2.25.200", STABLE)
    assert entry.mime_type == "application/dicom"
    assert entry.patient_id == "P-1001^^^&2.999.1.1&ISO"
    assert entry.source_patient_id == "A-20417^^^&2.999.2.1&ISO"
    assert entry.source_patient_info == (
        "PID-3|A-20417^^^&2.999.2.1&ISO", "PID-5|Ye^XiaoDong^^Jr^Dr^^L^A~葉^曉東^^^^^L^I", "PID-7|19790214", "PID-8|F")
    assert entry.reference_id_list == (
        "A20240506-17^^^&2.999.2.2&ISO^urn:ihe:iti:xds:2013:accession",
        "2.25.100^^^^urn:ihe:iti:xds:2016:studyInstanceUID")
    assert entry.service_start_time == "20240506011500"
    assert entry.creation_time == "20240506013005"
    assert entry.title == "胸部 CT 平扫"
    assert entry.language_code == "zh-CN"
    assert (entry.hash, entry.size) == (hashlib.sha1(b"the manifest").hexdigest(), 12)
    assert entry.authors[0].institutions == ("First People's Hospital",)
    assert entry.repository_unique_id == ""


def test_the_codes_are_those_of_the_region(profile: Profile) -> None:
    codes = described(profile).documents[0].codes
    assert set(codes) == {"classCode", "typeCode", "formatCode", "confidentialityCode", "healthcareFacilityTypeCode",
                          "practiceSettingCode", "eventCodeList"}
    assert codes["formatCode"][0].same(Code("1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1"))
    assert codes["eventCodeList"] == (
        Code("CT", "1.2.840.10008.2.16.4", "Computed Tomography"), Code("816094009", "2.16.840.1.113883.6.96", "Thorax"))


def test_the_submission_set_and_its_links(profile: Profile) -> None:
    objects = described(profile, replaces=OLD)
    submission_set = objects.submission_sets[0]
    assert (submission_set.unique_id, submission_set.source_id) == ("2.25.300", "2.999.2")
    assert submission_set.patient_id == str(PATIENT)
    assert submission_set.submission_time == "20240506013005"
    assert submission_set.content_type == Code("IMG", "2.999.1.90", "Imaging")
    assert [(link.type, link.source, link.target, link.submission_set_status) for link in objects.associations] == [
        (HAS_MEMBER, submission_set.id, ENTRY, "Original"), (RPLC, ENTRY, OLD, "")]
    assert [thing.id for thing in (*objects.documents, *objects.submission_sets, *objects.associations)
            if is_uuid_urn(thing.id)] == [ENTRY]
    assert APPROVED not in {thing.status for thing in objects.associations}


def test_the_metadata_survives_the_wire(profile: Profile) -> None:
    objects = described(profile)
    assert read_submission(parse(submit_request(objects))).objects == objects


def with_codes(profile: Profile, **changes: Any) -> Profile:
    return profile.model_copy(update={"codes": profile.codes.model_copy(update=changes)})


def type_code(profile: Profile, procedure: tuple[str, str, str]) -> Code:
    hospital = profile.hospital("a")
    assert isinstance(hospital, Hospital)
    found: Code = describe(study(procedure_code=procedure), _facts(profile), profile, hospital).documents[0].codes["typeCode"][0]
    return found


def _facts(profile: Profile) -> Any:

    return ManifestFacts(document=b"", unique_id="2.25.1", entry_id=ENTRY, set_uid="2.25.2", at=NOW, patient=PATIENT)


@pytest.mark.parametrize(("procedure", "expected"), [
    (("24627-2", "LN", "CT of chest"), Code("24627-2", "2.16.840.1.113883.6.1")),
    (("24627-2", "2.16.840.1.113883.6.1", "CT of chest"), Code("24627-2", "2.16.840.1.113883.6.1")),
    (("CTCH", "99HOSP", "local"), Code("18748-4", "2.16.840.1.113883.6.1")),
    (("", "LN", ""), Code("18748-4", "2.16.840.1.113883.6.1")),
])
def test_the_type_is_the_procedure_where_its_scheme_is_known(
    profile: Profile, procedure: tuple[str, str, str], expected: Code,
) -> None:
    assert type_code(profile, procedure).same(expected)


def test_a_procedure_the_region_does_not_allow_is_not_published(profile: Profile) -> None:
    allowed = (ProfileCode(code="18748-4", scheme="2.16.840.1.113883.6.1"),)
    narrow = with_codes(profile, allowed={**profile.codes.allowed, "typeCode": allowed})
    assert type_code(narrow, ("24627-2", "LN", "CT of chest")).code == "18748-4"


def test_only_acquisition_modalities_are_events(profile: Profile) -> None:
    series = tuple(
        SeriesFacts(uid=f"2.25.1.{n}", modality=modality, instances=((CT, f"2.25.1.{n}.1"),))
        for n, modality in enumerate(["SR", "PT", "KO", "PR", "CT", "SEG", "CT", ""]))
    hospital = profile.hospital("a")
    assert hospital is not None
    entry = describe(study(series=series), _facts(profile), profile, hospital).documents[0]
    assert [code.code for code in entry.codes["eventCodeList"]] == ["CT", "PT"]


def test_what_is_not_known_is_left_out(profile: Profile) -> None:
    hospital = profile.hospital("b")
    assert hospital is not None
    bare = study(patient_name="", birth_date="1979", sex="", date="", time="", accession="", institution="", description="")
    entry = describe(bare, _facts(profile), profile, hospital).documents[0]
    assert entry.source_patient_info == ("PID-3|A-20417^^^&2.999.2.1&ISO",)
    assert entry.reference_id_list == ("2.25.100^^^^urn:ihe:iti:xds:2016:studyInstanceUID",)
    assert entry.service_start_time == ""
    assert entry.title == "CT"
    assert entry.authors[0].institutions == ("County Hospital",)


def test_an_accession_number_of_nobody_is_no_reference(profile: Profile) -> None:
    hospital = profile.hospital("a")
    assert hospital is not None
    nameless = hospital.model_copy(update={"accession_issuer": None})
    assert len(describe(study(), _facts(profile), profile, nameless).documents[0].reference_id_list) == 1


def test_times_are_told_in_utc_whatever_the_zone_of_the_clock(profile: Profile) -> None:
    assert described(profile, at=NOW.astimezone(timezone(timedelta(hours=8)))).documents[0].creation_time == "20240506013005"


@pytest.mark.parametrize(("date", "time", "expected"), [
    ("20240506", "091500.123", "20240506011500"),
    ("20240506", "0915", "202405060115"),
    ("20240506", "09", "2024050601"),
    ("20240506", "010000", "20240505170000"),
    ("2024.05.06", "09:15:00", "20240506011500"),
    ("20240506", "", "20240506"),
    ("20240506", "255959", "20240506"),
    ("20240506", "9", "20240506"),
    ("20240230", "091500", ""),
    ("2024", "", ""),
    ("", "091500", ""),
    ("today", "", ""),
])
def test_utc(date: str, time: str, expected: str) -> None:
    assert utc(date, time, "+0800") == expected


@pytest.mark.parametrize(("name", "expected"), [
    ("Lin^Mei", "Lin^Mei"),
    ("張^三", "張^三"),
    ("Adams^John^Quincy^Rev.^B.A.", "Adams^John^Quincy^B.A.^Rev."),
    ("Zhang^San=張^三=ザン^サン", "Zhang^San^^^^^L^A~張^三^^^^^L^I~ザン^サン^^^^^L^P"),
    ("=張^三", "張^三"),
    ("O&Brien^A|B~C\\D", "O\\T\\Brien^A\\F\\B\\R\\C\\E\\D"),
    ("Lin^^^^", "Lin"),
    ("", ""),
    ("==", ""),
])
def test_xpn(name: str, expected: str) -> None:
    assert xpn(name) == expected


def test_the_terms_are_those_of_the_standard() -> None:
    everything: Any = concepts
    dcm, sct = everything["DCM"], everything["SCT"]
    assert {next(iter(dcm[key])): next(iter(dcm[key].values()))[0] for key in cid_concepts[29]["DCM"]} == dict(MODALITIES)
    regions = {(next(iter(sct[key])), next(iter(sct[key].values()))[0]) for key in cid_concepts[4]["SCT"]}
    assert set(BODY_PARTS.values()) <= regions
