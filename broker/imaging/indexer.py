"""Enters durable objects into the index: one thread, batches, and adoption of files a crash left without a row."""

import contextlib
import functools
import itertools
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import structlog

from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import ASIDE, OnlineStore
from broker.config.profile import Hospital, Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.files.durable import sha256_of
from broker.imaging import header
from broker.imaging.store import fetches, locations, recording, setbacks, studies
from broker.model.errors import Unavailable, place_of
from broker.model.imaging import Online, StoredObject
from broker.model.ports import Unit
from broker.wire import tags

BATCH = 500             # objects of one transaction
LINGER = 0.25           # seconds between two transactions while objects come, so that there are few large ones
_LULL = 0.005           # seconds without a new object, and with none under way, that end a batch before
BACKLOG = 4096          # objects without a row after which no further ones should be taken
ADOPT_DAYS = 7
_IDLE = 0.2             # seconds between two looks whether to stop
_RETRY = 1.0            # seconds between attempts while the store is down
_PUT_OFF, _LONGEST = 5.0, 3600.0    # seconds: twice the first until an object that failed comes again, then twice as long
_TRIES = 3              # attempts at a batch whose files cannot be had, before each object is tried by itself

log = structlog.get_logger("broker.receiver")


@dataclass(frozen=True, slots=True)
class _Arrival:
    stored: StoredObject
    conflict: bool
    tries: int = 0


class Indexer:
    """Writes rows behind the receiver. `add` never waits; `behind` says when the sender should."""

    def __init__(
        self, database: Database, online: OnlineStore, profile: Profile, coord: Coord, sdfo: Sdfo | None = None,
    ) -> None:
        self._database, self._online, self._profile, self._coord, self._sdfo = database, online, profile, coord, sdfo
        self._waiting: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self._under_way: set[object] = set()
        self._later: list[tuple[float, _Arrival]] = []     # what failed by itself, and when (monotonic) it comes again
        self._began = 0.0       # the last transaction
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._adopter: threading.Thread | None = None

    @property
    def behind(self) -> bool:
        """Whether so many objects wait for their rows that no further ones should be taken."""
        return self._waiting.qsize() >= BACKLOG

    def announce(self, incoming: object) -> None:
        """Say that an object is being received: a batch may wait for it. `forget` it whatever became of it."""
        self._under_way.add(incoming)

    def forget(self, incoming: object) -> None:
        """Say that what was announced was added, or will not come."""
        self._under_way.discard(incoming)

    def add(self, stored: StoredObject, *, conflict: bool) -> None:
        """Take a durable object; `conflict` says that it was kept aside because its UID is taken."""
        self._waiting.put(_Arrival(stored, conflict))

    def start(self) -> None:
        """Begin to write rows."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="index")
        self._thread.start()

    def stop(self) -> None:
        """Write what waits and end; while the store is down the rest is left to the next start."""
        self._stopping.set()
        for thread in (self._adopter, self._thread):    # the adopter first: it hands on to the other
            if thread is not None:
                thread.join()
        self._adopter = self._thread = None

    def adopt_behind(self) -> None:
        """Begin to `adopt` in a thread, as soon as no other process does, and until it is done."""
        self._adopter = threading.Thread(target=self._adopt_once, name="adopt")
        self._adopter.start()

    def _adopt_once(self) -> None:
        while not self._stopping.is_set():
            try:
                if self.adopt() is not None:
                    return
            except Unavailable as error:
                log.warning("files without rows are not looked for, will be tried again", reason=str(error))
            self._stopping.wait(_RETRY)

    def adopt(self) -> int | None:
        """Enter the files of recent days that have no row, those kept aside too; return how many.

        One process at a time does it; None when another is at it: it may be past a file that was left since.
        """
        with self._coord.lock("adopt", 3600.0) as mine:
            if not mine:
                return None
            found = sum(self._adopt(hospital, path) for hospital, path in self._without_row())
            if found:
                log.info("files without rows adopted", objects=found)
            return found

    def _without_row(self) -> Iterator[tuple[Hospital, str]]:
        """Return the files to adopt; ends early when stopped, and waits while rows are behind."""
        for files, on_record in (
                (self._online.recent(ADOPT_DAYS), studies.on_record),
                (self._online.recent_aside(ADOPT_DAYS), studies.aside_on_record)):
            for study, paths in itertools.groupby(files, lambda found: (found[0], found[1].split("/")[-2])):
                with self._database.read() as unit:
                    known = on_record(unit, *study)
                hospital = self._profile.hospital(study[0])
                for _, path in paths:
                    while self.behind and not self._stopping.is_set():
                        time.sleep(LINGER)
                    if self._stopping.is_set():
                        return
                    if hospital is not None and path not in known:
                        yield hospital, path

    def _adopt(self, hospital: Hospital, path: str) -> bool:
        try:
            stored = self._read(hospital, path)
        except Exception as error:  # noqa: BLE001 - one file must not keep the others without rows
            log.warning("file without row is not readable", path=path, reason=place_of(error))
            return False
        self.add(stored, conflict=path.startswith(ASIDE))
        return True

    def _read(self, hospital: Hospital, path: str) -> StoredObject:
        """Return what a file of the online store holds; any error when that is not what its path says."""
        *_, study_uid, name = path.split("/")
        sop_uid = name.rpartition(".")[0] if path.startswith(ASIDE) else name
        file = self._online.path(path)
        self._online.make_durable(path)
        size = file.stat().st_size
        meta, text = header.of_file(file, hospital)
        if (text["StudyInstanceUID"], meta.sop_uid) != (study_uid, sop_uid):
            raise tags.NotDicom("the file does not hold what its path says")
        return StoredObject(
            hospital=hospital.key, study_uid=study_uid, series_uid=text["SeriesInstanceUID"], sop_uid=sop_uid,
            sop_class=meta.sop_class, transfer_syntax=meta.transfer_syntax, path=path, size=size, sha256=sha256_of(file),
            tags=text)

    def _run(self) -> None:
        while not self._stopping.is_set() or not self._waiting.empty():
            batch = self._collect()
            if batch and not self._enter(batch):
                return

    def _collect(self) -> list[_Arrival]:
        """Return what waits: at once what comes after a pause, then what `LINGER` seconds brought.

        A transaction for each object of a slow disk would make the disk slower still, and take the interpreter from
        the threads that receive.
        """
        self._take_up()
        try:
            batch = [self._waiting.get(timeout=_IDLE)]
        except queue.Empty:
            return []
        until, seen = self._began + LINGER, -1
        while time.monotonic() < until and (waiting := self._waiting.qsize()) < BATCH:
            if waiting == seen and not self._under_way:
                break
            seen = waiting
            self._stopping.wait(_LULL)
        self._began = time.monotonic()
        while len(batch) < BATCH and not self._waiting.empty():
            batch.append(self._waiting.get())
        return batch

    def _enter(self, batch: list[_Arrival], tries: int = 0) -> bool:
        """Write a batch, however long it takes. False = stopped, and the store was down at a last attempt.

        `tries` counts the attempts that were made already.
        """
        while True:
            last = self._stopping.is_set()
            try:
                self._record(batch)
            except Unavailable as error:
                log.warning("index is not written, will be tried again", waiting=self._waiting.qsize(), reason=str(error))
                if last:
                    return False
                tries += 1
                if tries < _TRIES or error.what == "database":
                    self._stopping.wait(_RETRY)
                    continue
                if not self._one_by_one(batch, error):      # the file of one of them cannot be had
                    return False
            except Exception as error:  # noqa: BLE001 - one object the store does not take must not stop all others
                if not self._one_by_one(batch, error):
                    return False
            return True

    def _one_by_one(self, batch: list[_Arrival], error: Exception) -> bool:
        """Write each object of a batch by itself; the only one is put off, with its reason. False = stopped."""
        if len(batch) > 1:
            return all(self._enter([arrival], _TRIES) for arrival in batch)     # others wait behind it: no further pauses
        item, tries = batch[0].stored, batch[0].tries + 1
        log.error("object is durable but has no row yet", path=item.path, reason=place_of(error), attempts=tries)
        delay = min(_PUT_OFF * float(1 << min(tries, 16)), _LONGEST)
        self._later.append((time.monotonic() + delay, replace(batch[0], tries=tries)))
        with contextlib.suppress(Unavailable), self._database.write() as unit:
            setbacks.note(unit, "index", item.path, item.hospital, place_of(error), time.time())
        return True

    def _take_up(self) -> None:
        """Let what was put off come again when it is time."""
        now = time.monotonic()
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            self._waiting.put(entry[1])

    def _record(self, batch: list[_Arrival]) -> None:
        now = time.time()
        with self._database.write() as unit:
            # A file that went meanwhile is safe in the archive, or its PACS has it: it was there when it was handed on.
            batch = [arrival for arrival in batch if self._online.has(arrival.stored.path)]
            arrived = _with_jobs(unit, [arrival.stored for arrival in batch])
            result = recording.record(
                unit, [item for item, arrival in zip(arrived, batch, strict=True) if not arrival.conflict], self._profile, now,
                self._is_packed)
            aside = [item for item, arrival in zip(arrived, batch, strict=True) if arrival.conflict]
            conflicts = [item for item in result.conflicts if self._is_still(item)]
            aside += [replace(item, path=self._online.keep_as_conflict(_online(item)).path) for item in conflicts]
            needless = self._set_aside(unit, aside, now)
            refused = {item.path for item in (*result.conflicts, *aside)}
            landed: dict[int, list[str]] = {}
            for arrival in batch:
                if arrival.tries:
                    setbacks.clear(unit, "index", arrival.stored.path)
            for item in arrived:
                if item.job is not None and item.path not in refused:
                    landed.setdefault(item.job, []).append(item.sop_uid)
            for job, sop_uids in landed.items():
                fetches.landed(unit, job, sop_uids)
        for job, sop_uids in landed.items():
            self._coord.publish("landed", {"job": job, "sops": "\\".join(sop_uids)})     # a batch is half of what fits
        with contextlib.suppress(Unavailable):  # the store logged why; the rows are right, the files take only room
            second = [item.path for item, path in result.copies if self._online.has(path) and self._is_still(item)]
            self._online.drop([*second, *needless, *(item.path for item in conflicts)])

    def _is_still(self, item: StoredObject) -> bool:
        """Say whether an object's own bytes are under its path.

        One that came twice may be elsewhere already, and the next object of its UID, whose row is on its way, under the name.
        """
        return self._online.sha256(item.path) == item.sha256

    def _set_aside(self, unit: Unit, aside: list[StoredObject], now: float) -> list[str]:
        """Enter what does not agree with its study; return the paths of what is on record elsewhere with the same bytes."""
        needless = []
        for item in aside:
            case = recording.set_aside(unit, item, self._profile, now, self._is_packed)
            if case is None:
                if item.path not in studies.aside_on_record(unit, item.hospital, item.study_uid):
                    needless.append(item.path)
                continue
            if item.job is not None:
                fetches.will_not_come(unit, item.job, {item.sop_uid: f"what came does not agree with its study: conflict {case}"})
            unit.after_commit(functools.partial(
                log.warning, "an object does not agree with its study, kept aside", conflict=case, hospital=item.hospital,
                sop=item.sop_uid))
        return needless

    def _is_packed(self, unit: Unit, part_id: int, sop_uid: str) -> bool:
        """Say whether the archive holds something under this UID for a part of a study (`recording.Packed`)."""
        return self._sdfo is not None and any(
            self._sdfo.locate(path, sop_uid) for path in locations.containers(unit, part_id))


def _with_jobs(unit: Unit, objects: list[StoredObject]) -> list[StoredObject]:
    """Return the objects, each with the fetch that expects it."""
    jobs = fetches.expecting(unit, [(item.hospital, item.study_uid, item.sop_uid) for item in objects])
    if not jobs:
        return objects
    return [replace(item, job=jobs.get((item.hospital, item.study_uid, item.sop_uid))) for item in objects]


def _online(item: StoredObject) -> Online:
    return Online(item.path, item.size, item.sha256)
