"""The main job, end to end, on real programs: separate `broker serve` processes, dcmtk, Orthanc; Redis or none, HDFS or none."""

import contextlib
import hashlib
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest

from broker.client.consult import Consultation, ManifestFile
from broker.config import profile as profiles
from broker.model.ids import PatientId, new_oid
from broker.model.imaging import InstanceRef
from broker.model.metadata import DocumentEntry
from broker.model.people import Demographics, PersonName
from broker.wire import hl7v3
from tests.chaos import sequencefile
from tests.helpers import dicom, mllp
from tests.helpers.hdfs.cluster import Cluster, Folder
from tests.helpers.hdfs.configuration import REPLICATION
from tests.helpers.ports import free_port
from tests.helpers.region import Region
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.peer("orthanc"), pytest.mark.timeout(300)]

A, B, XAD = PatientId("2.999.2.1", "A-1001"), PatientId("2.999.3.1", "B-77"), "2.999.1.1"
NAME = "葉^曉東"
RECENT = time.strftime("%Y%m%d", time.gmtime(time.time() - 5 * 86400))
OLD = time.strftime("%Y%m%d", time.gmtime(time.time() - 500 * 86400))

ADT = f"""
MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20261101101500||ADT^A04^ADT_A01|a-1|P|2.3.1||||||GB 18030-2000
EVN||20261101101500
PID|||{A.value}^^^HOSPA&2.999.2.1&ISO^PI||{NAME}^^^^^L||19790214|F
PV1||O
"""
PIX_QUERY = f"""
MSH|^~\\&|VIEW|CONS|BROKER|REGION|20261101103000||QBP^Q23^QBP_Q21|q-1|P|2.5
QPD|IHE PIX Query|tag-1|{A.value}^^^HOSPA&2.999.2.1&ISO
RCP|I
"""


@dataclass
class Scene:
    """What the tests of one run share."""

    region: Region
    pacs: dicom.Orthanc
    folder: Path
    hdfs: Folder | None
    sent: dict[str, Path] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def client(self) -> Consultation:
        return Consultation(self.region.url, profiles.load(str(self.region.folder / "region")))

    def documents(self) -> tuple[DocumentEntry, ...]:
        with self.client() as client:
            return client.documents(client.affinity_id(A))

    def manifests(self) -> tuple[ManifestFile, ...]:
        with self.client() as client:
            found = client.manifests(client.documents(client.affinity_id(A)), self.folder / "manifests")
        assert found.missing == ()
        return found.files

    def study(self, place: str, patient: PatientId, date: str, count: int, uid: str = "") -> str:
        """Make files of a new study, or more of one, and remember them as what `place` will have to give back."""
        uid = uid or new_oid()
        who = dicom.Patient(id=patient.value, name=f"Ye^XiaoDong={NAME}")
        files = dicom.ct_study(self.folder / place, count, 64, uid, series=2, patient=who)
        for file in files:
            dataset = pydicom.dcmread(file)
            dataset.StudyDate = date
            dataset.save_as(file)
            self.sent[str(dataset.SOPInstanceUID)] = file
            self.places[str(dataset.SOPInstanceUID)] = place
        return uid

    def files(self, place: str) -> list[Path]:
        return sorted((self.folder / place).glob("*.dcm"))

    def archived(self) -> list[dict[str, str]]:
        """Return SOP Instance UID and SHA-256 of the images in each container, as a reader finds them that is not ours.

        In the cluster that is Hadoop's `SequenceFile.Reader`; `hdfs dfs -text` must find the same.
        """
        if self.hdfs is None:
            found = [sequencefile.container(file.read_bytes())[0] for file in (self.region.data / "archive").rglob("*.seq")]
            return [{uid: hashlib.sha256(image).hexdigest() for uid, image in images.items()} for images in found]
        warm, containers = self.hdfs.cluster.warm, []
        for path in self.paths():
            images = {key: digest for key, _, digest in warm.records(path) if not key.startswith("\x01")}
            printed = [line.partition("\t")[0] for line in warm.run("dfs", "-text", path).lines]
            assert [key for key in printed if not key.startswith("\x01")] == list(images)
            containers.append(images)
        return containers

    def paths(self, *, folders: str = "[0-9a-f][0-9a-f]") -> list[str]:
        """Return the paths of files in the cluster's archive."""
        assert self.hdfs is not None
        lines = self.hdfs.cluster.admin("dfs", "-ls", "-C", "-R", f"{self.hdfs.path}/sdicom").splitlines()
        return [line for line in lines if re.fullmatch(rf".*/sdicom/{folders}/[^/]+", line)]

    def moves(self) -> int:
        """How many times hospital B's PACS was asked to send (audit records of C-MOVE)."""
        return sum(1 for kind, *_ in self.audit_codes() if kind == "C-MOVE")

    def audit_codes(self) -> list[tuple[str, str, str]]:
        found = []
        for message in self.region.audit():
            event = message.find("EventIdentification")
            assert event is not None
            kind = event.find("EventTypeCode")
            found.append((kind.get("csd-code", "") if kind is not None else "", event.get("EventActionCode", ""),
                          event.get("EventOutcomeIndicator", "")))
        return found


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    port = free_port()
    with dicom.running(["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"], folder, port):
        yield f"redis://127.0.0.1:{port}/0"


def folder_in_hdfs(cluster: Cluster) -> Folder:
    folder = Folder(cluster, f"/story/{new_oid()}")
    cluster.mkdir(folder.path, mode="777")
    return folder


@pytest.fixture(scope="module", params=[
    "local", pytest.param("redis", marks=pytest.mark.peer("redis")),
    pytest.param("hdfs", marks=[pytest.mark.peer("hdfs"), pytest.mark.timeout(600)])])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if request.param == "redis" and shutil.which("redis-server") is None:
        pytest.skip("redis-server not installed")
    folder = tmp_path_factory.mktemp(f"story-{request.param}")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis(folder)) if request.param == "redis" else ""
        hdfs = folder_in_hdfs(request.getfixturevalue("hdfs_cluster")) if request.param == "hdfs" else None
        archive = {"url": f"{hdfs.url}/sdicom", "hdfs.replication": REPLICATION} if hdfs else None
        region = Region(folder, redis_url=url, archive=archive)
        pacs = dicom.Orthanc(folder / "orthanc", "PACSB", region.dicom_port, port=region.pacs_port)
        stack.enter_context(pacs)
        stack.enter_context(region)
        yield Scene(region, pacs, folder, hdfs)


def test_pictures_before_their_patient_are_kept_and_wait(scene: Scene) -> None:
    scene.study("online", A, RECENT, 6)
    assert dicom.store(scene.files("online"), scene.region.dicom_port, "PACSA").returncode == 0

    def waiting() -> bool:
        with contextlib.closing(sqlite3.connect(scene.region.data / "broker.db")) as connection:
            return connection.execute("SELECT state FROM publication").fetchall() == [("waiting_patient",)]
    eventually(waiting)


def test_two_hospitals_register_one_woman(scene: Scene) -> None:
    answer = mllp.send(scene.region.mllp_port, ADT)
    assert mllp.segment(answer, "MSA")[1:3] == ["AA", "a-1"]
    family, given = NAME.split("^")
    person = Demographics(names=(PersonName(family=family, given=given),), birth_date="19790214", sex="F")
    with scene.client() as client:
        client.feed_v3(hl7v3.write_add_patient(B, person, sender="2.999.3.9", receiver="2.999.1.4"))
        by_soap = set(client.ids(A))
    assert {i.domain for i in by_soap} == {B.domain, XAD}
    assert B in by_soap
    pid = mllp.segment(mllp.send(scene.region.mllp_port, PIX_QUERY, "ascii"), "PID")
    by_hl7 = {(i.split("^")[0], i.split("^")[3].split("&")[1]) for i in pid[3].split("~")}
    assert by_hl7 == {(i.value, i.domain) for i in by_soap}


def test_the_waiting_study_is_published_when_the_feed_arrived(scene: Scene) -> None:
    eventually(lambda: len(scene.documents()) == 1)
    (entry,) = scene.documents()
    assert entry.source_patient_id == str(A)
    assert "~葉^曉東^" in next(line for line in entry.source_patient_info if line.startswith("PID-5|"))
    assert "CT" in [code.code for code in entry.codes["eventCodeList"]]


def test_a_study_that_stays_with_its_hospital_is_published_from_c_find(scene: Scene) -> None:
    uid = scene.study("origin", B, RECENT, 8)
    scene.pacs.upload(scene.files("origin"))
    assert "published: 8 images" in scene.region.run("publish", "--hospital", "b", "--study", uid)
    assert len(scene.documents()) == 2
    (manifest,) = [m for m in scene.manifests() if m.images[0].study_uid == uid]
    assert {ref.source_uid for ref in manifest.images} == {"2.999.3.3"}
    kos = pydicom.dcmread(manifest.path)
    series = kos.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {item.RetrieveAETitle for item in series} == {"BROKER"}
    assert len(scene.pacs.instances()) == 8
    assert scene.moves() == 0


def test_an_old_study_is_packed_and_its_online_copy_goes(scene: Scene) -> None:
    uid = scene.study("archive", A, OLD, 5)
    assert dicom.store(scene.files("archive"), scene.region.dicom_port, "PACSA").returncode == 0
    eventually(lambda: len(scene.documents()) == 3)
    scene.region.run("migrate")         # or the worker, which looks once a minute, was quicker
    eventually(lambda: list((scene.region.data / "online").rglob(f"{uid}/*")) == [])
    (images,) = scene.archived()
    assert images.keys() == {sop for sop, place in scene.places.items() if place == "archive"}


def test_late_images_make_a_new_version(scene: Scene) -> None:
    (manifest,) = [m for m in scene.manifests() if len(m.images) == 5]
    uid = manifest.images[0].study_uid
    scene.study("late", A, OLD, 3, uid)
    assert dicom.store(scene.files("late"), scene.region.dicom_port, "PACSA").returncode == 0
    eventually(lambda: [len(m.images) for m in scene.manifests() if m.images[0].study_uid == uid] == [8])
    scene.region.run("migrate")
    eventually(lambda: list((scene.region.data / "online").rglob(f"{uid}/*")) == [])
    (images,) = scene.archived()
    assert images.keys() == {sop for sop, place in scene.places.items() if place in ("archive", "late")}
    (manifest,) = [m for m in scene.manifests() if m.images[0].study_uid == uid]
    with scene.client() as client:
        got = client.pictures([manifest], scene.folder / "versions")
    assert {picture.sop_uid: picture.sha256 for picture in got.pictures} == images


def test_one_request_brings_every_picture_from_its_place(scene: Scene) -> None:
    with scene.client() as client:
        got = client.pictures(scene.manifests(), scene.folder / "got")
    assert got.missing == ()
    assert {p.sop_uid for p in got.pictures} == set(scene.sent)
    for picture in got.pictures:
        sent = scene.sent[picture.sop_uid]
        if scene.places[picture.sop_uid] == "origin":
            ours, theirs = pydicom.dcmread(picture.path), pydicom.dcmread(sent)
            assert ours.PatientName == theirs.PatientName
            assert ours == theirs
            assert (ours.pixel_array == theirs.pixel_array).all()
        else:
            stored = list((scene.region.data / "online").rglob(picture.sop_uid))
            if stored:
                assert hashlib.sha256(stored[0].read_bytes()).hexdigest() == picture.sha256
            assert dicom.body(picture.path) == dicom.body(sent)
    assert scene.moves() == 1


def test_a_second_request_starts_no_second_move(scene: Scene) -> None:
    with scene.client() as client:
        origin = [m for m in scene.manifests() if m.images[0].source_uid == "2.999.3.3"]
        got = client.pictures(origin, scene.folder / "again")
    assert len(got.pictures) == 8
    assert scene.moves() == 1


def test_an_unknown_instance_is_one_error_with_its_uid(scene: Scene) -> None:
    known = [ref for manifest in scene.manifests() for ref in manifest.images]
    stranger = InstanceRef(known[0].study_uid, known[0].series_uid, "2.999.404", source_uid=known[0].source_uid)
    with scene.client() as client:
        got = client.images([*known, stranger], scene.folder / "partial")
    assert len(got.pictures) == len(known)
    assert [(p.code, p.location) for p in got.missing] == [("XDSDocumentUniqueIdError", "2.999.404")]


def test_a_pacs_that_is_down_costs_only_its_images_and_bounded_time(scene: Scene) -> None:
    uid = scene.study("down", B, RECENT, 3)
    scene.pacs.upload(scene.files("down"))
    scene.region.run("publish", "--hospital", "b", "--study", uid)
    scene.pacs.__exit__()
    refs = [ref for manifest in scene.manifests() for ref in manifest.images]
    lost = {ref.sop_uid for ref in refs if ref.study_uid == uid}
    with scene.client() as client:
        got = client.images(refs, scene.folder / "without-b")
    assert {p.location for p in got.missing} == lost
    assert {p.code for p in got.missing} == {"XDSDocumentUniqueIdError"}
    assert len(got.pictures) == len(refs) - len(lost)


def test_a_person_fetches_everything_with_one_command(scene: Scene) -> None:
    out = scene.folder / "person"
    text = scene.region.run("fetch", f"HOSPA:{A.value}", "--to", str(out), "--json", expect=1)
    assert {file.stem for file in out.glob("*/*/*.dcm")} == {uid for uid in scene.sent if scene.places[uid] != "down"}, text


def test_every_transaction_left_its_audit_record(scene: Scene) -> None:
    found = set(scene.audit_codes())
    assert found >= {
        ("ITI-8", "C", "0"), ("ITI-9", "E", "0"), ("ITI-44", "C", "0"), ("ITI-45", "E", "0"), ("ITI-18", "E", "0"),
        ("ITI-41", "C", "0"), ("ITI-42", "C", "0"), ("RAD-68", "R", "0"), ("ITI-43", "R", "0"), ("RAD-69", "R", "0"),
        ("C-STORE", "C", "0"), ("C-FIND", "E", "0"), ("C-MOVE", "C", "0"),
    }


def test_services_and_health_describe_the_running_broker(scene: Scene) -> None:
    offered = {service["code"]: service for service in scene.region.get_json("/services")["services"]}
    assert offered.keys() >= {
        "ITI-8", "ITI-9", "ITI-18", "ITI-41", "ITI-42", "ITI-43", "ITI-44", "ITI-45", "RAD-69", "C-STORE", "C-ECHO"}
    assert offered["RAD-69"]["address"] == f"{scene.region.url}/xds/imaging"
    assert subprocess.run(
        ["echoscu", "-aet", "PACSA", "-aec", "BROKER", "127.0.0.1", str(scene.region.dicom_port)], check=False).returncode == 0
    assert scene.region.health()["status"] == "ok"


def test_no_patient_data_in_any_log(scene: Scene) -> None:
    said = scene.region.logs()
    for secret in (A.value, B.value, "葉", "曉東", "XiaoDong", "19790214"):
        assert secret not in said
    assert re.search(r"Traceback", said) is None


def test_nothing_half_finished_is_left_behind(scene: Scene) -> None:
    places = [folder for name in (".incoming", ".spool", ".tmp") for folder in scene.region.data.rglob(name)]
    assert places
    assert [file for folder in places for file in folder.iterdir()] == []
    if scene.hdfs is not None:
        assert scene.paths(folders=".tmp") == []
        assert list((scene.region.data / "archive").rglob("*.seq")) == []
