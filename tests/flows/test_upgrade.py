"""What version 0.1.0 stored is found by this one: every answer, every byte, and the work that waited goes on."""

import contextlib
import json
import re
import shutil
import sqlite3
import tarfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broker.client import messages
from broker.client.consult import Consultation
from broker.client.soap import Endpoint
from broker.config import profile as profiles
from broker.db import Database, schema
from broker.demo import pacs as demo_pacs
from broker.demo.pacs import Node
from broker.imaging.store import fetches, publications, studies
from broker.model.ids import PatientId
from broker.model.imaging import InstanceRef
from broker.wire import xml
from tests.helpers import dicom, mllp
from tests.helpers.postgresql import fresh
from tests.helpers.region import Region
from tests.helpers.site import OURS, THEIRS, adt
from tests.helpers.waiting import eventually

STORED = Path(__file__).parent / "upgrade-0.1.0" / "region.tar.xz"
OLD = "0004"        # the schema of 0.1.0
CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass
class Upgraded:
    """The region of 0.1.0 under this version, and what 0.1.0 answered."""

    region: Region
    url: str
    answers: dict[str, Any]

    def client(self) -> Consultation:
        return Consultation(self.region.url, profiles.load(str(self.region.folder / "region")))

    def publication(self, study_uid: str) -> str:
        """Return the state of publishing this study of hospital A."""
        with contextlib.closing(Database(self.url)) as database, database.read() as unit:
            study = studies.study(unit, "a", study_uid)
            row = publications.get(unit, study.id) if study is not None else None
            return row.state if row is not None else ""

    def fetched(self, job_id: int) -> bool:
        """Say whether the job is done and everything it was for has come."""
        with contextlib.closing(Database(self.url)) as database, database.read() as unit:
            job = fetches.state(unit, job_id)
            return job is not None and job.state == "done" and fetches.missing(unit, job_id) == []


def copied(store: Path, url: str) -> None:
    """Enter every row of a SQLite store into a PostgreSQL database of the same schema."""
    source, target = sa.create_engine(f"sqlite:///{store}"), sa.create_engine(url)
    here, there = sa.MetaData(), sa.MetaData()
    here.reflect(source)
    there.reflect(target)
    with source.connect() as reader, target.begin() as writer:
        for table in there.sorted_tables:
            rows = [dict(row) for row in reader.execute(sa.select(here.tables[table.name])).mappings()]
            if rows and table.name != "alembic_version":
                writer.execute(table.insert(), rows)
            if rows and "id" in table.c:
                sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                writer.execute(sa.text(f"SELECT setval({sequence}, (SELECT max(id) FROM {table.name}))"))
    source.dispose()
    target.dispose()


def objects_of(answer: str) -> list[str]:
    """Return the objects of an answer in their order, as canonical XML."""
    return [ET.canonicalize(ET.tostring(each)) for each in ET.fromstring(answer).find(".//{*}RegistryObjectList") or ()]


def unpacked(folder: Path, database_url: str = "") -> tuple[Region, dict[str, Any]]:
    """Return a region on what 0.1.0 stored, its PACS moved to a port that is free here; nothing runs yet.

    The fetch job is dated now, as if 0.1.0 had just been stopped: one older than its hospital's `total_seconds` is given up.
    """
    region = Region(folder, database_url=database_url)
    shutil.rmtree(folder / "region")
    with tarfile.open(STORED) as packed:
        packed.extractall(folder, filter="data")
    hospitals = folder / "region" / "hospitals.toml"
    hospitals.write_text(re.sub(r"port = \d+", f"port = {region.pacs_port}", hospitals.read_text("utf-8")), "utf-8")
    with contextlib.closing(sqlite3.connect(region.data / "broker.db")) as store, store:
        store.execute("UPDATE fetch_job SET created_at = ?", (time.time(),))
    return region, json.loads((folder / "answers.json").read_text("utf-8"))


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    """The region as the operator upgrades it: `broker db upgrade`, `broker serve`. On PostgreSQL with the same rows."""
    url = fresh(request.getfixturevalue("postgres").url, OLD) if request.param == "postgresql" else ""
    region, answers = unpacked(tmp_path_factory.mktemp("upgraded"), url)
    store = region.data / "broker.db"
    if url:
        copied(store, url)
        store.unlink()
    assert region.run("db", "current", expect=1).startswith(f"schema {OLD}, newest ")
    assert region.run("db", "upgrade").startswith(f"schema {schema.head()}")
    node, broker = Node(ae_title="PACSB", port=region.pacs_port), Node(ae_title="BROKER", port=region.dicom_port)
    with demo_pacs.pacs(region.folder / "pacs", node, broker):
        demo_pacs.send(region.folder / "origin", node, "MODALITY")
        with region:
            yield Upgraded(region, url or f"sqlite:///{store}", answers)


def test_the_cross_reference_answers_as_before(upgraded: Upgraded) -> None:
    with upgraded.client() as client:
        for patient, others in upgraded.answers["ids"].items():
            assert [str(other) for other in client.ids(PatientId.parse(patient))] == others, patient
        retired, survivor = map(PatientId.parse, upgraded.answers["merged"])
        assert client.affinity_id(retired) == client.affinity_id(survivor)


def test_a_message_answered_before_the_upgrade_is_answered_the_same(upgraded: Upgraded) -> None:
    assert mllp.send(upgraded.region.mllp_port, upgraded.answers["message"]) == upgraded.answers["mllp"]


@pytest.mark.parametrize("name", [
    "FindDocuments", "FindSubmissionSets", "GetAll", "GetDocuments", "GetSubmissionSets", "GetAssociations",
    "GetSubmissionSetAndContents", "GetRelatedDocuments"])
def test_stored_queries_answer_as_before(upgraded: Upgraded, name: str) -> None:
    asked, answered = upgraded.answers["queries"][name]
    with Endpoint(upgraded.region.url + "/xds/registry") as registry:
        answer = xml.canonical(registry.call(asked.encode())).decode()
    assert objects_of(answered)
    assert objects_of(answer) == objects_of(answered)


def test_documents_are_there_byte_for_byte(upgraded: Upgraded, tmp_path: Path) -> None:
    texts = {unique_id: text.encode("latin-1") for unique_id, text in upgraded.answers["texts"].items()}
    assert upgraded.answers["replaced"] in texts
    with upgraded.client() as client:
        for patient, unique_ids in upgraded.answers["documents"].items():
            entries = client.documents(PatientId.parse(patient))
            assert {entry.unique_id for entry in entries} >= set(unique_ids)
            assert upgraded.answers["replaced"] not in {entry.unique_id for entry in entries}
    body = "".join(
        f"<DocumentRequest><RepositoryUniqueId>2.999.1.2</RepositoryUniqueId><DocumentUniqueId>{unique_id}</DocumentUniqueId>"
        "</DocumentRequest>" for unique_id in texts)
    with Endpoint(upgraded.region.url + "/xds/repository") as repository:
        answer = repository.exchange(
            f'<RetrieveDocumentSetRequest xmlns="{xml.XDS}">{body}</RetrieveDocumentSetRequest>'.encode(), (), tmp_path)
    response, documents = messages.read_documents(answer.body)
    assert response.problems == ()
    assert {document.unique_id: Path(answer.parts[document.attachment].path).read_bytes() for document in documents} == texts


def test_pictures_online_and_archived_are_there_byte_for_byte(upgraded: Upgraded, tmp_path: Path) -> None:
    pictures = upgraded.answers["pictures"]
    with upgraded.client() as client:
        got = client.images(
            [InstanceRef(study, series, sop_uid, CT, OURS) for sop_uid, (study, series, _) in pictures.items()], tmp_path)
    assert got.missing == ()
    assert {picture.sop_uid: picture.sha256 for picture in got.pictures} == {
        sop_uid: sha256 for sop_uid, (_, _, sha256) in pictures.items()}


def test_a_study_that_waited_for_its_patient_is_published(upgraded: Upgraded) -> None:
    study_uid, patient = upgraded.answers["waiting"]
    assert upgraded.publication(study_uid) == "waiting_patient"
    assert mllp.segment(mllp.send(upgraded.region.mllp_port, adt("after-1", patient, name="王^芳")), "MSA")[1] == "AA"
    eventually(lambda: upgraded.publication(study_uid) == "published", 60.0)
    with upgraded.client() as client:
        assert len(client.documents(client.affinity_id(PatientId("2.999.2.1", patient)))) == 1


def test_a_fetch_that_waited_is_done(upgraded: Upgraded, tmp_path: Path) -> None:
    eventually(lambda: upgraded.fetched(upgraded.answers["job"]), 60.0)
    refs = [InstanceRef(study, series, sop, sop_class, THEIRS) for study, series, sop, sop_class in upgraded.answers["origin"]]
    with upgraded.client() as client:
        got = client.images(refs, tmp_path)
    assert got.missing == ()
    sent = {ref.sop_uid for ref in refs}
    assert {picture.sop_uid for picture in got.pictures} == sent
    files = sorted((upgraded.region.folder / "origin").glob("*.dcm"))
    assert sorted(dicom.body(picture.path) for picture in got.pictures) == sorted(dicom.body(file) for file in files)
