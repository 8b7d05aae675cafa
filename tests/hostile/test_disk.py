"""Disks that are full: each door says so in the words of its standard, nothing is half there, and it goes on with room again."""

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from broker.edge.dimse import pdata
from broker.edge.dimse.pdata import CommandSet
from broker.model.ids import new_oid
from broker.model.imaging import InstanceRef
from broker.wire.ebxml import read_registry_response
from broker.wire.xml import RS
from tests.helpers import dicom, mllp
from tests.helpers.bad_pacs import SUCCESS, BadPacs
from tests.helpers.dicom import CT
from tests.helpers.dimse import Parrot, store_request
from tests.helpers.mllp import segment
from tests.helpers.region import Region
from tests.helpers.site import LIMITS, THEIRS, A, Site, adt, ref
from tests.helpers.waiting import eventually

SIZES = {"": "24m", "online": "6m", "documents": "3m", "archive": "3m", "audit": "1m"}
pytestmark = [pytest.mark.peer("mount"), pytest.mark.peer("dcmtk")]
EXPLICIT = "1.2.840.10008.1.2.1"
UNABLE = 0xA702         # out of resources, unable to perform the sub-operations (PS3.4 C.4.2.1.5)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A region of its own, each of its stores on a small disk."""
    folder = tmp_path_factory.mktemp("disk")
    changes = {"retention.toml": {"quiet_seconds = 2": "quiet_seconds = 3600"}, "hospitals.toml": {
        "idle_seconds = 20": "idle_seconds = 4", "total_seconds = 120": "total_seconds = 15\nback_off_seconds = 0.5"}}
    with contextlib.ExitStack() as stack:
        region = Region(folder, server=LIMITS, changes=changes)
        for name, size in SIZES.items():
            place = region.data / name
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
        stack.enter_context(region)
        yield Site(region)


@contextlib.contextmanager
def full(folder: Path, leave: int = 0) -> Iterator[None]:
    """Fill the disk of a folder but for some bytes."""
    filler = folder / ".filler"
    handle = os.open(filler, os.O_CREAT | os.O_WRONLY)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(handle, b"\0" * 65536)
        with contextlib.suppress(OSError):
            while True:
                os.write(handle, b"\0" * 512)
        os.ftruncate(handle, max(0, os.fstat(handle).st_size - leave))
        yield
    finally:
        os.close(handle)
        filler.unlink()


def stored(site: Site, fed: int) -> list[object]:
    return [item for item in site.stored(fed) if ".filler" not in str(item)]


@contextlib.contextmanager
def unchanged(site: Site) -> Iterator[None]:
    """All but one good feed."""
    before = stored(site, 0)
    yield
    with contextlib.suppress(AssertionError):
        eventually(lambda: stored(site, 1) == before)
    assert stored(site, 1) == before


def codes(site: Site, data: bytes) -> list[str]:
    body = site.provide(site.objects(data), data)
    reply = site.post("/xds/repository", body, body.content_type)
    assert (reply.status, reply.fault) == (200, ""), reply.body[:500]
    return [problem.code for problem in read_registry_response(next(reply.root().iter(f"{{{RS}}}RegistryResponse"))).problems]


def store(site: Site, file: Path, calling: str = "PACSA") -> int:
    with Parrot(site.region.dicom_port) as peer:
        assert peer.associate([(CT, EXPLICIT)], calling)[0] == 2
        peer.say(store_request(1, CT, ref(file).sop_uid, dicom.body(file)))
        status = peer.answer().number(pdata.STATUS)
        peer.release()
    return status


@pytest.mark.parametrize("leave", [0, 40_000], ids=["from the first byte", "in the middle"])
def test_a_full_online_store(small: Site, tmp_path: Path, leave: int) -> None:
    (file,) = dicom.ct_study(tmp_path, 1, 300)
    with full(small.region.data / "online", leave), unchanged(small):
        assert store(small, file) == 0xA700
        small.feed()
        small.query()
    assert store(small, file) == 0
    eventually(lambda: small.known(ref(file).sop_uid))
    small.goes_on(tmp_path)


def test_a_fetch_into_a_full_online_store(small: Site, tmp_path: Path) -> None:
    """The PACS hears that there is no room, the consumer what it does not get; with room again the same call has it all."""
    files = dicom.ct_study(tmp_path / "pacs", 2, 300, patient=dicom.Patient(id=A.value))
    refs = [ref(file, THEIRS) for file in files]
    heard: list[int] = []

    def honest(one: BadPacs, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        statuses = [store(small, file, one.ae) for file in wanted]
        heard.extend(statuses)
        peer.respond(command, UNABLE if any(statuses) else SUCCESS)

    with contextlib.closing(BadPacs(small.region.pacs_port, small.region.dicom_port)) as pacs:
        pacs.holds += files
        pacs.move = honest
        small.catalogue(refs, A.value)
        with full(small.region.data / "online"):
            before = small.files()
            with small.client() as client:
                got = client.images(refs, tmp_path / "got")
            assert got.pictures == ()
            assert sorted((problem.code, problem.location) for problem in got.missing) == sorted(
                ("XDSDocumentUniqueIdError", one.sop_uid) for one in refs)
            assert all("0xA702" in problem.context for problem in got.missing), got.missing[0].context
            assert set(heard) == {0xA700}
            assert {state for (state,) in small.rows("fetch_job", "state")} == {"failed"}
            assert small.files() == before
        eventually(lambda: not missing(small, refs, tmp_path / "again"))
        eventually(lambda: max(small.rows("fetch_job", "id, state"))[1] == "done")
    small.goes_on(tmp_path)


def missing(site: Site, refs: Sequence[InstanceRef], folder: Path) -> bool:
    with site.client() as client:
        return bool(client.images(refs, folder).missing)


@pytest.mark.parametrize("leave", [0, 40_000], ids=["from the first byte", "in the middle"])
def test_full_documents(small: Site, tmp_path: Path, leave: int) -> None:
    data = os.urandom(200_000)
    with full(small.region.data / "documents", leave), unchanged(small):
        failed = small.audited("ITI-41", "8")
        assert codes(small, data) == ["XDSRepositoryOutOfResources"]
        assert small.audited("ITI-41", "8") == failed + 1
        small.feed()
        small.query()
    assert codes(small, data) == []
    small.goes_on(tmp_path)


def test_a_full_archive(small: Site, tmp_path: Path) -> None:
    """Packing is tried again later; until then the online copy stays and is given."""
    files = small.store(tmp_path, 3, size=128, study_uid=new_oid())
    eventually(lambda: all(small.known(ref(file).sop_uid) for file in files))
    make_due(small, ref(files[0]).study_uid)
    with full(small.region.data / "archive"):
        small.region.run("migrate", expect=1)
        with small.client() as client:
            got = client.images([ref(file) for file in files], tmp_path / "got")
        assert got.missing == ()
        assert [path for path in small.files() if path.startswith("archive/") and ".filler" not in path] == []
    small.region.run("migrate")         # or the worker, which looks once a minute, was quicker
    eventually(lambda: not [name for name in small.files() if name.startswith("online/") and ref(files[0]).study_uid in name])
    with small.client() as client:
        got = client.images([ref(file) for file in files], tmp_path / "again")
    assert {picture.sop_uid: dicom.body(picture.path) for picture in got.pictures} == {
        ref(file).sop_uid: dicom.body(file) for file in files}


def test_the_worker_with_a_full_archive(small: Site, tmp_path: Path) -> None:
    """Its own round, once a minute and at its start: logged, nothing half there, the others go on; later it is packed."""
    files = small.store(tmp_path, 3, size=128, study_uid=new_oid())
    eventually(lambda: all(small.known(ref(file).sop_uid) for file in files))
    said = small.region.logs().count("a study was not archived")
    with full(small.region.data / "archive"):
        packed = [path for path in small.files() if path.startswith("archive/") and ".filler" not in path]
        make_due(small, ref(files[0]).study_uid)
        restart_worker(small)
        eventually(lambda: small.region.logs().count("a study was not archived") == said + 1, 90)
        assert [path for path in small.files() if path.startswith("archive/") and ".filler" not in path] == packed
        assert not missing(small, [ref(file) for file in files], tmp_path / "got")
        small.goes_on(tmp_path)
    restart_worker(small)                   # else it tries again in an hour
    eventually(lambda: len([path for path in small.files() if path.startswith("archive/")]) == len(packed) + 1, 90)
    assert not missing(small, [ref(file) for file in files], tmp_path / "again")


def restart_worker(site: Site) -> None:
    """Kill the broker's worker; its supervisor starts another one."""
    (worker,) = (process for process in psutil.Process(site.region.pid).children(recursive=True)
                 if process.name() == "broker-worker")
    worker.kill()
    site.region.wait_healthy()


def make_due(site: Site, study_uid: str) -> None:
    with contextlib.closing(sqlite3.connect(site.region.data / "broker.db")) as connection, connection:
        connection.execute("UPDATE study SET state = 'complete' WHERE study_uid = ?", (study_uid,))


def test_a_full_audit_disk_costs_the_record_not_the_work(small: Site, tmp_path: Path) -> None:
    with full(small.region.data / "audit"):
        small.goes_on(tmp_path)
        assert "records lost" in small.region.health()["dependencies"]["audit spool"]
    assert "audit record lost" in small.region.logs()
    before = small.audited("ITI-8", "0")
    small.feed()
    assert small.audited("ITI-8", "0") == before + 1


def test_a_full_database(small: Site, tmp_path: Path) -> None:
    """What needs a row is refused as busy or out of resources; nothing is lost, and reading goes on."""
    data = os.urandom(20_000)
    (file,) = dicom.ct_study(tmp_path / "late", 1)
    with full(small.region.data):
        files = [path for path in small.files() if path.startswith("documents/")]
        answer = mllp.send(small.region.mllp_port, adt("full", "F-1", name="~".join(["X" * 250] * 12)))
        assert segment(answer, "MSA")[1:3] == ["AR", "full"]
        assert mllp.codes(answer) == ["207"]
        assert codes(small, data)[0] in {"XDSRepositoryOutOfResources", "XDSRepositoryBusy", "XDSRegistryNotAvailable"}
        assert [path for path in small.files() if path.startswith("documents/")] == files
        status = store(small, file)
        small.query()
    assert ("F-1",) not in small.rows("patient_identity", "value")
    if status == 0:                         # the file is durable: its row follows
        eventually(lambda: small.known(ref(file).sop_uid))
    assert codes(small, data) == []
    small.goes_on(tmp_path)
