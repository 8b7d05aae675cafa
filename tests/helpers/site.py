"""A running region as a hostile world meets it: raw doors, what is stored, and whether the service goes on."""

import contextlib
import email.parser
import hashlib
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pydicom

import broker.app.whole  # noqa: F401 - it declares every table
from broker.client import messages
from broker.client.consult import Consultation
from broker.config import profile as profiles
from broker.config.profile import Profile
from broker.db import Database, metadata
from broker.files.sources import Octets
from broker.imaging.store import recording
from broker.model.ids import PatientId, new_oid, new_uuid_urn
from broker.model.imaging import InstanceRef
from broker.model.metadata import RegistryObjects
from broker.wire.envelope import write_request
from broker.wire.mime import MtomBody
from broker.wire.soap import Part
from tests.helpers import dicom, manifests, mllp
from tests.helpers.region import Region
from tests.helpers.soap import Reply
from tests.helpers.waiting import eventually

A = PatientId("2.999.2.1", "A-1001")
XAD = "2.999.1.1"
OURS, THEIRS, REPOSITORY = "2.999.1.3", "2.999.3.3", "2.999.1.2"
PROVIDE = "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b"
RETRIEVE = "urn:ihe:iti:2007:RetrieveDocumentSet"
IMAGES = "urn:ihe:rad:2009:RetrieveImagingDocumentSet"
QUERY = "urn:ihe:iti:2007:RegistryStoredQuery"
SOAP_TYPE = "application/soap+xml; charset=utf-8"
LIMITS = {
    "io_timeout": 2.0, "idle_timeout": 3.0, "min_rate": 1000, "max_request": 1 << 20, "max_body": 8 << 20, "max_parts": 20,
    "max_listed": 1000, "max_message": 64 << 10, "threads": 16, "retrieve_slots": 4, "max_associations": 32,
    "mllp_connections": 32}
# What a good feed of a known patient moves: it adds a row to two tables, stamps its record and draws its links anew.
LOGS = ("patient_event", "patient_message")
STAMPS = {"patient_identity": ("message_id", "updated_at"), "patient_link": ("at",)}
FOLDERS = ("documents", "online", "archive")


def adt(control: str, value: str = A.value, *, version: str = "2.3.1", pid3: str | None = None, name: str = "葉^曉東",
        kind: str = "ADT^A04^ADT_A01") -> str:
    """Return a feed of hospital A."""
    cx = f"{value}^^^HOSPA&2.999.2.1&ISO^PI" if pid3 is None else pid3
    return (f"MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20261101101500||{kind}|{control}|P|{version}||||||GB 18030-2000\n"
            f"EVN||20261101101500\nPID|||{cx}||{name}^^^^^L||19790214|F\nPV1||O\n")


def rest(connection: socket.socket) -> bytes:
    """Return everything until the peer closes."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            data += piece
    return data


def read_http(data: bytes) -> Reply:
    """Return a whole HTTP/1.1 answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, _, fields = head.decode("latin-1").partition("\r\n")
    headers = dict(email.parser.Parser().parsestr(fields).items())
    return Reply(int(line.split()[1]), headers, body[:int(headers.get("Content-Length", len(body)))])


def ref(file: Path, source: str = OURS) -> InstanceRef:
    """Return the instance in a file as a consumer asks for it."""
    dataset = pydicom.dcmread(file, stop_before_pixels=True)
    return InstanceRef(
        str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID),
        str(dataset.SOPClassUID), source)


@dataclass
class Site:
    """A region with one registered patient."""

    region: Region
    profile: Profile = field(init=False)
    patient: PatientId = field(init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 30)))

    def __post_init__(self) -> None:
        self.profile = profiles.load(str(self.region.folder / "region"))
        self.feed()
        with self.client() as client:
            self.patient = client.affinity_id(A)

    def number(self) -> int:
        """Return a number not given before."""
        return next(self._numbers)

    def client(self) -> Consultation:
        """Return a consultation client."""
        return Consultation(self.region.url, self.profile)

    # --- the good calls

    def feed(self, value: str = A.value) -> None:
        """ITI-8."""
        control = f"good-{self.number()}"
        assert mllp.segment(mllp.send(self.region.mllp_port, adt(control, value)), "MSA")[1:3] == ["AA", control]

    def query(self) -> int:
        """ITI-18; return the number of documents."""
        with self.client() as client:
            return len(client.documents(self.patient))

    def store(self, folder: Path, count: int = 1, calling: str = "PACSA", size: int = 16, **options: Any) -> list[Path]:
        """Store a fresh study by storescu; return its files."""
        files = dicom.ct_study(folder / new_oid(), count, size, patient=dicom.Patient(id=A.value), **options)
        done = dicom.store(files, self.region.dicom_port, calling)
        assert done.returncode == 0, done.stdout + done.stderr
        return files

    def submit(self, folder: Path, data: bytes = b"a report") -> str:
        """ITI-41; return the document's uniqueId."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"report-{self.number()}"
        file.write_bytes(data)
        objects = self.objects(data)
        with self.client() as client:
            assert client.submit(objects, {objects.documents[0].id: file}, folder) == ()
        return objects.documents[0].unique_id

    def goes_on(self, folder: Path) -> None:
        """Every door does its work."""
        self.feed()
        self.query()
        (file,) = self.store(folder)
        self.submit(folder)
        eventually(lambda: self.known(ref(file).sop_uid))
        with self.client() as client:
            got = client.images([ref(file)], folder / "got")
        assert got.missing == ()
        assert dicom.body(got.pictures[0].path) == dicom.body(file)

    # --- messages

    def objects(self, data: bytes, patient: PatientId | None = None, **changes: Any) -> RegistryObjects:
        """Return metadata of one document with these bytes."""
        made = manifests.metadata(self.profile, data, patient=patient or self.patient)
        return replace(made, documents=(replace(made.documents[0], **changes),)) if changes else made

    def provide(
        self, objects: RegistryObjects, *documents: bytes, surplus: tuple[bytes, ...] = (), lost: int = 0,
    ) -> MtomBody:
        """Return an ITI-41 request; `surplus` are attachments nothing refers to, the `lost` last ones are not sent."""
        names = {entry.id: f"doc{n}@test" for n, entry in enumerate(objects.documents[:len(documents)])}
        parts = [Part(content_id=name, media_type="application/octet-stream", source=Octets(data))
                 for name, data in zip((*names.values(), *(f"more{n}@test" for n in range(len(surplus)))),
                                       (*documents, *surplus), strict=True)]
        return MtomBody(self.envelope(messages.provide(objects, names), PROVIDE), parts[:len(parts) - lost])

    @staticmethod
    def envelope(body: bytes, action: str) -> bytes:
        """Return a SOAP request."""
        return write_request(body, action=action, to="http://broker/", message_id=new_uuid_urn())

    def catalogue(self, refs: Sequence[InstanceRef], patient: str = dicom.Patient().id) -> None:
        """Enter what a C-FIND tells of a study that only hospital B has; its pictures must name the same `patient`."""
        with contextlib.closing(Database(f"sqlite:///{self.region.data / 'broker.db'}")) as database, database.write() as unit:
            recording.record_origin(unit, dicom.hospital(self.profile, "b"), [
                {"StudyInstanceUID": one.study_uid, "SeriesInstanceUID": one.series_uid, "SOPInstanceUID": one.sop_uid,
                 "SOPClassUID": one.sop_class, "PatientID": patient} for one in refs])

    # --- raw doors

    def http(self) -> socket.socket:
        """Return a connection to the HTTP port."""
        return socket.create_connection(("127.0.0.1", self.region.http_port), 15)

    def mllp(self) -> socket.socket:
        """Return a connection to the MLLP port."""
        return socket.create_connection(("127.0.0.1", self.region.mllp_port), 15)

    def post(self, path: str, body: bytes | Iterable[bytes], kind: str = SOAP_TYPE) -> Reply:
        """POST on a connection of its own; return the answer."""
        data = body if isinstance(body, bytes) else b"".join(body)
        with self.http() as connection:
            with contextlib.suppress(ConnectionError):      # it may have been refused before it was all sent
                connection.sendall(head(path, kind, f"Connection: close\r\nContent-Length: {len(data)}") + data)
            return read_http(rest(connection))

    # --- what is stored

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """Return the rows of a table."""
        with contextlib.closing(sqlite3.connect(self.region.data / "broker.db", timeout=10)) as connection:
            return connection.execute(f"SELECT {columns} FROM {table}").fetchall()

    def known(self, sop_uid: str) -> bool:
        """Whether an instance has its row."""
        return (sop_uid,) in self.rows("instance", "sop_uid")

    def files(self) -> list[str]:
        """Return every file of documents and pictures, unfinished ones too."""
        return sorted(
            str(file.relative_to(self.region.data)) for name in FOLDERS for file in (self.region.data / name).rglob("*")
            if file.is_file() and not file.name.startswith(".probe."))

    def stored(self, fed: int | None = None) -> tuple[object, ...]:
        """Return what is stored: of every table the number of rows and the hash of their content, and all files.

        With `fed` given, without what so many good feeds of known patients moved, the last ones.
        """
        return (*(self._content(table, fed) for table in sorted(metadata.tables)), *self.files())

    def _content(self, table: str, fed: int | None) -> tuple[str, int, str]:
        stamps = STAMPS.get(table, ()) if fed is not None else ()
        names = (column.name for column in metadata.tables[table].columns if column.name not in stamps)
        rows = self.rows(table, ", ".join(f'"{name}"' for name in names))       # a name may be a word of SQL
        if fed and table in LOGS:
            rows = sorted(rows, key=lambda row: int(row[0]))[:-fed]
        content = "\n".join(sorted(map(repr, rows)))
        return table, len(rows), hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    @contextlib.contextmanager
    def unchanged(self, fed: int | None = None) -> Iterator[None]:
        """Fail when the block leaves anything stored, whole or half, or changes it, but for its `fed` good feeds."""
        before = self.stored(None if fed is None else 0)
        yield
        with contextlib.suppress(AssertionError):
            eventually(lambda: self.stored(fed) == before, 5.0)
        assert set(self.stored(fed)) ^ set(before) == set()

    def audited(self, code: str, outcome: str) -> int:
        """Return how many audit messages of a transaction have this outcome."""
        lines = [line for file in (self.region.data / "audit").glob("*.xml") for line in file.read_text("utf-8").split("\n")]
        return sum(f'<EventTypeCode csd-code="{code}"' in line and f'EventOutcomeIndicator="{outcome}"' in line for line in lines)

    # --- processes

    def load(self) -> tuple[int, int]:
        """Return the threads and sockets of all processes of the broker."""
        processes = psutil.Process(self.region.pid).children(recursive=True)
        return (sum(process.num_threads() for process in processes),
                sum(len(process.net_connections("inet")) for process in processes))


def head(path: str, kind: str, more: str) -> bytes:
    """Return the head of a POST; `more` are further header lines."""
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{more}\r\n\r\n".encode()
