from dataclasses import replace
from typing import Any

import pytest

from broker.config.profile import Profile
from broker.model.ids import PatientId
from broker.model.imaging import SeriesFacts
from broker.wire.study_text import date_of, day_of, modality_of, sex_of, time_of
from broker.wire.xdsi import ManifestFacts, describe, remarks
from tests.helpers.manifests import LOCAL, NOW, PATIENT, kos, study

ENTRY = "urn:uuid:3e0fd0cb-0d6f-4d0e-9c53-6f1f6f0a2b10"


@pytest.mark.parametrize(("text", "date"), [
    ("20240105", "20240105"), ("2024.01.05", "20240105"), ("2024-01-05", "20240105"), ("2024/1/5", "20240105"),
    ("2024年1月5日", "20240105"), ("2024年01月", "202401"), ("2024年", "2024"), ("２０２４０１０５", "20240105"),
    ("20240105101500", "20240105"), ("2024-01-05 10:15", "20240105"), ("2024-01-05T10:15:00+08:00", "20240105"),
    ("19790000", "1979"), ("19790200", "197902"), ("1979", "1979"), ("197902", "197902"), (" 20240105 ", "20240105"),
    ("20240230", ""), ("20241301", ""), ("00000000", ""), ("20240101-20240131", ""), ("05.01.2024", ""), ("unknown", ""),
    ("未知", ""), ("", ""),
])
def test_dates_as_they_are_written(text: str, date: str) -> None:
    assert date_of(text) == date
    assert day_of(text) == (date if len(date) == 8 else "")


@pytest.mark.parametrize(("text", "time"), [
    ("101500", "101500"), ("10:15:00", "101500"), ("1015", "1015"), ("10", "10"), ("101500.123456", "101500.123456"),
    ("101500.1234567890", "101500.123456"), ("１０１５００", "101500"), ("10:15", "1015"), ("235960", "235960"),
    ("10时15分", "1015"), ("9点5分3秒", "090503"), ("10時", "10"), ("9:05:00", "090500"), ("10\uff1a15", "1015"),
    ("10时15", "1015"), ("24时", ""), ("10时60分", ""), ("10:", ""), ("10分", ""),
    ("240000", ""), ("1060", ""), ("9", ""), ("上午", ""), ("10h15", ""), ("", ""),
])
def test_times_as_they_are_written(text: str, time: str) -> None:
    assert time_of(text) == time


@pytest.mark.parametrize(("text", "sex"), [
    ("男", "M"), ("女", "F"), ("男性", "M"), ("女性", "F"), ("m", "M"), ("Female", "F"), ("MALE", "M"), ("Ｆ", "F"),
    ("1", "M"), ("2", "F"),
    ("O", "O"), ("其他", "O"), ("U", ""), ("未知", ""), ("9", ""), ("", ""),
])
def test_the_sex_as_it_is_written(text: str, sex: str) -> None:
    assert sex_of(text) == sex


@pytest.mark.parametrize(("text", "modality"), [
    ("CT", "CT"), ("ct", "CT"), ("ＭＲ", "MR"), (" PT ", "PT"), ("RTIMAGE", "RTIMAGE"), ("核磁", ""), ("C" * 17, ""), ("", ""),
])
def test_the_modality_as_it_is_written(text: str, modality: str) -> None:
    assert modality_of(text) == modality


def published(profile: Profile, **changes: Any) -> Any:
    facts = study(**changes)
    made = ManifestFacts(document=kos(facts), unique_id="2.25.1", entry_id=ENTRY, set_uid="2.25.2", at=NOW, patient=PATIENT)
    return describe(facts, made, profile, profile.hospitals[0]).documents[0]


@pytest.mark.parametrize(("changes", "remark"), [
    ({"sex": "未知"}, "PatientSex left out"),
    ({"birth_date": "一九七九"}, "PatientBirthDate left out"),
    ({"birth_date": "1979"}, "PatientBirthDate left out"),
    ({"date": "今天"}, "StudyDate left out"),
    ({"time": "上午"}, "StudyTime left out"),
    ({"series": (SeriesFacts(uid="2.25.100.1", modality="核磁", instances=(("1.2", "2.25.1"),)),)}, "Modality left out"),
    ({"institution": "医" * 300}, "InstitutionName shortened"),
    ({"description": "胸" * 300}, "StudyDescription shortened"),
    ({"patient_name": "王" * 100}, "PatientName shortened"),
    ({"patient_name": "&" * 64 + "=" + "^" * 4 + "|" * 60}, "PatientName shortened"),
    ({"accession": "A" * 65}, "AccessionNumber left out"),
    ({"accession": "&" * 64 + "\\"}, "AccessionNumber left out"),
    ({"patient": PatientId(LOCAL.domain, "&" * 100)}, "PatientID left out"),
    ({"procedure_code": ("C" * 65, "LN", "x")}, "ProcedureCodeSequence left out"),
    ({"procedure_code": ("24627-2", "LN", "x" * 65)}, "ProcedureCodeMeaning shortened"),
])
def test_what_the_metadata_do_not_carry_is_named(profile: Profile, changes: dict[str, Any], remark: str) -> None:
    assert remarks(study(**changes), "2.999.2.2") == (remark,)
    entry = published(profile, **changes)
    texts = (*entry.source_patient_info, *entry.reference_id_list, *entry.authors[0].institutions, entry.source_patient_id)
    assert max(map(len, texts)) <= 256


def test_what_fits_has_no_remark_and_stays_whole(profile: Profile) -> None:
    whole = {"patient_name": "Wang^XiaoDong=王^小东=" + "王" * 60, "institution": "医" * 64, "accession": "A" * 64, "sex": "男",
             "birth_date": "1979-02-14"}
    assert remarks(study(**whole), "2.999.2.2") == ()
    entry = published(profile, **whole)
    assert entry.authors[0].institutions == ("医" * 64,)
    assert {"PID-7|19790214", "PID-8|M"} <= set(entry.source_patient_info)
    assert entry.reference_id_list[0].startswith("A" * 64 + "^")


def test_a_modality_in_small_letters_is_in_the_metadata(profile: Profile) -> None:
    small = replace(study().series[0], modality="ct")
    assert "CT" in [code.code for code in published(profile, series=(small,)).codes["eventCodeList"]]


def test_an_id_that_is_too_long_is_never_cut_the_affinity_domains_stands_for_it(profile: Profile) -> None:
    entry = published(profile, patient=PatientId(LOCAL.domain, "&" * 100))
    assert entry.source_patient_id == str(PATIENT)
    assert not any(field.startswith("PID-3") for field in entry.source_patient_info)


def test_an_institution_of_blanks_is_none(profile: Profile) -> None:
    assert published(profile, institution="　 ").authors[0].institutions == (profile.hospitals[0].title,)
