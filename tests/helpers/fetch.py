"""A small imaging centre in one folder: both tiers, an index, and a scripted PACS behind the Mover port."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker.archive.formats.sdicom import PackImage
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.config.profile import Hospital, Profile
from broker.coord.base import Body, Coord
from broker.coord.local import LocalCoord
from broker.db import Database, sql
from broker.files.sources import ByteSource
from broker.imaging.fetch import Retriever
from broker.imaging.fetch_worker import FetchWorker
from broker.imaging.store import fetches, recording, studies, tables
from broker.model.errors import Unavailable
from broker.model.imaging import InstanceRef, StoredObject
from broker.model.ports import Retrieved, StudyRows, Unit, Want
from tests.helpers.waiting import PATIENCE

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.70"
OURS = "2.999.1.3"
THEIRS = "2.999.3.3"


def expecting(unit: Unit, hospital: str, study_uid: str, sop_uid: str) -> int | None:
    """Return the open job of this hospital and study that expects the instance, or None: then it is a submission."""
    wanted = (hospital, study_uid, sop_uid)
    return fetches.expecting(unit, [wanted]).get(wanted)


class Lossy:
    """Coordination that forgets every announcement."""

    def __init__(self, coord: LocalCoord) -> None:
        self.subscribe, self.lock, self.state = coord.subscribe, coord.lock, coord.state

    def publish(self, channel: str, body: Body) -> None:
        """Lose it."""


def octets(sop_uid: str) -> bytes:
    """The bytes of an instance: its UID and some noise."""
    return sop_uid.encode() * 300


def read(source: ByteSource) -> bytes:
    """All bytes of a source."""
    return b"".join(source.chunks(777))


def refs_of(study_uid: str, count: int, source_uid: str, series: int = 1) -> list[InstanceRef]:
    """`count` instances in each of `series` series."""
    return [
        InstanceRef(study_uid, f"{study_uid}.{s}", f"{study_uid}.{s}.{n}", CT, source_uid)
        for s in range(1, series + 1) for n in range(1, count + 1)]


def limited(profile: Profile, key: str = "b", **limits: object) -> Profile:
    """The profile with other limits for one hospital."""
    return profile.model_copy(update={"hospitals": tuple(
        hospital.model_copy(update={"limits": hospital.limits.model_copy(update=limits)}) if hospital.key == key else hospital
        for hospital in profile.hospitals)})


@dataclass
class Centre:
    """The parts, as `app` would connect them."""

    database: Database
    online: OnlineStore
    sdfo: Sdfo
    coord: Coord
    profile: Profile

    @property
    def fetch(self) -> Retriever:
        """What a web process has."""
        return Retriever(self.database, self.coord, self.sdfo, self.profile)

    def land(self, hospital: str, refs: Sequence[InstanceRef], *, syntax: str = EXPLICIT, announce: bool = True) -> None:
        """Take objects in as the receiver does: file, rows, the fetch's note, announcement."""
        objects = [self._keep(hospital, ref, syntax) for ref in refs]
        with self.database.write() as unit:
            jobs = {item.sop_uid: expecting(unit, hospital, item.study_uid, item.sop_uid) for item in objects}
            recording.record(unit, [_with_job(item, jobs[item.sop_uid]) for item in objects], self.profile)
            for sop_uid, job in jobs.items():
                if job is not None:
                    fetches.landed(unit, job, [sop_uid])
        for sop_uid, job in jobs.items():
            if announce and job is not None:
                self.coord.publish("landed", {"job": job, "sops": sop_uid})

    def _keep(self, hospital: str, ref: InstanceRef, syntax: str) -> StoredObject:
        part = self.online.begin()
        part.write(octets(ref.sop_uid))
        kept = part.commit(hospital, ref.study_uid, ref.sop_uid).online
        return StoredObject(
            hospital, ref.study_uid, ref.series_uid, ref.sop_uid, CT, syntax, kept.path, kept.size, kept.sha256,
            {"PatientID": f"P-{hospital}", "StudyDate": "20240101"})

    def catalogue(self, refs: Sequence[InstanceRef], key: str = "b") -> None:
        """Enter what a C-FIND at the origin would have told."""
        hospital = self.profile.hospital(key)
        assert hospital is not None
        with self.database.write() as unit:
            recording.record_origin(unit, hospital, [
                {"StudyInstanceUID": ref.study_uid, "SeriesInstanceUID": ref.series_uid, "SOPInstanceUID": ref.sop_uid,
                 "SOPClassUID": CT, "PatientID": f"P-{key}"} for ref in refs])

    def pack(self, study_uid: str, *, keep_online: bool = False) -> str:
        """Move a study into a container; return its path."""
        with self.database.read() as unit:
            study = studies.find_studies(unit, study_uid=study_uid)[0]
            rows = studies.instances(unit, study.id)
        packed = self.sdfo.pack(study_uid, [
            PackImage(sop_uid=row.sop_uid, series_uid=row.series_uid, sop_class=row.sop_class, sha256=row.online.sha256,
                      transfer_syntax=row.transfer_syntax, source=self.sdfo.open(row.online)) for row in rows], {})
        with self.database.write() as unit:
            sql(unit).execute(tables.container.insert(), {
                "study_id": study.id, "path": packed.path, "size": packed.size, "sha256": packed.sha256, "images": len(rows),
                "state": "current", "at": 0.0})
            if not keep_online:
                sql(unit).execute(tables.instance.delete().where(tables.instance.c.study_id == study.id))
        if not keep_online:
            self.sdfo.drop_online([row.online.path for row in rows])
        return packed.path

    def jobs(self) -> list[tuple[str, str]]:
        """State and reason of every job, oldest first."""
        with self.database.read() as unit:
            rows = sql(unit).execute(
                tables.fetch_job.select().order_by(tables.fetch_job.c.id))
            return [(row.state, row.reason) for row in rows]


def _with_job(item: StoredObject, job: int | None) -> StoredObject:
    return StoredObject(
        item.hospital, item.study_uid, item.series_uid, item.sop_uid, item.sop_class, item.transfer_syntax, item.path,
        item.size, item.sha256, item.tags, job)


def build(database: Database, folder: Path, profile: Profile) -> Centre:
    """A centre in `folder`. Close its `coord` in the end."""
    online = OnlineStore(folder / "online", fsync=False)
    online.folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "archive"
    archive.mkdir(exist_ok=True)
    return Centre(database, online, Sdfo(online, PosixStore(archive)), LocalCoord(folder / "run"), profile)


@dataclass
class Pacs:
    """An origin's PACS behind the Mover port. `script` says what one request delivers; None = everything it asks for.

    A script may raise `Unavailable` or `RetrieveFailed`, and may deliver before it does.
    """

    centre: Centre
    holds: list[InstanceRef] = field(default_factory=list)
    script: Callable[["Pacs", Want, Callable[[], bool]], Retrieved | None] | None = None
    answers: bool = True
    slow: float = 0.0
    asked: list[Want] = field(default_factory=list)
    echoes: int = 0
    at_once: int = 0
    most_at_once: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def echo(self, hospital: Hospital) -> None:
        """C-ECHO."""
        self.echoes += 1
        if not self.answers:
            raise Unavailable(f"PACS {hospital.key}")

    def find_study(self, hospital: Hospital, study_uid: str) -> StudyRows:
        """Never asked here."""
        raise AssertionError

    def retrieve(self, hospital: Hospital, want: Want, progress: Callable[[], bool]) -> Retrieved:
        """C-MOVE. A script that returns nothing ends with success."""
        with self._guard:
            self.asked.append(want)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.slow)
            if not self.answers:
                raise Unavailable(f"PACS {hospital.key}")
            if self.script is not None:
                return self.script(self, want, progress) or Retrieved()
            self.deliver(self.matching(want))
            return Retrieved()
        finally:
            with self._guard:
                self.at_once -= 1

    def matching(self, want: Want) -> list[InstanceRef]:
        """What a request names."""
        return [
            ref for ref in self.holds
            if ref.study_uid == want.study_uid and (not want.series_uids or ref.series_uid in want.series_uids)
            and (not want.sop_uids or ref.sop_uid in want.sop_uids)]

    def deliver(self, refs: Sequence[InstanceRef], hospital: str = "b") -> None:
        """Send objects to the receiver, one by one."""
        for ref in refs:
            self.centre.land(hospital, [ref])


@contextmanager
def working(centre: Centre, pacs: Pacs, owner: str = "") -> Iterator[FetchWorker]:
    """Run a fetch worker in a thread."""
    worker = FetchWorker(centre.database, centre.coord, pacs, centre.profile, owner, grace=0.3)
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        centre.coord.publish("fetch", {"job": None})
        thread.join(PATIENCE)
        assert not thread.is_alive()
