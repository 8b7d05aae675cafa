from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.edge.dimse.scu import Scu
from broker.model.errors import Unavailable
from broker.model.ids import new_oid
from broker.model.ports import Want
from broker.wire import tags
from tests.helpers import dicom
from tests.helpers.dicom import Broker, Orthanc, eventually

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
    hospital, ask = dicom.hospital(at, "b"), Scu(at, dicom.short_settings(), broker.receiver, broker.gate.audit)
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
    ask = Scu(at, dicom.short_settings(ae_title="NOBODY"), broker.receiver, broker.gate.audit)
    with pytest.raises(Unavailable, match="0xC000"):
        ask.retrieve(dicom.hospital(at, "b"), Want(uid), lambda: True)
