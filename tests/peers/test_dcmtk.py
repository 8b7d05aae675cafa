import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from broker.config.profile import Limits, Profile
from broker.db import Database
from broker.edge.dimse.scu import Scu
from broker.model.errors import Unavailable
from broker.model.ids import new_oid
from broker.model.ports import Want
from broker.wire import tags
from tests.helpers import dicom
from tests.helpers.dicom import Broker
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.peer("dcmtk")
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
def broker(tmp_path: Path, database: Database, profile: Profile) -> Iterator[Broker]:
    with dicom.broker(tmp_path, database, profile, dicom.Board()) as started:
        yield started


def scu(broker: Broker, profile: Profile) -> Scu:
    return Scu(profile, dicom.short_settings(), broker.receiver, broker.gate)


def kept(broker: Broker) -> dict[str, bytes]:
    return {path.split("/")[-1]: dicom.body(broker.online.path(path)) for path in broker.files()}


def bodies(files: list[Path]) -> dict[str, bytes]:
    return {tags.read_meta(file.read_bytes()).sop_uid: dicom.body(file) for file in files}


def test_echoscu_is_answered_and_strangers_are_not(broker: Broker) -> None:
    for calling, code in (("PACSA", 0), ("STRANGER", 1)):
        done = subprocess.run(["echoscu", "-aet", calling, "-aec", "BROKER", "127.0.0.1", str(broker.port)], check=False,
                              capture_output=True, timeout=20)
        assert done.returncode == code


def test_compressed_objects_are_kept_as_dcmsend_read_them(broker: Broker, tmp_path: Path) -> None:
    files = []
    for name in ("CT_small", "MR_small_RLE", "MR_small_jp2klossless", "JPEG-lossy", "MR_small_jpeg_ls_lossless", "test-SR",
                 "SC_rgb_jpeg_dcmtk", "SC_rgb_rle_16bit_2frame"):
        file = Path(shutil.copy(SAMPLES / f"{name}.dcm", tmp_path / f"{name}.dcm"))
        # several of them share one UID
        subprocess.run(["dcmodify", "-nb", "-gin", str(file)], check=True, capture_output=True, timeout=20)
        files.append(file)
    subprocess.run(["dcmsend", "-dn", "-aet", "PACSA", "-aec", "BROKER", "127.0.0.1", str(broker.port), *map(str, files)],
                   check=True, capture_output=True, timeout=30)
    assert kept(broker) == bodies(files)


def test_uncompressed_objects_keep_their_pixels_whatever_byte_order_they_had(broker: Broker, tmp_path: Path) -> None:
    files = [SAMPLES / f"{name}.dcm" for name in ("MR_small_bigendian", "MR_small_implicit")]
    reference = tmp_path / "reference.dcm"
    for file in files:
        assert dicom.store([file], broker.port, "PACSA").returncode == 0
        subprocess.run(["dcmconv", "+te", str(file), str(reference)], check=True, capture_output=True, timeout=20)
        [path] = broker.files()
        assert pydicom.dcmread(broker.online.path(path)).PixelData == pydicom.dcmread(reference).PixelData
        assert tags.read_meta(broker.online.path(path).read_bytes()).transfer_syntax != tags.BIG_ENDIAN
        broker.online.drop([path])


def test_dcmsend_of_a_folder_becomes_a_study_with_its_names(broker: Broker, tmp_path: Path) -> None:
    uid = new_oid()
    files = dicom.ct_study(tmp_path / "in", 20, 64, uid, series=2)
    subprocess.run(["dcmsend", "-aet", "PACSA", "-aec", "BROKER", "127.0.0.1", str(broker.port), "+sd", str(tmp_path / "in")],
                   check=True, capture_output=True, timeout=30)
    assert kept(broker) == bodies(files)
    eventually(lambda: (row := broker.study(uid)) is not None and row.objects == 20)
    row = broker.study(uid)
    assert row is not None
    assert (row.facts["PatientName"], row.facts["InstitutionName"]) == ("Ye^XiaoDong=葉^曉東", "第一人民医院")


def test_a_sender_killed_in_mid_study_leaves_only_whole_objects(broker: Broker, tmp_path: Path) -> None:
    files = dicom.ct_study(tmp_path / "in", 4, 2000)
    sent = bodies(files)
    with subprocess.Popen(["storescu", "-aet", "PACSA", "-aec", "BROKER", "--repeat", "50", "127.0.0.1", str(broker.port),
                           *map(str, files)]) as sender:
        eventually(lambda: any(not path.startswith(".incoming") for path in broker.files()))
        sender.send_signal(signal.SIGKILL)
    eventually(lambda: not any(path.startswith(".incoming") for path in broker.files()))
    for sop_uid, data in kept(broker).items():
        assert data == sent[sop_uid]


@pytest.mark.parametrize("route", ["move", "get"])
def test_dcmqrscp_is_asked_and_sends_what_was_wanted(
        broker: Broker, profile: Profile, tmp_path: Path, route: str) -> None:
    uid = new_oid()
    files = dicom.ct_study(tmp_path / "in", 6, 32, uid, series=2)
    sent = bodies(files)
    with dicom.dcmqrscp(tmp_path / "qr", "PACSB", broker.port, files) as port:
        at = dicom.hospital_at(profile, "b", port, routes=[route])
        hospital, ask = dicom.hospital(at, "b"), scu(broker, at)
        ask.echo(hospital)
        found = ask.find_study(hospital, uid)
        assert {row["SOPInstanceUID"] for row in found} == sent.keys()
        assert {row["PatientName"] for row in found} == {"Ye^XiaoDong=葉^曉東"}
        first = found[0]
        ask.retrieve(hospital, Want(uid, (first["SeriesInstanceUID"],), (first["SOPInstanceUID"],)), lambda: True)
        eventually(lambda: kept(broker).keys() == {first["SOPInstanceUID"]})
        ask.retrieve(hospital, Want(uid), lambda: True)
        eventually(lambda: kept(broker) == sent)
        ask.retrieve(hospital, Want("1.2.3.4"), lambda: True)      # it says success and sends nothing
        assert ask.find_study(hospital, "1.2.3.4") == []


def test_a_stopped_pacs_is_given_up_when_it_does_not_answer_in_time(broker: Broker, profile: Profile, tmp_path: Path) -> None:
    uid = new_oid()
    files = dicom.ct_study(tmp_path / "in", 2, 16, uid)
    limits = Limits(connect_seconds=1.0, idle_seconds=20.0, total_seconds=30.0)
    with dicom.dcmqrscp(tmp_path / "qr", "PACSB", broker.port, files) as port:
        at = dicom.hospital_at(profile, "b", port, limits=limits)
        ask = scu(broker, at)
        stopped = subprocess.run(["pgrep", "-f", f"{tmp_path}/qr/dcmqrscp.cfg"], capture_output=True, text=True, check=True)
        for process in stopped.stdout.split():
            subprocess.run(["kill", "-STOP", process], check=True)
        try:
            with pytest.raises(Unavailable, match="no answer to the request for an association"):
                ask.retrieve(dicom.hospital(at, "b"), Want(uid), lambda: True)
        finally:
            for process in stopped.stdout.split():
                subprocess.run(["kill", "-CONT", process], check=True)
