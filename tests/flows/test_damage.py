"""A byte of an archived picture changes on its disk: what consumers are given in a running region, and what is on record."""

import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.client import messages
from broker.model.imaging import InstanceRef
from broker.wire.mime import MtomBody
from tests.helpers import dicom
from tests.helpers.damage import spoil
from tests.helpers.ports import free_port
from tests.helpers.region import Region
from tests.helpers.site import IMAGES, A, Site, head, ref, rest
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.peer("orthanc"), pytest.mark.timeout(300)]

OLD = time.strftime("%Y%m%d", time.gmtime(time.time() - 500 * 86400))


@pytest.fixture(scope="module")
def pacs_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pacs_port: int) -> Iterator[Site]:
    """A region whose hospital A sends its pictures and has a PACS that may be asked."""
    changes = {"hospitals.toml": {
        'ae_title = "PACSA"': f'ae_title = "PACSA"\nhost = "127.0.0.1"\nport = {pacs_port}',
        'accession_issuer = "2.999.2.2"':
            'accession_issuer = "2.999.2.2"\n\n[hospital.limits]\nconnect_seconds = 1\nback_off_seconds = 0.5'}}
    with Region(tmp_path_factory.mktemp("damage"), changes=changes) as region:
        yield Site(region)


@pytest.fixture
def files(site: Site, tmp_path: Path) -> list[Path]:
    """A study of three pictures that is packed; their files as they were sent."""
    made = dicom.ct_study(tmp_path / "sent", 3, 64, patient=dicom.Patient(id=A.value))
    for file in made:
        dataset = pydicom.dcmread(file)
        dataset.StudyDate = OLD
        dataset.save_as(file)
    assert dicom.store(made, site.region.dicom_port, "PACSA").returncode == 0
    eventually(lambda: ("complete",) in site.rows("study", "state"), 30.0)
    site.region.run("migrate")
    assert not site.rows("instance")
    return made


def ask(site: Site, refs: list[InstanceRef]) -> bytes:
    """RAD-69 as it comes over the wire, up to where the connection ends."""
    body = MtomBody(site.envelope(messages.retrieve_images(refs), IMAGES), [])
    data = b"".join(body)
    with site.http() as connection:
        connection.settimeout(60)
        connection.sendall(head("/xds/imaging", body.content_type, f"Connection: close\r\nContent-Length: {len(data)}") + data)
        return rest(connection)


def test_a_changed_byte_is_given_to_nobody(site: Site, files: list[Path], pacs_port: int, tmp_path: Path) -> None:
    refs = [ref(file) for file in files]
    (path,), = site.rows("container", "path")
    pictures = Sdfo(OnlineStore(site.region.data / "online"), PosixStore(site.region.data / "archive"))
    spoil(pictures, path, refs[1].sop_uid)

    answer = ask(site, refs)
    top, _, body = answer.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 200 ")
    announced = next(int(line.split(b":")[1]) for line in top.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    assert len(body) < announced, "the answer ended whole"
    eventually(lambda: site.audited("RAD-69", "8") == 1)
    eventually(lambda: site.audited("ARCHIVE-DAMAGE", "0") == 1)
    assert site.rows("damage", "container, sop_uid") == [(path, refs[1].sop_uid)]

    with site.client() as client:
        got = client.images(refs, tmp_path / "second")
    assert {picture.sop_uid for picture in got.pictures} == {refs[0].sop_uid, refs[2].sop_uid}
    problem, = got.missing
    assert (problem.code, problem.location) == ("XDSDocumentUniqueIdError", refs[1].sop_uid)
    assert "its stored copy is damaged, and the PACS of a" in problem.context

    with dicom.Orthanc(tmp_path / "orthanc", "PACSA", site.region.dicom_port, port=pacs_port) as pacs:
        pacs.upload(files)
        eventually(lambda: whole(site, refs, files, tmp_path / "third"), 30.0)      # it is not asked again at once
    assert site.audited("ARCHIVE-DAMAGE", "0") == 1


def whole(site: Site, refs: list[InstanceRef], files: list[Path], folder: Path) -> bool:
    """Whether a consumer is given every picture as it was sent."""
    with site.client() as client:
        got = client.images(refs, folder)
    if got.missing:
        return False
    sent = {ref(file).sop_uid: dicom.body(file) for file in files}
    assert {picture.sop_uid: dicom.body(picture.path) for picture in got.pictures} == sent
    return True
