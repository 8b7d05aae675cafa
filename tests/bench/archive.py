"""S-DICOM figures: packing a study, migrating many against cp, one image against the whole container."""

import contextlib
import hashlib
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from broker.archive.formats.sdicom import PackImage, write_container
from broker.archive.sdfo import Packed, Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.config import profile as profiles
from broker.db import sql
from broker.files.sources import CHUNK
from broker.imaging.store import tables
from broker.model.imaging import Online
from tests.bench import scene
from tests.bench.harness import Figure, Notes, Round, rate
from tests.helpers import stores
from tests.helpers.archive import Centre

IMAGES, SIZE = 200, 526_338
STUDY = "1.2.840.99.201"
_STUDIES, _IMAGES_OF_STUDY = 20, 40


def study(sdfo: Sdfo) -> list[PackImage]:
    """Return the images of a study that lies in the online tier, 512 x 512 x 16 bit each."""
    block = os.urandom(SIZE)
    images = []
    for number in range(IMAGES):
        data = number.to_bytes(8, "big") + block[8:]
        part = sdfo.online.begin()
        part.write(data)
        kept = part.commit("a", STUDY, f"{STUDY}.1.{number + 1}").online
        images.append(PackImage(
            sop_uid=f"{STUDY}.1.{number + 1}", series_uid=f"{STUDY}.1", sop_class="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax="1.2.840.10008.1.2.1", sha256=hashlib.sha256(data).hexdigest(), number=number,
            source=sdfo.open(Online(kept.path, kept.size, kept.sha256))))
    return images


@contextlib.contextmanager
def _tiers() -> Iterator[tuple[Path, Sdfo, list[PackImage]]]:
    with scene.folder() as where:
        sdfo = Sdfo(OnlineStore(where / "online", fsync=False), PosixStore(where / "archive"))
        yield where, sdfo, study(sdfo)


def write_seconds(sdfo: Sdfo, images: list[PackImage]) -> float:
    """Write the container of a study, without reading it back; return the seconds until it was durable."""
    started = time.perf_counter()
    file = sdfo.store.create("pack", IMAGES * SIZE)
    write_container(file, STUDY, images, {"hospital": "a"}, bytes(16))
    file.close()
    seconds = time.perf_counter() - started
    sdfo.store.delete("pack")
    return seconds


@contextlib.contextmanager
def _pack(notes: Notes) -> Iterator[Round]:
    with _tiers() as (where, sdfo, images):
        size = IMAGES * SIZE
        whole = where / "whole"
        with whole.open("wb") as file:
            for image in images:
                file.write(b"".join(image.source.chunks()))
        scene.sync(whole)

        def ours() -> float:
            return size / 1e6 / write_seconds(sdfo, images)

        def peer() -> float:
            started = time.perf_counter()
            subprocess.run(["cp", whole, where / "copy"], check=True)
            scene.sync(where / "copy")
            seconds = time.perf_counter() - started
            (where / "copy").unlink()
            return size / 1e6 / seconds

        notes.add(f"{IMAGES} x {SIZE} bytes; SHA-256 of each image and of the container, CRC-32 of the index, fsync")
        yield lambda: (ours(), peer())


@contextlib.contextmanager
def _one(notes: Notes) -> Iterator[Round]:
    with _tiers() as (where, sdfo, images):
        packed = sdfo.pack(STUDY, images, {"hospital": "a"})
        turn = itertools.count()

        def one() -> None:
            fresh = Sdfo(sdfo.online, sdfo.store)      # remembers no index: both range reads are made
            image = images[next(turn) % IMAGES]
            found = fresh.locate(packed.path, image.sop_uid)
            assert found is not None
            data = fresh.store.open(found.container).pread(found.offset, found.size)
            assert len(data) == SIZE

        notes.add("index in the footer, then the image; nothing remembered between two reads; neither side hashes what it read")
        yield lambda: (rate(one), rate(lambda: _read(where, packed)))


def _read(where: Path, packed: Packed) -> None:
    size = 0
    with (where / "archive" / packed.path).open("rb", buffering=0) as file:
        while data := file.read(CHUNK):
            size += len(data)
    assert size == packed.size


@contextlib.contextmanager
def _migrate(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where, contextlib.closing(_centre(where)) as centre:
        block, size = os.urandom(SIZE), _STUDIES * _IMAGES_OF_STUDY * SIZE
        original = where / "original"

        def receive() -> None:
            for study in range(_STUDIES):
                uid = f"{STUDY}.{study}"
                centre.receive({
                    f"{uid}.1.{number}": number.to_bytes(4, "big") + study.to_bytes(4, "big") + block[8:]
                    for number in range(_IMAGES_OF_STUDY)}, study_uid=uid)

        def ours() -> float:
            receive()
            os.sync()
            started = time.perf_counter()
            report = centre.migrator.run_all(_STUDIES, lambda *_: None)
            seconds = time.perf_counter() - started
            assert (report.packed, report.failed) == (_STUDIES, [])
            _forget(centre)
            return size / 1e6 / seconds

        def peer() -> float:
            seconds = 0.0
            for _ in range(_STUDIES):
                original.write_bytes(block * _IMAGES_OF_STUDY)
                os.sync()
                started = time.perf_counter()
                subprocess.run(["cp", original, where / "copy"], check=True)
                scene.sync(where / "copy")
                _read_cold(where / "copy")
                _read_cold(where / "copy")
                seconds += time.perf_counter() - started
                (where / "copy").unlink()
            return size / 1e6 / seconds

        notes.add(f"{_STUDIES} studies of {_IMAGES_OF_STUDY} x {SIZE} bytes, two at once, grace 0; proofs read from the disk: "
                  "page cache dropped on both sides; ours removes the online copies, too")
        yield lambda: (ours(), peer())


def _centre(where: Path) -> Centre:
    stores.sqlite(where / "broker.db").close()
    return Centre(where, profiles.load("demo"))


def _forget(centre: Centre) -> None:
    """Empty the archive and its tables."""
    for path in centre.files()[1]:
        centre.sdfo.drop_container(path)
    with centre.database.write() as unit:
        for table in (tables.container, tables.series, tables.study):
            sql(unit).execute(table.delete())


def _read_cold(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(CHUNK):
            pass


FIGURES: list[Figure] = [
    Figure("migrate.cp", "cp, fsync and two reads of the same bytes", "MB/s", 0.3, 0.6, _migrate, runs=5),
    Figure("sdicom.pack.cp", "cp and fsync", "MB/s", 0.35, 0.6, _pack, runs=9),
    Figure("sdicom.one.whole", "reading the whole container", "reads/s", 20, 50, _one),
]
