"""DICOM figures: C-STORE against storescp and Orthanc, C-MOVE and C-GET from Orthanc.

Ours is the shipped receiver process with the settings a user would set; it is done when every object has its row in SQL. Senders
are dcmtk's storescu with TCP_NODELAY=1, the same files go to both sides, and what came is removed after each round.
"""

import contextlib
import functools
import os
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from broker.app.whole import App
from broker.config import profile as profiles
from broker.config.settings import Settings, load
from broker.coord.base import Subscription
from broker.edge.dimse.scu import Scu
from broker.imaging.fetch_worker import FetchWorker
from broker.imaging.store import fetches, recording
from broker.model.ports import Want
from broker.run.switch_interval import short_switch_interval
from tests.bench import files, pictures, scene
from tests.bench.harness import Figure, Notes, Round
from tests.bench.pictures import SLICES, STUDIES, Pictures
from tests.helpers import dicom
from tests.helpers.dicom import Orthanc
from tests.helpers.ports import free_port, free_ports
from tests.helpers.waiting import eventually

_LARGE, _SMALL = 512, 131
_PDU = "131072"
_SENDER = "PACSA"
_PATIENCE = 60.0
_LOOK = 0.005       # seconds; a look takes time from the work
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True)
class _Broker:
    """Receiver processes on one port, and the store they write rows to."""

    settings: Settings
    pids: list[int]
    store: sqlite3.Connection

    def rows(self) -> int:
        """Return the number of objects in the index."""
        found: int = self.store.execute("SELECT count(*) FROM instance").fetchone()[0]
        return found

    def indexed(self, count: int) -> None:
        """Return when so many objects are in the index."""
        until = time.monotonic() + _PATIENCE
        while (found := self.rows()) < count:
            assert time.monotonic() < until, f"{found} of {count} objects have rows"
            time.sleep(_LOOK)

    def cpu(self) -> float:
        """Return the processor seconds the receivers used so far."""
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in self.pids)

    def clear(self) -> None:
        """Forget what was received."""
        with self.store:
            for table in ("instance", "series", "fetch_want", "fetch_job", "catalogue", "study"):
                self.store.execute(f"DELETE FROM {table}")
        for folder in self.settings.online_folder.iterdir():
            if not folder.name.startswith("."):
                scene.discard(folder)


def _settings(where: Path, *, fsync: bool, receivers: int) -> Settings:
    http, mllp, port = free_ports(3)
    config = where / "broker.toml"
    config.write_text(
        f'data = "data"\n[server]\nhttp_port = {http}\nmllp_port = {mllp}\ndicom_port = {port}\nreceivers = {receivers}\n'
        f"[online]\nfsync = {str(fsync).lower()}\n", "utf-8")
    return load(config)


@contextlib.contextmanager
def receiving(
    where: Path, *, fsync: bool = False, receivers: int = 1, tls: Callable[[Settings], Settings] = lambda made: made,
) -> Iterator[_Broker]:
    """Run receivers as `broker serve` does; `tls` changes their settings."""
    made = tls(_settings(where, fsync=fsync, receivers=receivers))
    with scene.parts(made):
        pass
    command = [sys.executable, "-m", "broker", "serve", "--role", "receiver", "--config", str(where / "broker.toml")]
    with contextlib.ExitStack() as stack:
        logs = [where / f"receiver-{number}.log" for number in range(receivers)]
        pids = [stack.enter_context(scene.process(command, made.server.dicom_port, log)) for log in logs]
        for log in logs:
            eventually(functools.partial(_listens, log), 30.0)
        store = stack.enter_context(contextlib.closing(
            sqlite3.connect(made.data / "broker.db", timeout=30.0, check_same_thread=False)))
        store.execute("PRAGMA foreign_keys=OFF")
        yield _Broker(made, pids, store)


def _send(folders: Sequence[Path], port: int, called: str, senders: int, options: Sequence[str] = ()) -> None:
    """Send the files of these folders, each sender its share over one association."""
    running = [
        subprocess.Popen(["storescu", *options, "-R", "+sd", "+r", "-aet", _SENDER, "-aec", called, "127.0.0.1", str(port),
                          *map(str, folders[number::senders])], env=_ENVIRONMENT)
        for number in range(senders)]
    # without a timeout: with one, Python looks every 50 ms only
    assert [process.wait() for process in running] == [0] * senders


def _listens(log: Path) -> bool:
    return "listening" in log.read_text("utf-8")


def _timed(count: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


@dataclass(frozen=True)
class _Storescp:
    """dcmtk's storescp, writing below `folder`."""

    folder: Path
    port: int

    def clear(self, count: int) -> None:
        """Forget what was received; it must be all."""
        found = len(list(self.folder.glob("CT*")))
        assert found == count, f"storescp kept {found} of {count} objects"
        scene.discard(self.folder)
        self.folder.mkdir()


@contextlib.contextmanager
def _storescp(where: Path, *options: str) -> Iterator[_Storescp]:
    port = free_port()
    folder = where / "storescp"
    folder.mkdir()
    command = ["storescp", "-pdu", _PDU, "-aet", "STORESCP", "-od", str(folder), *options, str(port)]
    with dicom.running(command, where, port):
        yield _Storescp(folder, port)


class Receive:
    """Rounds of C-STORE: `senders` associations at once, all studies, into us and into a peer."""

    def __init__(self, broker: _Broker, sent: Pictures, senders: int, notes: Notes, options: Sequence[str] = ()) -> None:
        self._broker, self._sent, self._senders, self._notes, self._options = broker, sent, senders, notes, options
        self.count = STUDIES * SLICES
        self._processor = 0.0
        self._rounds = 0

    def ours(self) -> float:
        """Return objects/s until the last row is written."""
        before = self._broker.cpu()
        rate = _timed(self.count, self._into_us)
        self._processor += self._broker.cpu() - before
        self._rounds += 1
        self._broker.clear()
        return rate

    def _into_us(self) -> None:
        _send(self._sent.studies, self._broker.settings.server.dicom_port, "BROKER", self._senders, self._options)
        self._broker.indexed(self.count)

    def peer(self, port: int, called: str, clear: Callable[[], object]) -> float:
        """Return objects/s of a peer that is done when it answered the last one."""
        rate = _timed(self.count, lambda: _send(self._sent.studies, port, called, self._senders))
        clear()
        return rate

    def say(self) -> None:
        """Note sizes and costs."""
        self._notes.add(f"{self.count} x {self._sent.bytes} bytes, {self._senders} sender(s), SHA-256, rows in SQLite")
        self._notes.add(f"{1000 * self._processor / self._rounds / self.count:.2f} ms processor time per object")
        self._notes.add("peak memory " + ", ".join(scene.peak_memory(pid) for pid in self._broker.pids))


@contextlib.contextmanager
def _receive(notes: Notes, *, size: int = _LARGE, senders: int = 1, receivers: int = 1, fsync: bool = False) -> Iterator[Round]:
    sent = pictures.made(size)
    options = ["--fork"] if senders > 1 else []
    with scene.folder() as where, receiving(where, fsync=fsync, receivers=receivers) as broker, \
            _storescp(where, *options) as peer:
        work = Receive(broker, sent, senders, notes)
        yield lambda: (work.ours(), work.peer(peer.port, "STORESCP", lambda: peer.clear(work.count)))
        work.say()
        if receivers > 1:
            notes.add(f"server.receivers = {receivers}; the peer forks for each association")
        if fsync:
            notes.add("file and folder fsynced before each answer; storescp does not")


@contextlib.contextmanager
def _receive_files(notes: Notes, *, senders: int = 1, receivers: int = 1) -> Iterator[Round]:
    sent = pictures.made(_LARGE)
    with scene.folder() as where, receiving(where, fsync=True, receivers=receivers) as broker:
        work = Receive(broker, sent, senders, notes)
        yield lambda: (work.ours(), files.rate(sent.studies, where / "files"))
        work.say()
        notes.add("file and folder fsynced before each answer; the peer is one process that has the bytes already")


@contextlib.contextmanager
def _receive_orthanc(notes: Notes) -> Iterator[Round]:
    sent = pictures.made(_LARGE)
    with scene.folder() as where, receiving(where) as broker, Orthanc(
            where / "orthanc", "ORTHANC", broker.settings.server.dicom_port) as orthanc:
        work = Receive(broker, sent, 1, notes)
        yield lambda: (work.ours(), work.peer(orthanc.port, "ORTHANC", orthanc.clear))
        work.say()


class _Retrieve:
    """Rounds of retrieves: Orthanc is hospital B's PACS and holds a study, a fetch job brings it in by `route`."""

    def __init__(self, app: App, broker: _Broker, orthanc: Orthanc, sent: Pictures, route: str) -> None:
        self._app, self._broker, self._orthanc, self._sent = app, broker, orthanc, sent
        self._profile = dicom.hospital_at(profiles.load("demo"), "b", orthanc.port, routes=[route])
        self._hospital = dicom.hospital(self._profile, "b")
        self.worker = FetchWorker(app.database, app.coord, self._scu("BROKER"), self._profile)
        self._catalogue = self._scu("BROKER").find_study(self._hospital, sent.uid)
        self.first: list[float] = []

    def _scu(self, ae_title: str) -> Scu:
        server = self._app.settings.server.model_copy(update={"ae_title": ae_title})
        return Scu(self._profile, self._app.settings.model_copy(update={"server": server}), self._app.receiver, self._app.gate)

    def ours(self) -> float:
        """Return images/s from the demand until the last row."""
        with self._app.database.write() as unit:
            recording.record_origin(unit, self._hospital, self._catalogue)
        with contextlib.closing(self._app.coord.subscribe("landed")) as landed:
            rate = _timed(SLICES, lambda: self._fetch(landed))
        eventually(self._ended, 30.0)
        self._broker.clear()
        return rate

    def _fetch(self, landed: Subscription) -> None:
        started = time.perf_counter()
        wants = [(row["SeriesInstanceUID"], row["SOPInstanceUID"]) for row in self._catalogue]
        with self._app.database.write() as unit:
            job = fetches.enqueue(unit, self._hospital.key, self._sent.uid, wants, time.time())
        self._app.coord.publish("fetch", {"job": job})
        count = 0
        while count < SLICES:
            heard = landed.get(_PATIENCE)
            assert heard is not None, f"{count} of {SLICES} objects have rows"
            if not count:
                self.first.append(time.perf_counter() - started)
            count += len(str(heard[1]["sops"]).split("\\"))
        assert self._broker.rows() == SLICES

    def _ended(self) -> bool:
        return self._broker.store.execute("SELECT state FROM fetch_job").fetchall() == [("done",)]

    def elsewhere(self, peer: _Storescp) -> float:
        """Return images/s of the same move, asked for in the same way, into another destination."""
        ask = self._scu("STORESCP")
        rate = _timed(SLICES, lambda: ask.retrieve(self._hospital, Want(self._sent.uid), lambda: True))
        peer.clear(SLICES)
        return rate

    def getscu(self, folder: Path) -> float:
        """Return images/s of dcmtk's getscu."""
        folder.mkdir(exist_ok=True)
        command = ["getscu", "-S", "-pdu", _PDU, "-aet", "BROKER", "-aec", self._hospital.ae_title, "-od", str(folder),
                   "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={self._sent.uid}",
                   "127.0.0.1", str(self._orthanc.port)]
        rate = _timed(SLICES, lambda: subprocess.run(command, check=True, env=_ENVIRONMENT))
        assert len(list(folder.iterdir())) == SLICES
        scene.discard(folder)
        return rate


@contextlib.contextmanager
def _retrieve(where: Path, broker: _Broker, others: Mapping[str, int], route: str, notes: Notes) -> Iterator[_Retrieve]:
    sent = pictures.made(_LARGE)
    with scene.parts(broker.settings) as app, Orthanc(
            where / "orthanc", "PACSB", broker.settings.server.dicom_port, others=others) as orthanc, short_switch_interval():
        orthanc.upload(sorted(sent.studies[0].glob("*.dcm")))
        app.receiver.start()
        stop = threading.Event()
        work = _Retrieve(app, broker, orthanc, sent, route)
        thread = threading.Thread(target=work.worker.run, args=(stop,))
        thread.start()
        try:
            yield work
        finally:
            stop.set()
            thread.join()
            app.receiver.stop()
        notes.add(f"{SLICES} x {sent.bytes} bytes, SHA-256, rows in SQLite")
        notes.add(f"first image has its row {1000 * statistics.median(work.first):.0f} ms after the demand")


@contextlib.contextmanager
def _move(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where, receiving(where) as broker, _storescp(where) as peer, _retrieve(
            where, broker, {"STORESCP": peer.port}, "move", notes) as work:
        yield lambda: (work.ours(), work.elsewhere(peer))


@contextlib.contextmanager
def _get(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where, receiving(where) as broker, _retrieve(where, broker, {}, "get", notes) as work:
        yield lambda: (work.ours(), work.getscu(where / "getscu"))


FIGURES: list[Figure] = [
    Figure("cstore.receive.storescp", "storescp", "objects/s", 0.65, 1.0, _receive),
    Figure("cstore.receive-durable.storescp", "storescp", "objects/s", 0.5, 0.75, partial(_receive, fsync=True)),
    Figure("cstore.receive-durable.files", "write, fsync, link, fsync the folder", "objects/s", 0.45, 0.7, _receive_files),
    Figure("cstore.receive4-durable.files", "write, fsync, link, fsync the folder", "objects/s", 0.6, 1.0,
           partial(_receive_files, senders=4, receivers=2)),
    Figure("cstore.receive4.storescp", "storescp --fork", "objects/s", 0.65, 1.0, partial(_receive, senders=4, receivers=2)),
    Figure("cstore.small.storescp", "storescp", "objects/s", 1.0, 1.5, partial(_receive, size=_SMALL), runs=9),
    Figure("move.back.storescp", "storescp", "images/s", 0.8, 1.2, _move),
    Figure("get.back.getscu", "getscu", "images/s", 0.9, 1.2, _get),
    # last, because Orthanc removes files: see scene.discard
    Figure("cstore.receive.orthanc", "Orthanc", "objects/s", 2, 3, _receive_orthanc, runs=3),
]
