"""Large transfers: a 200 MB document in against cp, a 200 MB study out against nginx."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.app.whole import App
from broker.client.messages import provide, retrieve_images
from broker.files.sources import CHUNK
from broker.imaging import rad69_retrieve
from broker.imaging.archiving.drop import Outcome
from broker.imaging.store import recording, studies
from broker.model.imaging import InstanceRef, StoredObject
from broker.repository import iti41_provide
from broker.wire.envelope import write_request
from broker.wire.mime import MtomBody
from broker.wire.soap import Part
from tests.bench import scene
from tests.bench.harness import Figure, Notes, Round
from tests.helpers import registry as made
from tests.helpers.ports import free_port

SIZE = 200 << 20
IMAGES = 200
_STUDY = "1.2.840.99.200"
_MARK = b"@@@@@@@@"


@dataclass(frozen=True)
class _Hole:
    """A source of a known size that is sent by somebody else."""

    size: int

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Return nothing."""
        yield from ()


def _head(path: str, content_type: str, length: int, method: str = "POST") -> bytes:
    return (f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n"
            "\r\n").encode()


def file(path: Path, size: int) -> str:
    """Write a file nobody can compress; return its SHA-1."""
    digest, block = hashlib.sha1(usedforsecurity=False), os.urandom(1 << 20)
    with path.open("wb") as target:
        for start in range(0, size, len(block)):
            data = (start.to_bytes(8, "big") + block[8:])[:size - start]
            digest.update(data)
            target.write(data)
    scene.sync(path)
    return digest.hexdigest()


# -- a document in

def _provide(app: App, sha1: str) -> tuple[bytes, bytes, str, int]:
    """Return what comes before and after the document's bytes, the content type and the length of the body."""
    patient = scene.admit(app, 0)
    entry = made.document(
        patient=patient, unique_id="2.999.5.@@@@@@@@", hash=sha1, size=SIZE, mime_type="application/pdf")
    objects = made.bundle([entry], patient=patient, unique_id="2.999.6.@@@@@@@@")
    row = iti41_provide.ROW
    root = write_request(
        provide(objects, {entry.id: "document@bench"}), action=row.messages[0].action, to="http://127.0.0.1" + row.endpoint,
        message_id="urn:uuid:bench")
    body = MtomBody(root, [Part(content_id="document@bench", media_type="application/pdf", source=_Hole(SIZE))])
    *before, after = body
    return b"".join(before), after, body.content_type, body.length


@contextlib.contextmanager
def _iti41(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where:
        settings = scene.settings(where)
        source, target = where / "document", where / "copy"
        sha1 = file(source, SIZE)
        with scene.parts(settings) as app:
            before, after, content_type, length = _provide(app, sha1)
        numbers = iter(range(10_000_000, 99_999_999))

        def ours() -> float:
            root = before.replace(_MARK, str(next(numbers)).encode())
            seconds, _, answer = scene.transfer(
                settings.server.http_port, _head(iti41_provide.ROW.endpoint, content_type, length) + root, source, after)
            assert b"ResponseStatusType:Success" in answer, answer
            return SIZE / 1e6 / seconds

        def peer() -> float:
            started = time.perf_counter()
            subprocess.run(["cp", source, target], check=True)
            scene.sync(target)
            seconds = time.perf_counter() - started
            target.unlink()
            return SIZE / 1e6 / seconds

        with scene.web(settings) as pid:
            yield lambda: (ours(), peer())
            notes.add(f"200 MB over loopback, SHA-1, fsync; worker's peak {scene.peak_memory(pid)}")


# -- a study out

def receive(app: App, study_uid: str = _STUDY, images: int = IMAGES, size: int = SIZE // IMAGES) -> list[InstanceRef]:
    """Take a study in as the receiver does, and let it be complete."""
    block = os.urandom(size)
    objects = []
    for number in range(1, images + 1):
        part = app.online.begin()
        part.write(number.to_bytes(8, "big") + block[8:])
        kept = part.commit("a", study_uid, f"{study_uid}.1.{number}").online
        objects.append(StoredObject(
            hospital="a", study_uid=study_uid, series_uid=f"{study_uid}.1", sop_uid=f"{study_uid}.1.{number}",
            sop_class="1.2.840.10008.5.1.4.1.1.2", transfer_syntax="1.2.840.10008.1.2.1", path=kept.path, size=kept.size,
            sha256=kept.sha256, tags={"StudyDate": "20240506", "Modality": "CT", "PatientID": "A-1"}))
    with app.database.write() as unit:
        recording.record(unit, objects, app.profile)
        for row in studies.find_studies(unit, study_uid=study_uid):
            studies.mark(unit, row.id, "quiet")
    source = app.profile.region.source_uid
    return [InstanceRef(item.study_uid, item.series_uid, item.sop_uid, source_uid=source) for item in objects]


def archive(app: App) -> None:
    """Have the study packed."""
    with app.database.read() as unit:
        [study] = studies.find_studies(unit, study_uid=_STUDY)
    assert app.migrator.packer.migrate(study.id) is Outcome.ARCHIVED


def retrieve(refs: list[InstanceRef]) -> bytes:
    row = rad69_retrieve.ROW
    root = write_request(
        retrieve_images(refs), action=row.messages[0].action, to="http://127.0.0.1" + row.endpoint, message_id="urn:uuid:bench")
    body = MtomBody(root)
    return _head(row.endpoint, body.content_type, body.length) + b"".join(body)


@contextlib.contextmanager
def _nginx(folder: Path) -> Iterator[int]:
    """Serve a folder with nginx, one worker, sendfile; return the port."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile on;
  {" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))}
  server {{ listen 127.0.0.1:{port}; location / {{ root {folder}; }} }}
}}
""", "utf-8")
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program is not None, "nginx is not installed"
    with scene.process([program, "-c", str(config), "-p", str(folder), "-e", str(folder / "nginx.log")], port, folder / "log"):
        yield port


@contextlib.contextmanager
def _rad69(notes: Notes) -> Iterator[Round]:
    with scene.folder() as where:
        settings = scene.settings(where)
        with scene.parts(settings) as app:
            request = retrieve(receive(app))
        with scene.web(settings) as pid, _nginx(where) as port:
            _, length, answer = scene.transfer(settings.server.http_port, request)
            assert b"ResponseStatusType:Success" in answer, answer
            file(where / "body", length)
            get = b"GET /body HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

            def speed(at: int, asked: bytes) -> float:
                seconds, size, _ = scene.transfer(at, asked)
                assert size == length
                return length / 1e6 / seconds
            yield lambda: (speed(settings.server.http_port, request), speed(port, get))
            notes.add(f"{IMAGES} images, {length / 1e6:.0f} MB; worker's peak {scene.peak_memory(pid)}")


@contextlib.contextmanager
def _archived(notes: Notes) -> Iterator[Round]:
    """Two regions with one study, packed in the first and online in the second."""
    with scene.folder() as where:
        places = []
        for name in ("archive", "online"):
            (where / name).mkdir()
            settings = scene.settings(where / name)
            with scene.parts(settings) as app:
                request = retrieve(receive(app))
                if name == "archive":
                    archive(app)
            places.append(settings)

        def speed(port: int) -> float:
            seconds, size, answer = scene.transfer(port, request)
            assert b"ResponseStatusType:Success" in answer, answer
            return size / 1e6 / seconds

        packed, online = places
        with scene.web(packed) as pid, scene.web(online):
            yield lambda: (speed(packed.server.http_port), speed(online.server.http_port))
            notes.add(f"{IMAGES} images, {SIZE / 1e6:.0f} MB, each compared with its SHA-256 on the way; "
                      f"worker's peak {scene.peak_memory(pid)}")


FIGURES: list[Figure] = [
    Figure("rad69.archive.online", "the same study from the online tier", "MB/s", 0.6, 0.9, _archived, runs=9),
    Figure("iti41.upload.cp", "cp and fsync", "MB/s", 0.2, 0.5, _iti41, runs=7),
    Figure("rad69.online.nginx", "nginx, sendfile", "MB/s", 0.4, 0.7, _rad69, runs=9),
]
