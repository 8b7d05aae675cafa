"""DICOM peers and small studies: dcmtk programs and Orthanc on free ports, synthetic CT files in any character set."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from broker.archive.tiers.online import OnlineStore
from broker.audit.spool import AuditLog
from broker.config.profile import Hospital, Limits, Profile
from broker.config.settings import Server as ServerSettings
from broker.config.settings import Settings
from broker.coord.base import Body, Coord, Subscription
from broker.db import Database
from broker.edge.dimse.listener import Listener
from broker.imaging.receiver import Receiver
from broker.imaging.store import studies
from broker.model.caller import Caller
from broker.model.ids import new_oid
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire import tags
from tests.helpers.ports import free_port

CT = "1.2.840.10008.5.1.4.1.1.2"
HOSPITAL = Hospital(key="a", kind="sends", domain="2.999.2.1", source_id="2.999.2", ae_title="PACSA")
READY_SECONDS = 30.0
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True, kw_only=True)
class Patient:
    """Who is on the pictures of `ct_study`."""

    id: str = "A-1"
    name: str = "Ye^XiaoDong=葉^曉東"
    birth_date: str = "19790214"
    sex: str = "F"


def ct_dataset(study_uid: str, series_uid: str, sop_uid: str, *, number: int = 1, size: int = 16,
               patient: Patient = Patient(), charset: str = "GB18030") -> Dataset:
    """Return one synthetic CT slice of `size` x `size` pixels; every pixel holds its number."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = UID(CT), UID(sop_uid)
    if charset:
        dataset.SpecificCharacterSet = charset
    for keyword, value in {
        "SOPClassUID": CT, "SOPInstanceUID": sop_uid, "StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid,
        "StudyDate": "20250301", "StudyTime": "101500", "AccessionNumber": "ACC1", "Modality": "CT", "StudyID": "S1",
        "StudyDescription": "胸部 CT", "SeriesDescription": "SYNTHETIC", "BodyPartExamined": "CHEST",
        "ReferringPhysicianName": "Lin^A=林^安", "InstitutionName": "第一人民医院", "PatientID": patient.id,
        "PatientBirthDate": patient.birth_date, "PatientSex": patient.sex, "SeriesNumber": 1, "InstanceNumber": number,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": size, "Columns": size, "BitsAllocated": 16,
        "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
    }.items():
        setattr(dataset, keyword, value)
    dataset.PatientName = patient.name
    dataset.PixelData = number.to_bytes(2, "little") * (size * size)
    return dataset


def ct_study(
    folder: Path, n: int = 3, size: int = 16, study_uid: str = "", *, series: int = 1, patient: Patient = Patient(),
    charset: str = "GB18030",
) -> list[Path]:
    """Write a CT study of `n` slices in `series` series; return the files in order."""
    folder.mkdir(parents=True, exist_ok=True)
    study_uid = study_uid or new_oid()
    series_uids = [f"{study_uid}.{number}" if len(study_uid) < 56 else new_oid() for number in range(1, series + 1)]
    files: list[Path] = []
    for number in range(1, n + 1):
        sop_uid = new_oid()
        dataset = ct_dataset(study_uid, series_uids[number % series], sop_uid, number=number, size=size, patient=patient,
                             charset=charset)
        file = folder / f"{number:04}.dcm"
        dataset.save_as(file, enforce_file_format=True)
        files.append(file)
    return files


def body(file: Path) -> bytes:
    """Return the data set of a Part-10 file: what C-STORE carries."""
    data = file.read_bytes()
    return data[tags.read_meta(data).end:]


def hospital_at(profile: Profile, key: str, port: int, *, routes: Sequence[str] = ("move",), ae_title: str = "",
                limits: Limits | None = None) -> Profile:
    """Return the profile with this hospital's PACS at a port of this machine."""
    changes: dict[str, Any] = {"host": "127.0.0.1", "port": port, "routes": tuple(routes)}
    if ae_title:
        changes["ae_title"] = ae_title
    if limits:
        changes["limits"] = limits
    hospitals = tuple(h.model_copy(update=changes) if h.key == key else h for h in profile.hospitals)
    return profile.model_copy(update={"hospitals": hospitals})


def hospital(profile: Profile, key: str) -> Hospital:
    """Return a hospital that is there."""
    found = profile.hospital(key)
    assert found is not None
    return found


def sender(ae_title: str) -> Caller:
    """Return the caller a peer with this AE title is."""
    return Caller(node=ae_title, address="127.0.0.1", local_node="BROKER")


def store(files: Iterable[Path], port: int, calling: str, called: str = "BROKER", *options: str,
          ) -> subprocess.CompletedProcess[str]:
    """Send files with dcmtk's storescu, each in the transfer syntax it has."""
    command = ["storescu", "-R", "-nh", "-aet", calling, "-aec", called, *options, "127.0.0.1", str(port)]
    return subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=60, env=_ENVIRONMENT, check=False)


@contextlib.contextmanager
def running(command: Sequence[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; enters when its port answers."""
    with (folder / "log.txt").open("wb") as log, subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=_ENVIRONMENT) as process:
        try:
            _wait_for(port, process, folder / "log.txt")
            yield process
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not answer: {log.read_text('utf-8', 'replace')[-2000:]}")


class Orthanc:
    """An Orthanc of its own in `folder`, called `ae`, that knows BROKER at `broker_port` and `others`, by AE title.

    It answers a C-FIND in `encoding` (Orthanc's own default is Latin1).

    Use as a context manager.
    """

    def __init__(self, folder: Path, ae: str, broker_port: int, broker_ae: str = "BROKER", port: int = 0, *,
                 others: Mapping[str, int] | None = None, encoding: str = "Utf8") -> None:
        self.folder, self.ae = folder, ae
        self.port, self._http = port or free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps({
            "Name": ae, "DicomAet": ae, "DicomPort": self.port, "HttpPort": self._http, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "DefaultEncoding": encoding, "DicomAlwaysAllowGet": True, "DicomAlwaysAllowFind": True, "DicomAlwaysAllowMove": True,
            "DicomModalities": {
                name: [name, "127.0.0.1", at] for name, at in {broker_ae: broker_port, **(others or {})}.items()},
            "Plugins": [], "StableAge": 1,
            "DicomServerEnabled": True, "DicomCheckCalledAet": True, "UnknownSopClassAccepted": True,
        }))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        program = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or "Orthanc"
        self._stack.enter_context(running([program, str(self.folder / "orthanc.json")], self.folder, self._http))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def upload(self, files: Iterable[Path]) -> None:
        """Put files in by REST."""
        for file in files:
            self._call("/instances", file.read_bytes())

    def instances(self) -> list[str]:
        """Return Orthanc's ids of all instances."""
        found: list[str] = json.loads(self._call("/instances"))
        return found

    def clear(self) -> None:
        """Remove everything."""
        for patient in json.loads(self._call("/patients")):
            self._call(f"/patients/{patient}", method="DELETE")

    def _call(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self._http}{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as reply:
            found: bytes = reply.read()
            return found


@contextlib.contextmanager
def dcmqrscp(
    folder: Path, ae: str, broker_port: int, files: Iterable[Path] = (), broker_ae: str = "BROKER", *, port: int = 0,
) -> Iterator[int]:
    """Run dcmtk's archive with these files in it; gives its port."""
    port = port or free_port()
    store_folder = folder / "store"
    store_folder.mkdir(parents=True, exist_ok=True)
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nbroker = ({broker_ae}, 127.0.0.1, {broker_port})\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{ae} {store_folder} RW (500, 1024mb) ANY\nAETable END\n")
    copies = [Path(shutil.copy(file, store_folder / f"{number:05}.dcm")) for number, file in enumerate(files)]
    if copies:
        subprocess.run(["dcmqridx", str(store_folder), *map(str, copies)], check=True, capture_output=True, timeout=60)
    with running(["dcmqrscp", "-c", str(folder / "dcmqrscp.cfg")], folder, port):
        yield port


@dataclass(frozen=True)
class Broker:
    """A receiver with its listener in this process."""

    listener: Listener
    receiver: Receiver
    online: OnlineStore
    database: Database
    gate: Gate
    audit_folder: Path
    stop: threading.Event

    @property
    def port(self) -> int:
        """The DICOM port."""
        return self.listener.port

    def study(self, study_uid: str, hospital: str = "a") -> studies.Study | None:
        """Return the study's row."""
        with self.database.read() as unit:
            return studies.study(unit, hospital, study_uid)

    def files(self) -> list[str]:
        """Return the relative paths of all files in the online store, unfinished ones too."""
        return sorted(str(file.relative_to(self.online.folder)) for file in self.online.folder.rglob("*") if file.is_file())

    def audited(self) -> list[str]:
        """Return the audit messages written so far."""
        return [line for file in sorted(self.audit_folder.glob("*.xml")) for line in file.read_text("utf-8").splitlines()]


def short_settings(**server: Any) -> Settings:
    """Return settings with every port free and short patience."""
    return Settings(server=ServerSettings(**{"dicom_port": 0, "io_timeout": 5.0, "idle_timeout": 20.0, **server}))


@contextlib.contextmanager
def broker(
    folder: Path, database: Database, profile: Profile, coord: Coord, *, settings: Settings | None = None,
) -> Iterator[Broker]:
    """Run a receiver and its listener on a free port."""
    settings = settings or short_settings()
    online = OnlineStore(folder / "online", fsync=False)
    gate = Gate(Open(), AuditLog(folder / "audit", "broker", "demo"))
    receiver = Receiver(database, online, profile, coord)
    receiver.start()
    listener = Listener(receiver, gate, profile, settings)
    stop = threading.Event()
    thread = threading.Thread(target=listener.serve, args=(stop,))
    thread.start()
    try:
        yield Broker(listener, receiver, online, database, gate, folder / "audit", stop)
    finally:
        stop.set()
        thread.join()
        receiver.stop()


class Board:
    """Coordination that keeps what was announced; its lock can be taken away."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, Body]] = []
        self.free = True

    def publish(self, channel: str, body: Body) -> None:
        """Keep the announcement."""
        self.announced.append((channel, body))

    def subscribe(self, *channels: str) -> Subscription:
        """Nobody listens here."""
        raise AssertionError(channels)

    def lock(self, name: str, ttl: float) -> contextlib.AbstractContextManager[bool]:
        """Return the lock when it is free."""
        return contextlib.nullcontext(self.free)

    def state(self) -> str:
        """Always well."""
        return "ok"
