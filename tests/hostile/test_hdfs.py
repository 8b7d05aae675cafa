"""A running broker whose archive's HDFS breaks: nothing is lost, nobody waits long, and each is told what is wrong.

What its store does by itself, call by call, is in tests/peers/test_archive_hdfs.py.
"""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest

from broker.client import messages
from broker.client.consult import Fetched
from broker.config.hours import at_zone
from broker.config.profile import Profile
from broker.model.ids import new_oid
from broker.wire.mime import MtomBody
from tests.chaos.doors import Asked, Ref
from tests.helpers import dicom
from tests.helpers.hdfs.cluster import Cluster, Folder
from tests.helpers.hdfs.configuration import REPLICATION
from tests.helpers.region import Region
from tests.helpers.site import IMAGES, A, Site, head, ref, rest
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.peer("dcmtk"), pytest.mark.timeout(600)]

OLD = time.strftime("%Y%m%d", time.gmtime(time.time() - 500 * 86400))
RECENT = time.strftime("%Y%m%d", time.gmtime(time.time() - 5 * 86400))
METADATA, READ, WRITE = 2.0, 4.0, 4.0       # seconds, the archive's deadlines
SLOW = 6.0                                  # times a deadline that a busy machine is granted
SLOTS = 16
HEAL = 30.0                                 # seconds until containers are written again after a DataNode is lost
TOGETHER = 4                                # studies packed at once


def reported(run: "subprocess.Popen[str]") -> dict[str, Any]:
    """Wait for `broker migrate`; return its report."""
    said, errors = run.communicate(timeout=600)
    assert said, errors
    report: dict[str, Any] = json.loads(said)
    return report


class Centre(Site):
    """A region with its archive in a folder of the cluster."""

    def __init__(self, region: Region, place: Folder) -> None:
        super().__init__(region)
        self.place, self.cluster = place, place.cluster

    def send(self, folder: Path, count: int = 3, size: int = 64, date: str = OLD) -> list[Path]:
        """Have hospital A send a study; return its files when all are in the database."""
        files = dicom.ct_study(folder / new_oid(), count, size, patient=dicom.Patient(id=A.value))
        for file in files:
            dataset = pydicom.dcmread(file)
            dataset.StudyDate = date
            dataset.save_as(file)
        assert dicom.store(files, self.region.dicom_port, "PACSA").returncode == 0
        uid = ref(files[0]).study_uid
        eventually(lambda: (uid, "complete", count) in self.rows("study", "study_uid, state, objects"))
        return files

    def migrate(self, expect: int = 0) -> dict[str, Any]:
        """Run `broker migrate`; return its report."""
        with self.migrating() as run:
            report = reported(run)
        assert run.returncode == expect
        return report

    def migrate_again(self) -> bool:
        """Run `broker migrate`; return whether something failed."""
        with self.migrating() as run:
            return bool(reported(run)["failed"])

    def migrating(self) -> "subprocess.Popen[str]":
        """Begin `broker migrate`."""
        return subprocess.Popen(
            [sys.executable, "-m", "broker", "migrate", "--json", "--config", str(self.region.config)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)

    def archived(self, folder: Path, count: int = 3, size: int = 64) -> list[Path]:
        """Send a study and have it packed; return its files."""
        files = self.send(folder, count, size)
        assert self.migrate()["failed"] == []
        assert self.online(files) == 0
        return files

    def online(self, files: Sequence[Path]) -> int:
        """Return how many of these are in the online tier."""
        known = {uid for (uid,) in self.rows("instance", "sop_uid")}
        return sum(ref(file).sop_uid in known for file in files)

    def container(self, files: Sequence[Path]) -> str:
        """Return the path in the cluster of the container that holds a study."""
        ((path,),) = self.rows(
            f"container WHERE state = 'current' AND study_id IN "
            f"(SELECT id FROM study WHERE study_uid = '{ref(files[0]).study_uid}')", "path")
        return f"{self.place.path}/sdicom/{path}"

    def containers(self) -> list[str]:
        """Return the names of all containers in the cluster, and of what is unfinished there."""
        root = f"{self.place.path}/sdicom"
        return [f"{folder}/{name}" for folder in self.cluster.names(root) for name in self.cluster.names(f"{root}/{folder}")]

    def unfinished(self) -> list[str]:
        """Return what is left of containers that were not finished. A probe of /healthz that hung is swept a day later."""
        return [name for name in self.containers() if name.startswith(".tmp/") and not name.startswith(".tmp/probe-")]

    def ask(self, files: Sequence[Path], folder: Path) -> Fetched:
        """RAD-69."""
        with self.client() as client:
            return client.images([ref(file) for file in files], folder / new_oid())

    def assert_given(self, files: Sequence[Path], folder: Path) -> None:
        """RAD-69 gives every picture as it was sent."""
        got = self.ask(files, folder)
        assert got.missing == ()
        sent = {ref(file).sop_uid: dicom.body(file) for file in files}
        assert {picture.sop_uid: dicom.body(picture.path) for picture in got.pictures} == sent

    def assert_named(self, got: Fetched, lost: Sequence[Path]) -> None:
        """What RAD-69 did not give is exactly this."""
        assert sorted(problem.location for problem in got.missing) == sorted(ref(file).sop_uid for file in lost)
        assert {problem.code for problem in got.missing} <= {"XDSDocumentUniqueIdError"}

    def health(self) -> str:
        """Return what /healthz says of the archive."""
        return str(self.region.health()["dependencies"]["archive"])

    @contextlib.contextmanager
    def hurt(self) -> Iterator[Cluster]:
        """Mend the cluster afterwards, and wait until the broker sees that it is well."""
        try:
            yield self.cluster
        finally:
            self.cluster.mend()
            eventually(lambda: self.region.health().get("status") == "ok")


@pytest.fixture(scope="module")
def centre(hdfs_cluster: Cluster, profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    place = Folder(hdfs_cluster, f"/hostile/{new_oid()}")
    hdfs_cluster.mkdir(place.path, mode="777")
    archive = {"url": f"{place.url}/sdicom", "hdfs.replication": REPLICATION, "hdfs.block_size": 1 << 20,
               "hdfs.metadata_seconds": METADATA, "hdfs.read_seconds": READ, "hdfs.write_seconds": WRITE,
               "hdfs.user": "broker"}
    far = at_zone(time.time() + 43200, profile.region.timezone)
    hours = f"{far:%H:00}-{far:%H:01}"          # the worker packs nothing, so that what a command says is of its own work
    retention = {"grace_seconds = 0": f'grace_seconds = 0\nparallel = {TOGETHER}\nhours = "{hours}"'}
    with Region(tmp_path_factory.mktemp("hdfs-broker"), archive=archive, server={"retrieve_slots": SLOTS, "web_workers": 1},
                changes={"retention.toml": retention}) as region:
        yield Centre(region, place)


def test_a_namenode_frozen_for_half_a_minute(centre: Centre, tmp_path: Path) -> None:
    """Archived pictures are refused within their deadline, as often as one asks, with as many hung as there are slots.

    Queries, health and online pictures go on meanwhile, in the same web process; afterwards every slot is there again.
    """
    away, here = centre.archived(tmp_path), centre.send(tmp_path, date=RECENT)
    lost = sorted(ref(file).sop_uid for file in away)
    refs = [Ref(one.study_uid, one.series_uid, one.sop_uid, one.source_uid) for one in map(ref, away)]

    def asked(number: int) -> float:
        begun = time.monotonic()
        with contextlib.closing(Asked(centre.region.http_port, refs, f"127.0.1.{number + 1}")) as one:
            answer = one.answer()
        assert sorted(location for _, location, _ in answer.errors) == lost
        return time.monotonic() - begun

    with centre.hurt() as cluster, ThreadPoolExecutor(SLOTS) as pool:
        cluster.namenode.freeze()
        frozen = time.monotonic()
        while time.monotonic() < frozen + 30:
            hung = [pool.submit(asked, number) for number in range(SLOTS)]
            centre.query()
            centre.assert_given(here, tmp_path)
            assert centre.health() == "no answer in time from the NameNode"
            assert centre.region.health()["dependencies"]["database"] == "ok"
            assert max(one.result() for one in hung) < METADATA * SLOW
        got = centre.ask([*away, *here], tmp_path)
        centre.assert_named(got, away)
        assert len(got.pictures) == len(here)
        cluster.namenode.thaw()
        eventually(lambda: centre.region.health().get("status") == "ok")
        list(pool.map(lambda _: centre.assert_given(away, tmp_path), range(SLOTS)))


def test_a_namenode_that_is_dead_and_one_in_safe_mode(centre: Centre, tmp_path: Path) -> None:
    """Dead: exactly the archived pictures are named. In safe mode these are given, and nothing is packed until its end."""
    away, here, due = centre.archived(tmp_path), centre.send(tmp_path, date=RECENT), centre.send(tmp_path)
    with centre.hurt() as cluster:
        cluster.namenode.kill()
        begun = time.monotonic()
        got = centre.ask([*away, *here, *due], tmp_path)
        assert time.monotonic() - begun < METADATA * SLOW
        centre.assert_named(got, away)
        assert len(got.pictures) == len(here) + len(due)
        (failed,) = centre.migrate(expect=1)["failed"]
        assert (failed["study_uid"], failed["reason"]) == (
            ref(due[0]).study_uid, "archive is not available: the connection is refused")
        assert centre.health() == "the connection is refused"
        cluster.mend()
        centre.assert_given([*away, *here, *due], tmp_path)
        cluster.safe_mode(True)
        centre.assert_given([*away, *here, *due], tmp_path)
        (failed,) = centre.migrate(expect=1)["failed"]
        assert failed["reason"] == "archive is not available: the NameNode is in safe mode"
        assert centre.health() == "the NameNode is in safe mode"
        cluster.safe_mode(False)
        assert centre.migrate()["failed"] == []
    assert centre.online(due) == 0
    centre.assert_given([*away, *here, *due], tmp_path)


def test_a_datanode_killed_in_the_middle_of_twenty_packs(centre: Centre, tmp_path: Path) -> None:
    """Some may fail, within their deadlines, and stay online; half a minute later what is written is written."""
    studies = [centre.send(tmp_path, 2, 512) for _ in range(20)]
    with centre.hurt() as cluster:
        before = len(centre.rows("container"))
        with centre.migrating() as first:
            eventually(lambda: len(centre.rows("container")) >= before + 3)
            killed = time.monotonic()
            cluster.datanodes[1].kill()
            report = reported(first)
        # each of its packs may have waited until its deadline once, those that were under way together
        assert time.monotonic() - killed < (WRITE + READ + METADATA) * len(studies) / TOGETHER * SLOW
        for study in studies:
            centre.assert_given(study, tmp_path)
        failed = {one["study_uid"]: one["reason"] for one in report["failed"]}
        assert {ref(study[0]).study_uid for study in studies if centre.online(study)} == failed.keys()
        assert all(reason.startswith("archive is not available: ") for reason in failed.values())
        while centre.region.run("migrate", "--json") and any(centre.online(study) for study in studies):
            assert time.monotonic() - killed < HEAL * SLOW
        late = centre.archived(tmp_path)
        assert time.monotonic() - killed < HEAL * SLOW
        for study in [*studies, late]:
            centre.assert_given(study, tmp_path)
    assert centre.unfinished() == []


def open_answer(centre: Centre, files: Sequence[Path], meanwhile: Any) -> tuple[bytes, int]:
    """Return the body of a RAD-69 and its announced length; `meanwhile` is called when a little of it was read."""
    body = MtomBody(centre.envelope(messages.retrieve_images([ref(file) for file in files]), IMAGES), [])
    data = b"".join(body)
    with centre.http() as connection:
        connection.settimeout(120)
        connection.sendall(head("/xds/imaging", body.content_type, f"Connection: close\r\nContent-Length: {len(data)}") + data)
        begun = connection.recv(4096)
        meanwhile()
        top, _, answer = (begun + rest(connection)).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", top)
    assert length is not None
    return answer, int(length[1])


def test_a_datanode_killed_in_the_middle_of_an_answer(centre: Centre, tmp_path: Path) -> None:
    files = centre.archived(tmp_path, 16, 1024)
    last = centre.cluster.blocks(centre.container(files))[-1][1][0]
    with centre.hurt() as cluster:
        answer, announced = open_answer(centre, files, cluster.datanodes[last].kill)
        assert len(answer) == announced
        assert all(dicom.body(file) in answer for file in files)


def test_all_datanodes_gone_and_back(centre: Centre, tmp_path: Path) -> None:
    away, here = centre.archived(tmp_path, 2, 512), centre.send(tmp_path, date=RECENT)
    with centre.hurt() as cluster:
        for datanode in cluster.datanodes:
            datanode.kill()
        # an index that is remembered leads into the container: then the answer breaks off, and the next one names them
        with contextlib.suppress(Exception):
            centre.ask(away, tmp_path)
        centre.assert_given(here, tmp_path)
        due = centre.send(tmp_path)
        (failed,) = centre.migrate(expect=1)["failed"]
        assert failed["study_uid"] == ref(due[0]).study_uid
        cluster.mend()
        eventually(lambda: centre.region.health().get("status") == "ok")
        eventually(lambda: not centre.migrate_again())
        centre.assert_given([*away, *here, *due], tmp_path)


def test_datanodes_that_hang_in_mid_write(centre: Centre, tmp_path: Path) -> None:
    """They take nothing and close nothing: the packs are given up in their time, under new names they are done later."""
    studies = [centre.send(tmp_path, 8, 1024) for _ in range(2)]
    with centre.hurt() as cluster:
        with centre.migrating() as run:
            eventually(lambda: any(name.startswith(".tmp/") for name in centre.containers()) or run.poll() is not None)
            for datanode in cluster.datanodes:
                datanode.freeze()
            begun = time.monotonic()
            report = reported(run)
        assert time.monotonic() - begun < (WRITE + READ + METADATA) * SLOW
        assert {one["study_uid"] for one in report["failed"]} == {
            ref(study[0]).study_uid for study in studies if centre.online(study)}
        for study in studies:
            if centre.online(study):
                centre.assert_given(study, tmp_path)
    eventually(lambda: not centre.migrate_again())
    for study in studies:
        assert centre.online(study) == 0
        centre.assert_given(study, tmp_path)
    assert centre.unfinished() == []


@pytest.mark.parametrize(("limit", "reason"), [
    ({"space": 1 << 20}, "archive is full: the quota of bytes is used up"),
    ({"names": 1}, "archive is full: the quota of files and folders is used up"),
], ids=["bytes", "names"])
def test_a_quota(centre: Centre, tmp_path: Path, limit: dict[str, int], reason: str) -> None:
    away, due = centre.archived(tmp_path), centre.send(tmp_path)
    root = f"{centre.place.path}/sdicom"
    centre.cluster.quota(root, **limit)
    try:
        (failed,) = centre.migrate(expect=1)["failed"]
        assert failed["reason"] == reason
        assert centre.health() == reason.partition(": ")[2]
        centre.assert_given([*away, *due], tmp_path)
    finally:
        centre.cluster.quota(root)
    assert centre.migrate()["failed"] == []
    centre.assert_given([*away, *due], tmp_path)


def test_permission_denied(centre: Centre, tmp_path: Path) -> None:
    away, due = centre.archived(tmp_path), centre.send(tmp_path)
    root = f"{centre.place.path}/sdicom"
    mode = centre.cluster.rest("GET", "GETFILESTATUS", f"{root}/.tmp").json()["FileStatus"]["permission"]
    centre.cluster.chown(f"{root}/.tmp", "stranger")
    centre.cluster.chmod(f"{root}/.tmp", "755")
    try:
        (failed,) = centre.migrate(expect=1)["failed"]
        assert failed["reason"] == "archive is not available: no permission: user broker may not write there"
        assert centre.health() == "no permission: user broker may not write there"
        assert "no permission: user broker may not write there" in " ".join(centre.region.run("check").split())
        centre.assert_given([*away, *due], tmp_path)
    finally:
        centre.cluster.chown(f"{root}/.tmp", "broker")
        centre.cluster.chmod(f"{root}/.tmp", mode)
    assert centre.migrate()["failed"] == []


def test_a_corrupted_replica_and_a_corrupted_container(centre: Centre, tmp_path: Path) -> None:
    """One replica: nobody notices. A byte that HDFS takes for right: the answer is cut, then the picture is named."""
    files = centre.archived(tmp_path, 3, 512)
    path = centre.container(files)
    centre.cluster.corrupt(path, 1)
    for _ in range(3):
        centre.assert_given(files, tmp_path)
    data = bytearray(centre.cluster.read(path))
    data[data.index(dicom.body(files[1])) + 100_000] ^= 1
    centre.cluster.delete(path)
    centre.cluster.write(path, bytes(data), user="broker")

    def cut() -> bool:
        """Whether an answer breaks off; one that does not was right: its reader was still at the blocks that were deleted."""
        answer, announced = open_answer(centre, files, lambda: None)
        assert len(answer) < announced or all(dicom.body(file) in answer for file in files)
        return len(answer) < announced
    eventually(cut)
    eventually(lambda: centre.audited("ARCHIVE-DAMAGE", "0") == 1)
    got = centre.ask(files, tmp_path)
    (problem,) = got.missing
    assert (problem.code, problem.location) == ("XDSDocumentUniqueIdError", ref(files[1]).sop_uid)
    assert "its stored copy is damaged" in problem.context
    assert {picture.sop_uid for picture in got.pictures} == {ref(files[0]).sop_uid, ref(files[2]).sop_uid}


def test_two_brokers_migrate_the_same_studies(centre: Centre, tmp_path: Path) -> None:
    studies = [centre.send(tmp_path) for _ in range(4)]
    before = len(centre.rows("container"))
    with centre.migrating() as one, centre.migrating() as other:
        reports = [reported(run) for run in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0)
    eventually(lambda: not any(map(centre.online, studies)))
    assert sum(report["packed"] for report in reports) == len(studies)
    assert len(centre.rows("container")) == before + len(studies)
    assert centre.unfinished() == []
    for study in studies:
        centre.assert_given(study, tmp_path)
