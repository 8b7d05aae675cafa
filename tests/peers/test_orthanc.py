from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from broker.config.profile import Profile
from broker.db import Database
from broker.edge.dimse.scu import Scu
from broker.model.errors import Unavailable
from broker.model.ids import new_oid
from broker.model.ports import Want
from broker.wire import tags
from tests.helpers import dicom
from tests.helpers.dicom import Broker, Orthanc
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("orthanc")]


@pytest.fixture
def broker(tmp_path: Path, database: Database, profile: Profile) -> Iterator[Broker]:
    with dicom.broker(tmp_path, database, profile, dicom.Board()) as started:
        yield started


@pytest.fixture
def orthanc(tmp_path: Path, broker: Broker) -> Iterator[Orthanc]:
    with Orthanc(tmp_path / "orthanc", "PACSB", broker.port) as started:
        yield started


def held(broker: Broker) -> set[str]:
    return {path.split("/")[-1] for path in broker.files() if not path.startswith(".")}


@pytest.mark.parametrize("route", ["move", "get"])
def test_orthanc_is_asked_and_sends_what_was_wanted(
        broker: Broker, orthanc: Orthanc, profile: Profile, tmp_path: Path, route: str) -> None:
    uid = new_oid()
    files = dicom.ct_study(tmp_path / "in", 6, 32, uid, series=2)
    pixels = {tags.read_meta(file.read_bytes()).sop_uid: pydicom.dcmread(file).PixelData for file in files}
    orthanc.upload(files)
    at = dicom.hospital_at(profile, "b", orthanc.port, routes=[route])
    hospital, ask = dicom.hospital(at, "b"), Scu(at, dicom.short_settings(), broker.receiver, broker.gate)
    ask.echo(hospital)
    found = ask.find_study(hospital, uid)
    assert {row["SOPInstanceUID"] for row in found} == pixels.keys()
    assert {(row["PatientName"], row["SOPClassUID"], row["Modality"]) for row in found} == {
        ("Ye^XiaoDong=葉^曉東", dicom.CT, "CT")}
    wanted = found[0]["SOPInstanceUID"], found[1]["SOPInstanceUID"]
    ask.retrieve(hospital, Want(uid, (), wanted), lambda: True)
    eventually(lambda: held(broker) == set(wanted))
    ask.retrieve(hospital, Want(uid), lambda: True)
    eventually(lambda: held(broker) == pixels.keys())
    for path in broker.files():
        assert pydicom.dcmread(broker.online.path(path)).PixelData == pixels[path.split("/")[-1]]
    eventually(lambda: (row := broker.study(uid, "b")) is not None and row.objects == 6)
    with pytest.raises(Unavailable, match="0xC000"):
        ask.retrieve(hospital, Want("1.2.3.4"), lambda: True)
    assert ask.find_study(hospital, "1.2.3.4") == []


def test_a_move_to_a_destination_orthanc_does_not_know_says_so(
        broker: Broker, orthanc: Orthanc, profile: Profile, tmp_path: Path) -> None:
    uid = new_oid()
    orthanc.upload(dicom.ct_study(tmp_path / "in", 1, 16, uid))
    at = dicom.hospital_at(profile, "b", orthanc.port)
    ask = Scu(at, dicom.short_settings(ae_title="NOBODY"), broker.receiver, broker.gate)
    with pytest.raises(Unavailable, match="0xC000"):
        ask.retrieve(dicom.hospital(at, "b"), Want(uid), lambda: True)


def mixed(folder: Path, sop_class: str = dicom.CT, syntax: str = "1.2.840.10008.1.2.1") -> tuple[str, list[Path], str]:
    """Return a study of four images, its files and the one that differs: of another class, or in a syntax that is not read."""
    uid = new_oid()
    files = dicom.ct_study(folder, 4, 16, uid, series=2)
    odd = pydicom.dcmread(files[1])
    odd.SOPClassUID = odd.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    if syntax != odd.file_meta.TransferSyntaxUID:
        odd.file_meta.TransferSyntaxUID = UID(syntax)
        odd.PixelData = encapsulate([b"\0" * 100])
        odd["PixelData"].is_undefined_length = True
    odd.save_as(files[1], enforce_file_format=True)
    return uid, files, str(odd.SOPInstanceUID)


def test_what_orthanc_cannot_send_by_get_is_named_and_the_others_come(
        broker: Broker, orthanc: Orthanc, profile: Profile, tmp_path: Path) -> None:
    uid, files, odd = mixed(tmp_path / "in", syntax="1.2.840.10008.1.2.4.202")
    orthanc.upload(files)
    at = dicom.hospital_at(profile, "b", orthanc.port, routes=["get"])
    ask = Scu(at, dicom.short_settings(), broker.receiver, broker.gate)
    done = ask.retrieve(dicom.hospital(at, "b"), Want(uid), lambda: True)
    assert (done.status, done.failed) == (0xB000, (odd,))
    eventually(lambda: held(broker) == {tags.read_meta(file.read_bytes()).sop_uid for file in files} - {odd})


@pytest.mark.parametrize("route", ["move", "get"])
def test_a_private_class_of_the_profile_comes_from_orthanc(
        tmp_path: Path, database: Database, profile: Profile, route: str) -> None:
    private = "1.3.12.2.1107.5.9.1"
    uid, files, _ = mixed(tmp_path / "in", sop_class=private)
    named = profile.model_copy(update={"hospitals": tuple(
        hospital.model_copy(update={"sop_classes": (private,)}) for hospital in profile.hospitals)})
    with dicom.broker(tmp_path, database, named, dicom.Board()) as broker, \
            Orthanc(tmp_path / "orthanc", "PACSB", broker.port) as orthanc:
        orthanc.upload(files)
        at = dicom.hospital_at(named, "b", orthanc.port, routes=[route])
        ask = Scu(at, dicom.short_settings(), broker.receiver, broker.gate)
        assert ask.retrieve(dicom.hospital(at, "b"), Want(uid), lambda: True).status == 0
        eventually(lambda: held(broker) == {tags.read_meta(file.read_bytes()).sop_uid for file in files})
