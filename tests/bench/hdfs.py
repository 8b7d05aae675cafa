"""Figures of the archive in a real HDFS, three DataNodes and two replicas, beside Hadoop's own shell in a warm Java process."""

import atexit
import contextlib
import functools
import itertools
import shutil
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from broker.archive.formats.sdicom import PackImage, read_index
from broker.archive.sdfo import Sdfo, archived
from broker.archive.tiers.hdfs import HdfsStore
from broker.archive.tiers.online import OnlineStore
from broker.config.settings import HdfsSection
from tests.bench import scene, transfer
from tests.bench.archive import IMAGES, SIZE, STUDY, study, write_seconds
from tests.bench.harness import Figure, Notes, Round, rate
from tests.helpers.hdfs import configuration
from tests.helpers.hdfs.cluster import Cluster

_STUDIES, _EACH = 20, 40
_SECTION = HdfsSection(replication=configuration.REPLICATION, user=configuration.SUPERUSER)


@functools.cache
def _cluster() -> Cluster:
    """Return the cluster of this run: started for the first figure that asks, ended with the program."""
    scene.ROOT.mkdir(parents=True, exist_ok=True)
    cluster = Cluster((scene.ROOT / f"hdfs-{uuid.uuid4().hex}").resolve(), flags=())
    atexit.register(cluster.__exit__)
    return cluster.__enter__()


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """Return an empty folder of the cluster."""
    path = f"/bench-{uuid.uuid4().hex}"
    _cluster().mkdir(path)
    try:
        yield path
    finally:
        _cluster().delete(path)


@contextlib.contextmanager
def _study() -> Iterator[tuple[Path, str, Sdfo, list[PackImage]]]:
    """Return a local folder, one of the cluster, both tiers with the archive in it, and a study that is online."""
    with scene.folder() as where, _folder() as path:
        sdfo = Sdfo(OnlineStore(where / "online", fsync=False), HdfsStore(_cluster().url + path, _SECTION))
        yield where, path, sdfo, study(sdfo)
        sdfo.store.end()


def _files(where: Path, images: list[PackImage]) -> Path:
    """Write the images as files into a folder of their own."""
    folder = where / "files"
    folder.mkdir()
    for image in images:
        (folder / image.sop_uid).write_bytes(b"".join(image.source.chunks()))
    return folder


def _tar(where: Path, images: list[PackImage]) -> Path:
    """Write the images as one tar."""
    files, tar = _files(where, images), where / "study.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(files, "study")
    shutil.rmtree(files)
    return tar


@contextlib.contextmanager
def _put(kind: Callable[[Path, list[PackImage]], Path], notes: Notes) -> Iterator[Round]:
    with _study() as (where, path, sdfo, images):
        size = IMAGES * SIZE
        source = kind(where, images)
        warm = _cluster().warm

        def ours() -> float:
            return size / 1e6 / write_seconds(sdfo, images)

        def peer() -> float:
            seconds = warm.put(source, f"{path}/peer")
            _cluster().delete(f"{path}/peer")
            return size / 1e6 / seconds

        notes.add(f"{IMAGES} x {SIZE} bytes; SHA-256 of each image and of the container; three DataNodes, replication 2")
        yield lambda: (ours(), peer())


@contextlib.contextmanager
def _get(notes: Notes) -> Iterator[Round]:
    with _study() as (where, path, sdfo, images):
        size = IMAGES * SIZE
        container, copy = sdfo.pack(STUDY, images, {"hospital": "a"}).path, where / "copy"
        warm = _cluster().warm
        warm.put(_tar(where, images), f"{path}/study.tar")

        def ours() -> float:
            started = time.perf_counter()
            pictures = sdfo.reading()
            found = sdfo.index(container, fresh=True).entries
            sources = [pictures.open(archived(container, entry)) for entry in found.values()]
            with copy.open("wb", buffering=0) as file:
                for source in sources:
                    for piece in source.chunks():
                        file.write(piece)
            seconds = time.perf_counter() - started
            assert (len(sources), copy.stat().st_size) == (IMAGES, size)
            copy.unlink()
            return size / 1e6 / seconds

        def peer() -> float:
            seconds = warm.get(f"{path}/study.tar", copy)
            copy.unlink()
            return size / 1e6 / seconds

        notes.add(f"{IMAGES} images, each compared with its SHA-256, into one file on both sides, no fsync")
        yield lambda: (ours(), peer())


@contextlib.contextmanager
def _one(notes: Notes) -> Iterator[Round]:
    with _study() as (_, _, sdfo, images):
        packed = sdfo.pack(STUDY, images, {"hospital": "a"})
        turn = itertools.count()

        def one() -> None:
            reader = sdfo.store.open(packed.path, cold=True)    # remembers nothing: both range reads are made
            entry = read_index(reader.pread, reader.size).entries[images[next(turn) % IMAGES].sop_uid]
            assert len(reader.pread(entry.offset, entry.size)) == SIZE

        def whole() -> None:
            reader = sdfo.store.open(packed.path, cold=True)
            assert sum(map(len, reader.stream(0, reader.size))) == packed.size

        notes.add("index in the footer, then the image; nothing remembered between two reads; neither side hashes what it read")
        yield lambda: (rate(one, 1.0), rate(whole, 1.0))


@contextlib.contextmanager
def _rad69(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where, _folder() as path:
        settings = scene.settings(where, archive=_archive(path))
        with scene.parts(settings) as app:
            request = transfer.retrieve(transfer.receive(app))
            transfer.archive(app)
        with scene.web(settings) as pid:
            _, length, answer = scene.transfer(settings.server.http_port, request)
            assert b"ResponseStatusType:Success" in answer, answer
            tar, copy = where / "study.tar", where / "copy.tar"
            transfer.file(tar, length)
            warm = _cluster().warm
            warm.put(tar, f"{path}/study.tar")

            def ours() -> float:
                seconds, size, _ = scene.transfer(settings.server.http_port, request)
                assert size == length
                return length / 1e6 / seconds

            def peer() -> float:
                seconds = warm.get(f"{path}/study.tar", copy)
                copy.unlink()
                return length / 1e6 / seconds

            yield lambda: (ours(), peer())
            notes.add(f"{transfer.IMAGES} images, {length / 1e6:.0f} MB, each compared with its SHA-256 on the way, "
                      f"against as many bytes in one file; worker's peak {scene.peak_memory(pid)}")


def _archive(path: str) -> str:
    """Return the rows of `broker.toml` for an archive in this folder."""
    return (f'[archive]\nurl = "{_cluster().url}{path}"\n'
            f'[archive.hdfs]\nreplication = {_SECTION.replication}\nuser = "{_SECTION.user}"\n')


@contextlib.contextmanager
def _migrate(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where, _folder() as path:
        size = _STUDIES * _EACH * SIZE
        tars, turn = [where / f"{number}.tar" for number in range(_STUDIES)], itertools.count()
        for tar in tars:
            transfer.file(tar, _EACH * SIZE)
        with scene.parts(scene.settings(where, archive=_archive(path))) as app:

            def ours() -> float:
                for uid in [f"{STUDY}.{next(turn)}" for _ in range(_STUDIES)]:
                    transfer.receive(app, uid, _EACH, SIZE)
                started = time.perf_counter()
                report = app.migrator.run_all(_STUDIES, lambda *_: None)
                seconds = time.perf_counter() - started
                assert (report.packed, report.images, report.failed) == (_STUDIES, _STUDIES * _EACH, [])
                for container, _ in list(app.sdfo.containers(-60)):
                    app.sdfo.drop_container(container)
                return size / 1e6 / seconds

            def peer() -> float:
                seconds = sum(_cluster().warm.put(tar, f"{path}/{tar.name}") for tar in tars)
                for tar in tars:
                    _cluster().delete(f"{path}/{tar.name}")
                return size / 1e6 / seconds

            notes.add(f"{_STUDIES} studies of {_EACH} x {SIZE} bytes, {app.profile.retention.parallel} at once; every byte read "
                      "back from the cluster and compared twice, rows and online files removed; the tars are written once")
            yield lambda: (ours(), peer())


FIGURES: list[Figure] = [
    Figure("sdicom.put.hdfs-put-files", "a warm JVM's put of 200 files", "MB/s", 4, 10, functools.partial(_put, _files), runs=3),
    Figure("sdicom.put.hdfs-put-tar", "a warm JVM's put of one tar", "MB/s", 0.6, 1.0, functools.partial(_put, _tar), runs=9),
    Figure("sdicom.get.hdfs-get", "a warm JVM's get of one tar", "MB/s", 1.2, 1.4, _get, runs=9),
    Figure("sdicom.one.hdfs-whole", "reading the whole container", "reads/s", 20, 60, _one),
    Figure("rad69.archive.hdfs-get", "a warm JVM's get of one tar", "MB/s", 0.8, 1.2, _rad69, runs=9),
    Figure("migrate.hdfs-put", "a warm JVM's put of 20 tars", "MB/s", 0.3, 0.6, _migrate, runs=3),
]
