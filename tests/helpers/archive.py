"""Containers in memory, small studies in a store, and a reader that follows SQL like the broker does."""

import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.archive.formats.sdicom import PackImage, Written, write_container
from broker.archive.formats.sequencefile import Pread
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.config.profile import Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from broker.files.sources import CHUNK, Octets
from broker.imaging.archiving.migrator import Migrator
from broker.imaging.store import containers, recording, studies
from broker.model.imaging import StoredObject
from tests.helpers.dicom import ct_dataset

STUDY = "1.2.840.99.1"
MARKER = bytes(range(16))
MANIFEST = {
    "study": STUDY, "hospital": "a", "part": 0, "version": 1, "patient": {"domain": "2.999.1", "value": "A-1"},
    "facts": {"PatientName": "葉^曉東"}, "publication": {"manifest_uid": "2.25.9", "entry_uuid": "urn:uuid:0"}}


def pread_of(data: bytes) -> Pread:
    """Range reads of bytes in memory."""
    return lambda offset, length: data[offset:offset + length]


def image(sop_uid: str, data: bytes, number: int = 0, series_uid: str = f"{STUDY}.1") -> PackImage:
    """An image to pack."""
    return PackImage(
        sop_uid=sop_uid, series_uid=series_uid, sop_class="1.2.840.10008.5.1.4.1.1.2", transfer_syntax="1.2.840.10008.1.2.1",
        sha256=hashlib.sha256(data).hexdigest(), source=Octets(data), number=number,
    )


def packed(images: dict[str, bytes]) -> tuple[bytes, Written]:
    """A container with these images, and what was said of it."""
    sink = io.BytesIO()
    written = write_container(
        sink, STUDY, [image(uid, data, n) for n, (uid, data) in enumerate(images.items())], {"hospital": "a"}, MARKER)
    return sink.getvalue(), written


def described_study(charset: str = "GB18030") -> bytes:
    """A container of three pictures in two series, of a patient with a Chinese name."""
    images = []
    for number, series in ((1, 1), (2, 1), (1, 2)):
        uid = f"{STUDY}.{series}"
        dataset = ct_dataset(STUDY, uid, f"{uid}.{number}", size=2, charset=charset)
        dataset.InstanceNumber, dataset.SeriesNumber = number, series
        dataset.ImagePositionPatient, dataset.PixelSpacing = [0, -1.5, 2.25 * number], ["0.50", "0.50"]
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        images.append(image(f"{uid}.{number}", file.getvalue(), number, uid))
    sink = io.BytesIO()
    write_container(sink, STUDY, images, MANIFEST, MARKER)
    return sink.getvalue()


@dataclass(frozen=True)
class Zeros:
    """`size` zero bytes that were never in memory at once."""

    size: int

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Return the bytes."""
        block, left = bytes(length), self.size
        while left:
            yield block[:left]
            left -= min(left, length)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes (hex)."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


def archive_of(sdfo: Sdfo) -> Path:
    """Return the folder of an archive that is one."""
    assert isinstance(sdfo.store, PosixStore)
    return sdfo.store.folder


class Centre:
    """Both tiers and their rows in one folder, and what ever came in. Make another one on the same folder: a restart.

    Rows are in SQLite in that folder, or where `url` says.
    """

    def __init__(self, folder: Path, profile: Profile, url: str = "", **retention: Any) -> None:
        self.database = Database(url or f"sqlite:///{folder / 'broker.db'}")
        self.profile = profile.model_copy(update={"retention": profile.retention.model_copy(update=retention)})
        self.sdfo = Sdfo(OnlineStore(folder / "online"), PosixStore(folder / "archive"))
        self.coord = LocalCoord(folder / "run")
        self.now = time.time()
        self.migrator = Migrator(self.database, self.sdfo, self.profile, self.coord, lambda: self.now)
        self.packer, self.sweeper, self.evictor = self.migrator.packer, self.migrator.sweeper, self.migrator.evictor

    def close(self) -> None:
        """Close what is open."""
        self.coord.close()
        self.database.close()

    def receive(self, images: Mapping[str, bytes], **study: str) -> int:
        """Take images of a study as the receiver does (also twice); return its row id. The study is complete then."""
        facts = {"hospital": "a", "study_uid": STUDY, "date": "20150301", "modality": "CT"} | study
        hospital, uid = facts["hospital"], facts["study_uid"]
        objects = [self._object(sop_uid, data, facts) for sop_uid, data in images.items()]
        with self.database.write() as unit:
            recording.record(unit, objects, self.profile, self.now)
            found = studies.study(unit, hospital, uid)
            assert found is not None
            studies.mark(unit, found.id, "quiet")
        return found.id

    def _object(self, sop_uid: str, data: bytes, facts: Mapping[str, str]) -> StoredObject:
        part = self.sdfo.online.begin()
        part.write(data)
        kept = part.commit(facts["hospital"], facts["study_uid"], sop_uid)
        return StoredObject(
            hospital=facts["hospital"], study_uid=facts["study_uid"], series_uid=f"{facts['study_uid']}.1", sop_uid=sop_uid,
            sop_class="1.2.840.10008.5.1.4.1.1.2", transfer_syntax="1.2.840.10008.1.2.1", path=kept.online.path,
            size=kept.online.size, sha256=kept.online.sha256,
            tags={"StudyDate": facts["date"], "Modality": facts["modality"], "PatientID": "A-1"})

    def study(self, study_uid: str = STUDY, hospital: str = "a") -> studies.Study:
        """Return the study's row."""
        with self.database.read() as unit:
            found = studies.study(unit, hospital, study_uid)
        assert found is not None
        return found

    def read(self, sop_uid: str, study_uid: str = STUDY) -> bytes:
        """Read an image the way SQL says now: online, else from the current container."""
        with self.database.read() as unit:
            study = self.study(study_uid)
            rows = {row.sop_uid: row.online for row in studies.instances(unit, study.id)}
            container = containers.current(unit, study.id)
        place = rows.get(sop_uid) or (self.sdfo.locate(container.path, sop_uid) if container else None)
        assert place is not None, f"{sop_uid} is lost"
        return b"".join(self.sdfo.open(place).chunks())

    def files(self) -> tuple[list[str], list[str]]:
        """Return the files of the online and the archive folder."""
        online, archive = (
            sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            for folder in (self.sdfo.online.folder, archive_of(self.sdfo)))
        return online, archive
