"""Hospitals whose PACS does not say the SOP class of an instance: dcmtk's dcmqrscp and pynetdicom's own qrscp."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from broker.client.consult import Consultation
from broker.config import profile as profiles
from broker.demo import pacs as demo_pacs
from broker.demo.pacs import Node
from broker.model.ids import PatientId, new_oid
from broker.model.people import Demographics, PersonName
from broker.wire import hl7v3
from tests.helpers import dicom
from tests.helpers.region import Region

B = PatientId("2.999.3.1", "B-77")


@contextlib.contextmanager
def qrscp(region: Region, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shutil, "which", lambda _name, path="": None)
    node, broker = Node(ae_title="PACSB", port=region.pacs_port), Node(ae_title="BROKER", port=region.dicom_port)
    with demo_pacs.pacs(region.folder / "pacs", node, broker) as pacs:
        assert pacs.program == "pynetdicom's qrscp"
        demo_pacs.send(files[0].parent, node, "MODALITY")
        yield


@contextlib.contextmanager
def dcmqrscp(region: Region, files: list[Path], _monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with dicom.dcmqrscp(region.folder / "pacs", "PACSB", region.dicom_port, files, port=region.pacs_port):
        yield


@pytest.mark.parametrize("pacs", [pytest.param(dcmqrscp, marks=pytest.mark.peer("dcmtk")), qrscp], ids=["dcmqrscp", "qrscp"])
def test_its_studies_are_published_and_fetched(pacs: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = new_oid()
    files = dicom.ct_study(tmp_path / "sent", 6, 16, uid, series=2, patient=dicom.Patient(id=B.value))
    region = Region(tmp_path)
    with region, pacs(region, files, monkeypatch):
        assert "published: 6 images" in _publish(region, uid)
        with Consultation(region.url, profiles.load(str(tmp_path / "region"))) as client:
            entries = client.documents(client.affinity_id(B))
            manifests = client.manifests(entries, tmp_path / "manifests")
            got = client.pictures(manifests.files, tmp_path / "got")
    assert {ref.sop_class for file in manifests.files for ref in file.images} == {dicom.CT}
    assert ["葉^曉東" in str(entry.source_patient_info) for entry in entries] == [True], "qrscp answers with question marks"
    assert got.missing == ()
    sent = {str(pydicom.dcmread(file).SOPInstanceUID): pydicom.dcmread(file) for file in files}
    assert {p.sop_uid for p in got.pictures} == set(sent)
    for picture in got.pictures:
        assert pydicom.dcmread(picture.path).PixelData == sent[picture.sop_uid].PixelData


def _publish(region: Region, study_uid: str) -> str:
    person = Demographics(names=(PersonName(family="LIN", given="MEI"),), birth_date="19790214", sex="F")
    with Consultation(region.url, profiles.load(str(region.folder / "region"))) as client:
        client.feed_v3(hl7v3.write_add_patient(B, person, sender="2.999.3.9", receiver="2.999.1.4"))
    return region.run("publish", "--hospital", "b", "--study", study_uid)
