"""The database of a region is lost. What is packed comes back from the containers alone, under the UIDs it had."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests.helpers import dicom
from tests.helpers.region import Region
from tests.helpers.site import A, Site, ref
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.timeout(300)]

OLD = time.strftime("%Y%m%d", time.gmtime(time.time() - 500 * 86400))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "region").mkdir()
    with Region(tmp_path / "region") as region:
        yield Site(region)


def send(site: Site, folder: Path) -> list[Path]:
    """Send a study of two series that is old enough to be packed."""
    made = dicom.ct_study(folder, 4, 64, series=2, patient=dicom.Patient(id=A.value))
    for file in made:
        dataset = pydicom.dcmread(file)
        dataset.StudyDate = OLD
        dataset.save_as(file)
    assert dicom.store(made, site.region.dicom_port, "PACSA").returncode == 0
    return made


def published(site: Site) -> set[tuple[str, str]]:
    """uniqueId and entryUUID of every manifest that ITI-18 finds."""
    with site.client() as client:
        return {(entry.unique_id, entry.id) for entry in client.documents(client.affinity_id(A))}


def test_every_picture_is_retrieved_again(site: Site, tmp_path: Path) -> None:
    sent = [*send(site, tmp_path / "one"), *send(site, tmp_path / "two")]
    eventually(lambda: len(published(site)) == 2, 60.0)
    site.region.run("migrate")
    assert not site.rows("instance")
    before = published(site)
    rows = site.rows("study", "study_uid, hospital, part, patient_value, study_date, accession, facts")
    drilled = json.loads(site.region.run("archive", "drill", "--json").splitlines()[-1])
    assert (drilled["studies"], drilled["images"], drilled["different"]) == (2, 8, 0)

    site.region.stop()
    for file in site.region.data.glob("broker.db*"):
        file.unlink()
    done = json.loads(site.region.run("archive", "rebuild-index", "--json").splitlines()[-1])
    assert (done["studies"], done["images"], done["damaged"], done["unused"]) == (2, 8, {}, {})
    again = json.loads(site.region.run("archive", "rebuild-index", "--json").splitlines()[-1])
    assert (again["studies"], again["known"]) == (0, 2)
    assert sorted(site.rows("study", "study_uid, hospital, part, patient_value, study_date, accession, facts")) == sorted(rows)
    assert not site.rows("instance")

    site.region.start()
    assert {state for (state,) in site.rows("publication", "state")} == {"waiting_patient"}
    retrieved(site, sent, tmp_path / "unknown")         # whoever has the manifest needs no registry
    site.feed()
    eventually(lambda: published(site) == before, 60.0)
    eventually(lambda: {state for (state,) in site.rows("publication", "state")} == {"published"}, 60.0)
    retrieved(site, sent, tmp_path / "known")
    found_by_manifest(site, sent, tmp_path / "manifests")


def retrieved(site: Site, sent: list[Path], folder: Path) -> None:
    with site.client() as client:
        got = client.images([ref(file) for file in sent], folder)
    assert got.missing == ()
    assert {picture.sop_uid: dicom.body(picture.path) for picture in got.pictures} == {
        ref(file).sop_uid: dicom.body(file) for file in sent}


def found_by_manifest(site: Site, sent: list[Path], folder: Path) -> None:
    with site.client() as client:
        manifests = client.manifests(client.documents(client.affinity_id(A)), folder)
        got = client.pictures(manifests.files, folder / "pictures")
    assert {picture.sop_uid for picture in got.pictures} == {ref(file).sop_uid for file in sent}
