"""What the archive costs in SQL, and how fast its rows come back from the containers."""

import contextlib
import hashlib
import io
import itertools
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom
import sqlalchemy as sa

from broker.archive.formats.sdicom import PackImage, write_container
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.config import profile as profiles
from broker.db import Database, schema, sql
from broker.files.sources import Octets
from broker.imaging.archiving.rebuild import Rebuilder
from broker.imaging.store import tables as t
from tests.bench import scene
from tests.bench.harness import Figure, Notes, Round
from tests.helpers.dicom import CT, ct_dataset

_IMAGES, _SERIES = 200, 4
_BEFORE = "0005t"       # the schema as it was before containers had a header
_TABLES = (t.study, t.series, t.instance, t.container, t.publication, t.catalogue, t.conflict_case, t.conflict)


class Names:
    """UIDs as machines make them, the same in each run."""

    def __init__(self) -> None:
        self._random = random.Random(7)

    def uid(self) -> str:
        number = self._random.randrange
        return f"1.2.840.113619.2.{number(10**12)}.{number(10**10)}.{number(10**6)}"

    def oid(self) -> str:
        return f"2.25.{uuid.UUID(int=self._random.getrandbits(128)).int}"


def manifest(study_uid: str, series: list[str], number: int, names: Names) -> dict[str, Any]:
    """What a container tells of a CT of a patient with a Chinese name, published."""
    patient = {"domain": "1.2.156.112604.1.2", "value": f"{number:08}"}
    facts = {
        "PatientName": "WANG^XIAOMING=王^小明", "PatientBirthDate": "19600101", "PatientSex": "M", "StudyDate": "20240101",
        "StudyTime": "101112", "AccessionNumber": f"CT{number:010}", "StudyID": str(number),
        "StudyDescription": "胸部CT平扫+增强", "ReferringPhysicianName": "李^医生", "InstitutionName": "第一人民医院",
        "ProcedureCodeValue": "CT0102", "ProcedureCodingSchemeDesignator": "99HIS", "ProcedureCodeMeaning": "胸部CT平扫+增强"}
    return {
        "study": study_uid, "hospital": "a", "part": 0, "patient": patient, "accession": f"CT{number:010}",
        "study_date": "20240101", "facts": facts, "version": 1, "packed_at": 1.7e9, "first_at": 1.7e9, "last_at": 1.7e9 + 0.5,
        "used_at": 1.7e9 + number,
        "series": [{"uid": uid, "modality": "CT", "body_part": "CHEST", "description": f"Lung 1.25 mm {place}"}
                   for place, uid in enumerate(series)],
        "publication": {
            "manifest_uid": names.oid(), "entry_uuid": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, study_uid)}",
            "digest": hashlib.sha256(study_uid.encode()).hexdigest(),
            "entry_patient": f"{number:020}^^^&1.2.156.112604.1.1&ISO"}}


def _pack(archive: Path, names: Names, number: int, size: int, files: Path | None) -> None:
    """Write the container of a study as the archive has it; its pictures as files, too, where those are wanted."""
    study_uid = names.uid()
    series = [names.uid() for _ in range(_SERIES)]
    images = []
    for place in range(_IMAGES):
        uid, of = names.uid(), series[place % _SERIES]
        data = picture(study_uid, of, uid, place, size) if size else uid.encode()
        if files:
            (files / f"{uid}.dcm").write_bytes(data)
        images.append(PackImage(
            sop_uid=uid, series_uid=of, sop_class=CT, transfer_syntax="1.2.840.10008.1.2.1", number=place,
            sha256=hashlib.sha256(data).hexdigest(), source=Octets(data)))
    folder = archive / hashlib.sha256(study_uid.encode()).hexdigest()[:2]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{study_uid}-{number:012x}.seq").open("wb") as file:
        write_container(file, study_uid, images, manifest(study_uid, series, number, names), bytes(16))


def picture(study_uid: str, series_uid: str, sop_uid: str, number: int, size: int) -> bytes:
    dataset = ct_dataset(study_uid, series_uid, sop_uid, number=number, size=size)
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-150, -150, number * 1.25], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness, dataset.ImageType = [0.5, 0.5], 1.25, ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.WindowCenter, dataset.WindowWidth, dataset.RescaleIntercept, dataset.RescaleSlope = 40, 400, -1024, 1
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _rebuilder(where: Path, database: Database) -> Rebuilder:
    sdfo = Sdfo(OnlineStore(where / "online"), PosixStore(where / "archive"))
    return Rebuilder(database, sdfo, profiles.load("demo"), lambda _, uuids: uuids)


@contextlib.contextmanager
def _rebuild(notes: Notes) -> Iterator[Round]:
    studies, turn = 40, itertools.count()
    with scene.folder() as where:
        files, names = where / "files", Names()
        files.mkdir()
        for number in range(studies):
            _pack(where / "archive", names, number, 64, files)
        some = sorted(files.iterdir())[::10]

        def ours() -> float:
            with closing(Database(f"sqlite:///{where / f'index-{next(turn)}.db'}")) as database:
                schema.upgrade(database)
                began = time.perf_counter()
                found = _rebuilder(where, database).run()
                assert found.images == studies * _IMAGES
                return found.images / (time.perf_counter() - began)

        def theirs() -> float:
            began = time.perf_counter()
            for file in some:
                assert pydicom.dcmread(file, stop_before_pixels=True).StudyInstanceUID
            return len(some) / (time.perf_counter() - began)

        notes.add(f"{studies} studies of {_IMAGES} slices with 45 attributes; rows of studies, series, containers and "
                  "publications entered, durable; pydicom reads each file's header to the pixels, "
                  f" {len(some)} of them, enters nothing")
        yield lambda: (ours(), theirs())


@contextlib.contextmanager
def _bytes(notes: Notes) -> Iterator[Round]:
    studies = 2000
    with scene.folder() as where:
        names = Names()
        for number in range(studies):
            _pack(where / "archive", names, number, 0, None)
        with closing(Database(f"sqlite:///{where / 'now.db'}")) as now, \
                closing(Database(f"sqlite:///{where / 'before.db'}")) as before:
            schema.upgrade(now)
            schema.upgrade(before, _BEFORE)
            _rebuilder(where, now).run()
            with now.write() as unit:       # as packing has it, which knows the whole file
                sql(unit).execute(sa.update(t.container).values(sha256="5" * 64))
            _copy(now, before)
        was, are = (_size(where / name) / (studies * _IMAGES) for name in ("before.db", "now.db"))
        notes.add(f"{studies} studies of {_IMAGES} images in {_SERIES} series, all packed and published; pages of the tables of "
                  "imaging/ and their indices in SQLite; the same rows in the schema of before as the other side")
        yield lambda: (1 / are, 1 / was)


def _copy(source: Database, target: Database) -> None:
    """Enter the same rows in another schema."""
    old = sa.MetaData()
    with source.read() as unit, target.write() as other:
        old.reflect(sql(other), only=[table.name for table in _TABLES])
        for table in _TABLES:
            rows = [dict(row._mapping) for row in sql(unit).execute(sa.select(table))]
            if rows:
                columns = old.tables[table.name].columns.keys()
                sql(other).execute(old.tables[table.name].insert(), [{name: row[name] for name in columns} for row in rows])


def _size(file: Path) -> int:
    """Bytes of the pages of imaging's tables and their indices."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute(
            "SELECT sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name) WHERE tbl_name IN "
            f"({','.join('?' * len(_TABLES))})", [table.name for table in _TABLES])
        return int(rows.fetchone()[0])


FIGURES: list[Figure] = [
    Figure("archive.index.bytes", "the rows of 0.2.0 before containers had a header", "images/byte", 2, 10, _bytes, runs=1),
    Figure("archive.rebuild.pydicom", "a header scan by pydicom of the same pictures as files", "images/s", 20, 200, _rebuild),
]
