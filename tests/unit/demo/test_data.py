from datetime import date
from pathlib import Path

import pydicom
import pytest

from broker.config.profile import Profile
from broker.demo import data as demo_data
from broker.demo.data import Study, demo_plans, write_study

TODAY = date(2026, 3, 14)


@pytest.fixture(scope="module")
def studies(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, ...]:
    folder = tmp_path_factory.mktemp("studies")
    return tuple(write_study(plan, folder / plan.accession) for plan in demo_plans(profile, TODAY))


def test_the_three_studies_have_the_promised_sizes_and_ages(studies: tuple[Study, ...]) -> None:
    recent, old, origin = studies
    assert [len(recent.files) >= 20, len(old.files) >= 10, len(origin.files) >= 12] == [True] * 3
    assert [recent.plan.hospital, old.plan.hospital, origin.plan.hospital] == ["a", "a", "b"]
    assert [(TODAY - s.plan.day).days > 365 for s in studies] == [False, True, False]


def test_every_object_belongs_to_its_study_and_patient(studies: tuple[Study, ...]) -> None:
    for study in studies:
        for file in study.files:
            dataset = pydicom.dcmread(file.path)
            assert dataset.StudyInstanceUID == study.uid
            assert dataset.PatientID == study.plan.patient.value
            assert str(dataset.PatientName) == "Ye^XiaoDong=葉^曉東"
            assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID == file.sop_uid
            assert dataset.SeriesInstanceUID == file.series_uid
            assert file.path.stat().st_size == file.size
    sops = [file.sop_uid for study in studies for file in study.files]
    assert len(set(sops)) == len(sops)


def test_names_travel_in_gb18030_with_delimiter_bytes_inside_characters(studies: tuple[Study, ...]) -> None:
    content = studies[0].files[0].path.read_bytes()
    name = "葉^曉東".encode("gb18030")
    assert b"GB18030" in content
    assert name in content
    assert {b"~"[0], b"|"[0]} <= set(name)


def test_generated_images_say_so_and_samples_do_not(studies: tuple[Study, ...]) -> None:
    for study in studies:
        marks = [pydicom.dcmread(file.path).SeriesDescription for file in study.files]
        assert marks[:study.plan.slices] == ["SYNTHETIC"] * study.plan.slices
        assert len(marks) > study.plan.slices
        assert all(mark.startswith("SAMPLE ") for mark in marks[study.plan.slices:])


def test_generated_slices_are_full_and_differ(studies: tuple[Study, ...]) -> None:
    recent = studies[0]
    pixels = [pydicom.dcmread(file.path).PixelData for file in recent.files[:recent.plan.slices]]
    assert {len(data) for data in pixels} == {recent.plan.pixels ** 2 * 2}
    assert len(set(pixels)) == len(pixels)
    assert all(max(data[1::2]) < 16 for data in pixels)     # 12 bits stored


def test_samples_keep_their_pixels_and_lose_their_patient(studies: tuple[Study, ...]) -> None:
    recent = studies[0]
    sample = next(file for file in recent.files if pydicom.dcmread(file.path).SeriesDescription == "SAMPLE CT_small")
    assert sample.pixel_sha256 == demo_data.pixel_sha256(demo_data.SAMPLES / "CT_small.dcm")
    assert "OtherPatientIDs" not in pydicom.dcmread(sample.path)


def test_hashes_of_a_file_ignore_its_file_meta(studies: tuple[Study, ...], tmp_path: Path) -> None:
    file = studies[0].files[0]
    dataset = pydicom.dcmread(file.path)
    dataset.file_meta.SourceApplicationEntityTitle = "SOMEONE"
    dataset.save_as(tmp_path / "copy.dcm", enforce_file_format=True)
    assert (tmp_path / "copy.dcm").stat().st_size > file.size
    assert demo_data.data_sha256(tmp_path / "copy.dcm") == file.data_sha256


def test_a_sample_that_is_not_installed_is_left_out(profile: Profile, tmp_path: Path) -> None:
    plan = demo_data.StudyPlan(
        hospital="a", patient=demo_plans(profile, TODAY)[0].patient, day=TODAY, slices=2, pixels=64, samples=("none.dcm",))
    assert len(write_study(plan, tmp_path).files) == 2


def test_each_run_makes_new_uids(profile: Profile, tmp_path: Path) -> None:
    plan = demo_data.StudyPlan(hospital="a", patient=demo_plans(profile, TODAY)[0].patient, day=TODAY, slices=1, pixels=64)
    one, two = write_study(plan, tmp_path / "1"), write_study(plan, tmp_path / "2")
    assert one.uid != two.uid
    assert one.files[0].pixel_sha256 == two.files[0].pixel_sha256
