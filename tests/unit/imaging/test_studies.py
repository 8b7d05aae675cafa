import dataclasses

import pytest
import sqlalchemy as sa

from broker.config.profile import Profile
from broker.db import Database, sql
from broker.imaging.store import recording, studies
from broker.imaging.store.tables import conflict, instance, series
from broker.model.ids import PatientId
from broker.model.imaging import Online, SeriesFacts, StoredObject
from tests.helpers import dicom

CT = dicom.CT
TAGS = {
    "PatientID": "A-1", "PatientName": "Ye^XiaoDong=葉^曉東", "PatientBirthDate": "19790214", "PatientSex": "F",
    "StudyDate": "20250301", "StudyTime": "101500", "AccessionNumber": "ACC1", "StudyID": "S1", "StudyDescription": "胸部 CT",
    "ReferringPhysicianName": "Lin^A", "InstitutionName": "第一人民医院", "Modality": "CT", "BodyPartExamined": "CHEST",
    "SeriesDescription": "plain", "ProcedureCodeValue": "CTCH", "ProcedureCodingSchemeDesignator": "99HOSP",
    "ProcedureCodeMeaning": "胸部",
}


def stored(number: int, *, study: str = "1.2", series_uid: str = "1.2.1", job: int | None = None, hospital: str = "a",
           sha256: str = "", path: str = "") -> StoredObject:
    sop = f"{study}.9.{number}"
    return StoredObject(
        hospital=hospital, study_uid=study, series_uid=series_uid, sop_uid=sop, sop_class=CT,
        transfer_syntax="1.2.840.10008.1.2.1", path=path or f"{hospital}/2025/03/01/{study}/{sop}", size=100 + number,
        sha256=sha256 or f"{number:064x}", tags={**TAGS, "PatientID": f"{hospital.upper()}-1"}, job=job)


def test_a_batch_becomes_study_series_and_instances(database: Database, profile: Profile) -> None:
    batch = [stored(1), stored(2, series_uid="1.2.2"), stored(3, study="1.3", series_uid="1.3.1"), stored(1, hospital="b")]
    with database.write() as unit:
        assert recording.record(unit, batch, profile, 50.0) == (batch, [], [])
    with database.read() as unit:
        found = studies.study(unit, "a", "1.2")
        assert found is not None
        assert (found.tier, found.state, found.objects, found.bytes) == ("online", "receiving", 2, 203)
        assert (found.patient, found.study_date, found.accession) == (PatientId("2.999.2.1", "A-1"), "20250301", "ACC1")
        assert found.facts["PatientName"] == "Ye^XiaoDong=葉^曉東"
        assert "Modality" not in found.facts
        assert (found.first_at, found.last_at, found.used_at) == (50.0, 50.0, 50.0)
        assert [item.online for item in studies.instances(unit, found.id)] == [
            Online(batch[0].path, 101, batch[0].sha256), Online(batch[1].path, 102, batch[1].sha256)]
        assert [row.modality for row in sql(unit).execute(sa.select(series).where(series.c.study_id == found.id))] == ["CT"] * 2
        other = studies.study(unit, "b", "1.2")
        assert other is not None
        assert other.patient.domain == "2.999.3.1"
        assert {found.study_uid for found in studies.find_studies(unit, hospital="a")} == {"1.2", "1.3"}
        assert studies.find_studies(unit, patient=PatientId("2.999.3.1", "B-1")) == [other]
        assert studies.study(unit, "a", "9.9") is None


def test_the_same_bytes_again_change_nothing(database: Database, profile: Profile) -> None:
    later = stored(2, path="a/2025/03/02/1.2/1.2.9.2")
    with database.write() as unit:
        recording.record(unit, [stored(1), stored(2)], profile, 50.0)
        before = studies.study(unit, "a", "1.2")
    with database.write() as unit:
        assert recording.record(unit, [stored(1), stored(1), later], profile, 90.0) == ([], [(later, stored(2).path)], [])
        assert studies.study(unit, "a", "1.2") == before


def test_the_first_copy_stays_when_other_bytes_come(database: Database, profile: Profile) -> None:
    other = stored(1, sha256="f" * 64, path="a/2025/03/02/1.2/1.2.9.1")
    with database.write() as unit:
        assert recording.record(unit, [stored(1), other], profile, 50.0).conflicts == [other]
        for _ in range(2):
            aside = dataclasses.replace(other, path=".conflict/a/1.2/1.2.9.1.ffffffffffff")
            assert recording.set_aside(unit, aside, profile, 51.0) == 1
        rows = sql(unit).execute(sa.select(conflict)).all()
        assert [(row.sop_uid, row.sha256) for row in rows] == [("1.2.9.1", "f" * 64)]
        assert sql(unit).scalars(sa.select(instance.c.sha256)).all() == [stored(1).sha256]


def test_a_late_object_opens_a_complete_study_again(database: Database, profile: Profile) -> None:
    with database.write() as unit:
        recording.record(unit, [stored(1)], profile, 50.0)
        found = studies.study(unit, "a", "1.2")
        assert found is not None
        assert studies.quiet(unit, 50.0) == []
        assert studies.quiet(unit, 50.1) == [found]
        assert studies.mark(unit, found.id, "quiet")
        assert not studies.mark(unit, found.id, "quiet")
        assert studies.quiet(unit, 99.0) == []
        recording.record(unit, [stored(2)], profile, 60.0)
        assert [row.last_at for row in studies.quiet(unit, 99.0)] == [60.0]
        studies.touch(unit, found.id, 70.0)
        studies.touch(unit, found.id, 65.0)
        again = studies.study(unit, "a", "1.2")
        assert again is not None
        assert again.used_at == 70.0


FOUND = [
    {**TAGS, "PatientID": "B-1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.2", "SOPInstanceUID": "1.2.9.7",
     "SOPClassUID": CT, "Modality": "MR"},
    {**TAGS, "PatientID": "B-1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1", "SOPInstanceUID": "1.2.9.1",
     "SOPClassUID": CT},
]


@pytest.mark.parametrize("cached_first", [False, True])
def test_what_an_origin_keeps_is_a_catalogue_and_cached_objects_do_not_change_its_tier(
        database: Database, profile: Profile, cached_first: bool) -> None:
    hospital = dicom.hospital(profile, "b")
    with database.write() as unit:
        if cached_first:
            recording.record(unit, [stored(1, hospital="b", job=4)], profile, 40.0)
        study_id = recording.record_origin(unit, hospital, FOUND, 50.0)
        assert recording.record_origin(unit, hospital, FOUND, 51.0) == study_id
        recording.record(unit, [stored(1, hospital="b", job=4)], profile, 60.0)
        recording.record(unit, [stored(7, series_uid="1.2.2", hospital="b")], profile, 61.0)  # its job was closed meanwhile
    with database.read() as unit:
        found = studies.study(unit, "b", "1.2")
        assert found is not None
        assert (found.id, found.tier, found.state, found.objects, found.bytes) == (study_id, "origin", "complete", 2, 208)
        assert found.patient == PatientId("2.999.3.1", "B-1")
        assert studies.origin_catalogue(unit, study_id) == [("1.2.2", "1.2.9.7", CT), ("1.2.1", "1.2.9.1", CT)]
        assert studies.on_record(unit, "b", "1.2") == {stored(1, hospital="b").path, stored(7, hospital="b").path}
        facts = studies.facts(unit, study_id)
        assert facts.series == (
            SeriesFacts(uid="1.2.1", modality="CT", body_part="CHEST", description="plain", instances=((CT, "1.2.9.1"),)),
            SeriesFacts(uid="1.2.2", modality="MR", body_part="CHEST", description="plain", instances=((CT, "1.2.9.7"),)))


def test_facts_are_what_a_manifest_needs(database: Database, profile: Profile) -> None:
    with database.write() as unit:
        recording.record(unit, [stored(2), stored(1), stored(3, series_uid="1.2.0")], profile, 50.0)
        found = studies.study(unit, "a", "1.2")
        assert found is not None
        facts = studies.facts(unit, found.id)
    assert (facts.uid, facts.patient, facts.patient_name) == ("1.2", PatientId("2.999.2.1", "A-1"), TAGS["PatientName"])
    assert (facts.birth_date, facts.sex, facts.date, facts.time) == ("19790214", "F", "20250301", "101500")
    assert (facts.accession, facts.study_id, facts.description) == ("ACC1", "S1", "胸部 CT")
    assert (facts.referring, facts.institution) == ("Lin^A", "第一人民医院")
    assert facts.procedure_code == ("CTCH", "99HOSP", "胸部")
    assert [(one.uid, one.instances) for one in facts.series] == [
        ("1.2.0", ((CT, "1.2.9.3"),)), ("1.2.1", ((CT, "1.2.9.1"), (CT, "1.2.9.2")))]
