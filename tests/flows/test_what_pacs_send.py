"""Studies as real PACS keep them, through the whole broker: `broker publish`, `broker fetch`, files on disk."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID

from broker.client.consult import Consultation
from broker.config import profile as profiles
from broker.model.ids import PatientId, new_oid
from broker.model.people import Demographics, PersonName
from broker.wire import hl7v3
from tests.helpers import dicom
from tests.helpers.dicom import Orthanc
from tests.helpers.region import Region
from tests.helpers.waiting import eventually

A, B = PatientId("2.999.2.1", "A-88"), PatientId("2.999.3.1", "B-88")
MR, PRIVATE = "1.2.840.10008.5.1.4.1.1.4", "1.3.12.2.1107.5.9.1"


def feed(region: Region, patient: PatientId, device: str) -> None:
    person = Demographics(names=(PersonName(family="LIN", given="MEI"),), birth_date="19790214", sex="F")
    with Consultation(region.url, profiles.load(str(region.folder / "region"))) as client:
        client.feed_v3(hl7v3.write_add_patient(patient, person, sender=device, receiver="2.999.1.4"))


def write(folder: Path, patient: PatientId, *objects: tuple[str, str, str, str]) -> list[Path]:
    """Write objects of these (study, series, SOP Instance UID, SOP class)."""
    folder.mkdir()
    files = []
    for n, (study, series, sop, sop_class) in enumerate(objects):
        dataset = dicom.ct_dataset(study, series, sop, number=n + 1, patient=dicom.Patient(id=patient.value))
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        files.append(folder / f"{n:04}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


@contextlib.contextmanager
def orthanc(region: Region, files: list[Path]) -> Iterator[None]:
    with Orthanc(region.folder / "pacs", "PACSB", region.dicom_port, port=region.pacs_port, encoding="Latin1") as pacs:
        pacs.upload(files)
        yield


@contextlib.contextmanager
def dcmqrscp(region: Region, files: list[Path]) -> Iterator[None]:
    with dicom.dcmqrscp(region.folder / "pacs", "PACSB", region.dicom_port, files, port=region.pacs_port):
        yield


@pytest.mark.parametrize(("pacs", "tells_classes"), [
    pytest.param(orthanc, True, marks=pytest.mark.peer("orthanc"), id="orthanc"),
    pytest.param(dcmqrscp, False, marks=pytest.mark.peer("dcmtk"), id="dcmqrscp")])
def test_a_private_class_beside_two_pictures_in_an_origin(pacs: type, tells_classes: bool, tmp_path: Path) -> None:
    """What the PACS cannot send is named: at the consultation where the manifest names it, else when it is published."""
    study = new_oid()
    files = write(tmp_path / "sent", B, *((study, new_oid(), new_oid(), kind) for kind in (MR, MR, PRIVATE)))
    bad = str(pydicom.dcmread(files[2]).SOPInstanceUID)
    with Region(tmp_path) as region, pacs(region, files):
        feed(region, B, "2.999.3.9")
        said = json.loads(region.run("publish", "--hospital", "b", "--study", study, "--json", expect=0 if tells_classes else 1))
        assert (said["state"], said["instances"], said["left_out"]) == (
            ("published", 3, 0) if tells_classes else ("partial", 3, 1))
        got = json.loads(region.run("fetch", str(B), "--to", str(tmp_path / "got"), "--json", expect=1 if tells_classes else 0))
        with Consultation(region.url, profiles.load(str(tmp_path / "region"))) as client:
            (entry,) = client.documents(client.affinity_id(B))
    assert [(row["hospital"], row["objects"]) for row in got["studies"]] == [("County Hospital", 2)]
    assert [one["uid"] for one in got["missing"]] == ([bad] if tells_classes else [])
    assert sorted(path.stem for path in (tmp_path / "got" / study).rglob("*.dcm")) == sorted(
        str(pydicom.dcmread(file).SOPInstanceUID) for file in files[:2])
    assert "葉^曉東" in str(entry.source_patient_info), "Orthanc answers in Latin-1, without the Chinese characters"


@pytest.mark.peer("dcmtk")
def test_one_sop_uid_in_two_studies_gives_two_files_and_packed_images_count(tmp_path: Path) -> None:
    sop, first, second = new_oid(), new_oid(), new_oid()
    objects = [(study, new_oid(), uid, MR) for study, uid in ((first, sop), (second, sop), (second, new_oid()))]
    files = write(tmp_path / "sent", A, *objects)
    changes = {
        "retention.toml": {"online_days = 365": "online_days = 0"},
        "domains.toml": {'{ application = "HIS-A", facility = "HOSPA", address = "127.0.0.1" }': '{ device_oid = "2.999.2.9" }'}}
    with Region(tmp_path, changes=changes) as region:
        feed(region, A, "2.999.2.9")
        assert dicom.store(files, region.dicom_port, "PACSA").returncode == 0
        with Consultation(region.url, profiles.load(str(tmp_path / "region"))) as client:
            eventually(lambda: len(client.documents(client.affinity_id(A))) == 2)
        for folder in ("online", "packed"):
            got = json.loads(region.run("fetch", str(A), "--to", str(tmp_path / folder), "--json"))
            assert (sorted(row["objects"] for row in got["studies"]), got["missing"]) == ([1, 2], [])
            for file in files:
                sent = pydicom.dcmread(file)
                path = tmp_path / folder / sent.StudyInstanceUID / sent.SeriesInstanceUID / f"{sent.SOPInstanceUID}.dcm"
                assert pydicom.dcmread(path).PixelData == sent.PixelData
            region.run("migrate")
        said = json.loads(region.run("publish", "--hospital", "a", "--study", second, "--json"))
        assert (said["state"], said["instances"]) == ("published", 2)
