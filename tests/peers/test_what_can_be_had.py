"""PACS that cannot send some of a study's objects: what can be had is had, the rest is named, and soon."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from broker.archive.sdfo import Sdfo
from broker.archive.tiers.posix import PosixStore
from broker.config.profile import Hospital, Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from broker.edge.dimse.scu import Scu
from broker.imaging import receiver
from broker.imaging.fetch import Retriever, RetrieveResult
from broker.imaging.fetch_worker import FetchWorker
from broker.imaging.store import recording
from broker.model.errors import DimseCode, Rejected
from broker.model.ids import new_oid
from broker.model.imaging import InstanceRef
from broker.model.ports import Retrieved, Want
from tests.helpers import dicom
from tests.helpers.dicom import Orthanc
from tests.helpers.site import THEIRS, ref

MR, PRIVATE, JPEG, HTJ2K = (
    "1.2.840.10008.5.1.4.1.1.4", "1.3.12.2.1107.5.9.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.201")
# Storage classes, some beyond those that a C-GET proposes at first when the PACS does not name any.
MANY = [f"1.2.840.10008.5.1.4.1.1.{n}" for n in (
    "2", "4", "7", "1", "1.1", "1.2", "6.1", "3.1", "12.1", "12.2", "20", "128", "88.11", "88.22", "88.33", "88.59", "11.1",
    "104.1", "481.1", "481.2", "481.3", "481.5", "66", "66.4")]


class CountingScu(Scu):
    """Counts its retrieves."""

    retrieves = 0

    def retrieve(self, hospital: Hospital, want: Want, progress: Callable[[], bool]) -> Retrieved:
        """Count, then retrieve."""
        self.retrieves += 1
        return super().retrieve(hospital, want, progress)


@dataclass
class Origin:
    """Hospital B with its PACS, and a fetch process."""

    fetch: Retriever
    scu: CountingScu
    refs: list[InstanceRef]

    def gather(self) -> RetrieveResult:
        return self.fetch.retrieve(self.refs)


def made(folder: Path, *objects: tuple[int, str, str]) -> list[Path]:
    """Write a study; `objects` are (series, SOP class, transfer syntax or empty)."""
    folder.mkdir()
    study, series, files = new_oid(), {number: new_oid() for number, _, _ in objects}, list[Path]()
    for n, (number, sop_class, syntax) in enumerate(objects):
        dataset = dicom.ct_dataset(study, series[number], new_oid(), number=n + 1)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        if syntax:
            dataset.file_meta.TransferSyntaxUID = UID(syntax)
            dataset.PixelData = encapsulate([bytes(64)])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        files.append(folder / f"{n:04}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


@contextlib.contextmanager
def origin(kind: str, route: str, folder: Path, database: Database, profile: Profile, files: list[Path],
           **hospital: Any) -> Iterator[Origin]:
    """Run a PACS with these files, and all it takes to fetch from it. `hospital` is what else the profile says of it."""
    profile = profile.model_copy(update={"hospitals": tuple(
        one.model_copy(update=hospital) if one.key == "b" else one for one in profile.hospitals)})
    with contextlib.closing(LocalCoord(folder / "run")) as coord, dicom.broker(folder, database, profile, coord) as broker, (
            contextlib.ExitStack()) as stack:
        if kind == "orthanc":
            orthanc = stack.enter_context(Orthanc(folder / "orthanc", "PACSB", broker.port))
            orthanc.upload(files)
            port = orthanc.port
        else:
            port = stack.enter_context(dicom.dcmqrscp(folder / "pacs", "PACSB", broker.port, files))
        at = dicom.hospital_at(profile, "b", port, routes=route.split())
        scu = CountingScu(at, dicom.short_settings(), broker.receiver, broker.gate)
        found = scu.find_study(dicom.hospital(at, "b"), ref(files[0]).study_uid)
        assert len(found) == len(files)
        with database.write() as unit:
            recording.record_origin(unit, dicom.hospital(at, "b"), found)
        worker, stop = FetchWorker(database, coord, scu, at), threading.Event()
        thread = threading.Thread(target=worker.run, args=(stop,))
        thread.start()
        try:
            yield Origin(Retriever(database, coord, Sdfo(broker.online, PosixStore(folder / "archive")), at), scu,
                         [ref(file, THEIRS) for file in files])
        finally:
            stop.set()
            coord.publish("fetch", {"job": None})
            thread.join()


PEERS = [pytest.param(kind, route, marks=pytest.mark.peer({"dcmqrscp": "dcmtk"}.get(kind, kind)))
         for kind in ("orthanc", "dcmqrscp") for route in ("move", "get")]


@pytest.mark.parametrize(("kind", "route"), PEERS)
@pytest.mark.parametrize("series", [(1, 2, 3), (1, 1, 1), (1, 2, 2)], ids=["own series", "one series", "beside one"])
def test_a_private_class_beside_others(
        kind: str, route: str, series: tuple[int, ...], tmp_path: Path, database: Database, profile: Profile) -> None:
    files = made(tmp_path / "in", *zip(series, (MR, MR, PRIVATE), ("", "", ""), strict=True))
    with origin(kind, route, tmp_path, database, profile, files) as pacs:
        got = pacs.gather()
        asked = pacs.scu.retrieves
        again = pacs.gather()
        assert pacs.scu.retrieves == asked
    good, bad = [ref(file, THEIRS).sop_uid for file in files[:2]], ref(files[2]).sop_uid
    for one in (got, again):
        assert sorted(found.sop_uid for found in one.found) == sorted(good)
        assert [(missing.sop_uid, "did not send it" in why) for missing, why in one.missing.items()] == [(bad, True)]
    assert asked <= 8
    for found in got.found.values():
        sent = pydicom.dcmread(next(file for file in files if ref(file).sop_uid == found.ref.sop_uid))
        (tmp_path / "got.dcm").write_bytes(b"".join(found.source.chunks()))
        assert pydicom.dcmread(tmp_path / "got.dcm").PixelData == sent.PixelData


@pytest.mark.parametrize(("kind", "route"), PEERS[:2])
def test_a_private_class_that_the_profile_names_comes(
        kind: str, route: str, tmp_path: Path, database: Database, profile: Profile) -> None:
    """From Orthanc; dcmqrscp sends no private class to anybody."""
    files = made(tmp_path / "in", (1, MR, ""), (2, PRIVATE, ""))
    with origin(kind, route, tmp_path, database, profile, files, sop_classes=(PRIVATE,)) as pacs:
        assert {found.sop_uid for found in pacs.gather().found} == {ref(file).sop_uid for file in files}
        assert pacs.scu.retrieves == 1


@pytest.mark.parametrize(("kind", "route", "never"), [
    pytest.param(*PEERS[0].values, {HTJ2K}, marks=PEERS[0].marks), pytest.param(*PEERS[1].values, {HTJ2K}, marks=PEERS[1].marks),
    pytest.param(*PEERS[2].values, {HTJ2K, JPEG}, marks=PEERS[2].marks),
    pytest.param(*PEERS[3].values, {HTJ2K, JPEG}, marks=PEERS[3].marks)])
def test_many_classes_in_syntaxes_that_the_pacs_cannot_send(
        kind: str, route: str, never: set[str], tmp_path: Path, database: Database, profile: Profile) -> None:
    """Orthanc 1.10 knows no HTJ2K; dcmqrscp names no classes, and sends what is not compressed."""
    syntaxes = ["", JPEG, HTJ2K] * 8
    files = made(tmp_path / "in", *zip([1, 2, 3, 4] * 6, MANY, syntaxes, strict=True))
    syntax_of = {ref(file).sop_uid: syntax for file, syntax in zip(files, syntaxes, strict=True)}
    with origin(kind, route, tmp_path, database, profile, files) as pacs:
        got = pacs.gather()
        asked = pacs.scu.retrieves
    came, missing = {found.sop_uid for found in got.found}, {one.sop_uid for one in got.missing}
    assert came | missing == syntax_of.keys()
    assert {syntax_of[uid] for uid in missing} <= never
    assert asked <= 40


@pytest.mark.parametrize(("kind", "route"), PEERS)
def test_an_object_we_refuse_keeps_nothing_else_away(
        kind: str, route: str, tmp_path: Path, database: Database, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    files = made(tmp_path / "in", *((1, MR, "") for _ in range(9)))
    bad = ref(files[4]).sop_uid
    with origin(kind, route, tmp_path, database, profile, files) as pacs:
        _refuse(monkeypatch, bad)
        got = pacs.gather()
        asked = pacs.scu.retrieves
    assert [missing.sop_uid for missing in got.missing] == [bad]
    assert len(got.found) == 8
    assert asked <= 12


def _refuse(monkeypatch: pytest.MonkeyPatch, sop_uid: str) -> None:
    """Have the receiver take everything but this."""
    commit = receiver.ReceivedFile.commit

    def refusing(self: receiver.ReceivedFile) -> int:
        if self._meta.sop_uid == sop_uid:
            self.abort()
            raise Rejected(DimseCode.CANNOT_UNDERSTAND, "the data set cannot be read")
        return commit(self)

    monkeypatch.setattr(receiver.ReceivedFile, "commit", refusing)
