"""Contents that are broken inside whole messages and files: manifests that contradict themselves, containers that rot."""

import contextlib
import copy
import io
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from broker.client.consult import Manifests
from broker.model.imaging import InstanceRef
from broker.model.metadata import DocumentEntry
from tests.helpers import dicom, manifests
from tests.helpers.site import Site, ref
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk")]


def only_in_evidence(manifest: Dataset) -> None:
    del manifest.ContentSequence[0]


def only_in_content(manifest: Dataset) -> None:
    manifest.ContentSequence.append(copy.deepcopy(manifest.ContentSequence[0]))
    manifest.ContentSequence[-1].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.100.9"


def of_another_class(manifest: Dataset) -> None:
    manifest.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPClassUID = manifests.SR


def repeated(manifest: Dataset) -> None:
    manifest.ContentSequence.append(copy.deepcopy(manifest.ContentSequence[0]))
    listed = manifest.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    listed.append(copy.deepcopy(listed[0]))


def edited(edit: Callable[[Dataset], None]) -> bytes:
    """Return a manifest whose evidence (three instances) or content was changed."""
    dataset = pydicom.dcmread(io.BytesIO(manifests.kos(manifests.study())))
    edit(dataset)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("edit", [only_in_evidence, only_in_content, of_another_class])
def test_a_manifest_with_mismatched_lists_is_named_and_the_others_are_read(
        site: Site, tmp_path: Path, edit: Callable[[Dataset], None]) -> None:
    """A repository keeps what it is given (ITI TF-2 3.41); who reads the manifest must not believe it (RAD TF-3 4.68)."""
    ids = [site.submit(tmp_path, data) for data in (manifests.kos(manifests.study()), edited(edit))]
    found = read(site, ids, tmp_path / "manifests")
    assert [(problem.code, problem.location) for problem in found.missing] == [("InvalidDocumentContent", ids[1])]
    assert [(one.entry.unique_id, len(one.images)) for one in found.files] == [(ids[0], 3)]


def test_an_instance_named_twice_is_asked_for_once(site: Site, tmp_path: Path) -> None:
    ids = [site.submit(tmp_path, edited(repeated))]
    found = read(site, ids, tmp_path / "manifests")
    assert found.missing == ()
    assert [[image.sop_uid for image in one.images] for one in found.files] == [["2.25.100.1.1", "2.25.100.1.2", "2.25.100.2.1"]]


def read(site: Site, ids: list[str], folder: Path) -> Manifests:
    """Return the manifests among the patient's documents."""
    with site.client() as client:
        entries: list[DocumentEntry] = [entry for entry in client.documents(site.patient) if entry.unique_id in ids]
        assert len(entries) == len(ids)
        return client.manifests(entries, folder)


@dataclass
class Packed:
    """A study that is in the archive only."""

    site: Site
    files: list[Path]
    container: Path

    def missing(self, folder: Path) -> list[str]:
        """RAD-69 for all of it; return what cannot be had."""
        refs: list[InstanceRef] = [ref(file) for file in self.files]
        with self.site.client() as client:
            got = client.images(refs, folder)
        bodies = {ref(file).sop_uid: dicom.body(file) for file in self.files}
        assert all(dicom.body(picture.path) == bodies[picture.sop_uid] for picture in got.pictures)
        assert {problem.code for problem in got.missing} <= {"XDSDocumentUniqueIdError"}
        return sorted(problem.location for problem in got.missing)


@pytest.fixture(scope="module")
def packed(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    files = site.store(tmp_path_factory.mktemp("packed"), 3, size=64)
    eventually(lambda: all(site.known(ref(file).sop_uid) for file in files))
    with contextlib.closing(sqlite3.connect(site.region.data / "broker.db", timeout=10)) as connection, connection:
        connection.execute("UPDATE study SET state = 'complete' WHERE study_uid = ?", (ref(files[0]).study_uid,))
    site.region.run("migrate")          # or the worker, which looks once a minute, was quicker
    eventually(lambda: not [name for name in site.files() if name.startswith("online/") and ref(files[0]).study_uid in name])
    (container,) = (site.region.data / "archive").rglob("*.seq")
    return Packed(site, files, container)


def flipped(data: bytes, files: list[Path]) -> bytes:
    """One bit of the pixels of the second image."""
    place = data.index(dicom.body(files[1])[-2000:]) + 1000
    return data[:place] + bytes((data[place] ^ 1,)) + data[place + 1:]


def retrieved(site: Site) -> dict[str, int]:
    """Return the number of audited RAD-69 by outcome."""
    return {outcome: site.audited("RAD-69", outcome) for outcome in ("0", "4", "8", "12")}


@pytest.mark.parametrize(("spoil", "sure"), [
    (lambda data, _files: data[:-1], []),
    (lambda data, _files: data[:-20] + bytes((data[-20] ^ 1,)) + data[-19:], []),
    (flipped, [1]),
    (lambda data, _files: data[:len(data) // 2], [2]),
    (lambda _data, _files: b"", [0, 1, 2]),
], ids=["last byte missing", "flipped byte in the index", "flipped byte in an image", "half", "empty"])
def test_a_rotten_container_gives_nothing_wrong(
        packed: Packed, tmp_path: Path, spoil: Callable[[bytes, list[Path]], bytes], sure: list[int]) -> None:
    """`sure` are lost. Who remembers the index reads the others on, who does not gives none: never other bytes."""
    whole = packed.container.read_bytes()
    (near,) = packed.site.store(tmp_path)
    eventually(lambda: packed.site.known(ref(near).sop_uid))
    try:
        packed.container.write_bytes(spoil(whole, packed.files))
        said, outcomes = len(packed.site.region.logs()), retrieved(packed.site)
        missing = set(packed.missing(tmp_path / "rotten"))
        log = packed.site.region.logs()[said:]
        assert packed.container.name in log or all(sop_uid in log for sop_uid in missing)
        told = {outcome for outcome, count in retrieved(packed.site).items() if count > outcomes[outcome]}
        # an answer that is cut at a picture that is not what was packed is audited twice: what is given, that it did not arrive
        cut = {"8"} if spoil is flipped else set()
        assert told == cut | ({"4"} if len(missing) == len(packed.files) else {"0"})
        assert missing >= {ref(packed.files[n]).sop_uid for n in sure}
        if spoil is flipped:
            assert len(missing) == 1
        with packed.site.client() as client:
            assert client.images([ref(near)], tmp_path / "near").missing == ()
    finally:
        packed.container.write_bytes(whole)
        packed.site.region.run("archive", "verify", "--days", "0")      # what is quarantined and whole again is given again
    assert packed.missing(tmp_path / "whole") == []
