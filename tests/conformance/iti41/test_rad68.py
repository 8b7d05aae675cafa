"""RAD-68: a manifest from the publisher through our own repository into our own registry."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.audit.spool import AuditLog
from broker.config.profile import Profile
from broker.db import Database, sql
from broker.imaging.origin import Origins
from broker.imaging.publish import LEASE, Publisher
from broker.imaging.store import recording
from broker.model.caller import Caller
from broker.model.errors import Rejected, Unavailable
from broker.model.imaging import StoredObject
from broker.model.transaction import ServedTransaction
from broker.registry.actor import Registry
from broker.registry.store import registry_object
from broker.repository import iti41_provide
from broker.repository.actor import Repository
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire.ebxml import read_registry_response
from broker.wire.kos import read_manifest
from broker.wire.ports import Manifest
from broker.wire.xml import canonical, parse
from tests.helpers.manifests import CT, LOCAL, PATIENT, FakeCoord, FakeDirectory, FakeMover, NoFetch, included, provide, spooled

STUDY = "2.25.900"


@dataclass
class Region:
    """Publisher, repository and registry; `lose` may lose the answer on its way back."""

    database: Database
    profile: Profile
    folder: Path
    lose: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        directory = FakeDirectory({LOCAL: PATIENT})
        self.repository = Repository(
            self.database, self.folder / "documents", self.profile, Registry(self.database, directory, self.profile))
        origins = Origins(self.database, self.profile, FakeMover(), NoFetch())
        sdfo = Sdfo(OnlineStore(self.folder / "online"), PosixStore(self.folder / "archive"))
        self.publisher = Publisher(self.database, self.profile, directory, self, origins, FakeCoord(), sdfo, "OURS")

    def provide_and_register(self, manifest: Manifest) -> None:
        entry = manifest.submission.objects.documents[0]
        request = provide(
            canonical(manifest.submission.element), [included(entry.id, "cid:kos")],
            {"kos": spooled(manifest.document, self.folder / "spool", "kos")})
        gate = Gate(Open(), AuditLog(self.folder / "audit", "broker", "demo"))
        reply = gate.perform(ServedTransaction(iti41_provide.ROW, self.repository), request, Caller())
        said = read_registry_response(parse(b"".join(reply.fragments)))
        self.lose()
        if said.problems:
            raise Rejected.of(said.problems)

    def receive(self, number: int, at: float) -> None:
        sop = f"{STUDY}.1.{number}"
        tags = {"PatientID": LOCAL.value, "PatientName": "葉^曉東", "StudyDate": "20240506", "Modality": "CT"}
        with self.database.write() as unit:
            recording.record(unit, [StoredObject(
                hospital="a", study_uid=STUDY, series_uid=f"{STUDY}.1", sop_uid=sop, sop_class=CT,
                transfer_syntax="1.2.840.10008.1.2.1", path=sop, size=1, sha256=f"{number:064x}", tags=tags)], self.profile, at)

    def entries(self) -> list[tuple[str, int]]:
        """Status and number of instances of every manifest in the registry."""
        with self.database.read() as unit:
            rows = sql(unit).execute(
                sa.select(registry_object.c.status, registry_object.c.unique_id)
                .where(registry_object.c.kind == "document").order_by(registry_object.c.id)).all()
        found = []
        for status, unique_id in rows:
            document = self.repository.documents.find(unique_id)
            assert document is not None, "a registered document without bytes"
            found.append((status.rpartition(":")[2], len(read_manifest(b"".join(document[1].chunks())).instances)))
        return found

    def files(self) -> int:
        return sum(path.is_file() for path in (self.folder / "documents").rglob("*"))


@pytest.fixture
def region(database: Database, profile: Profile, tmp_path: Path) -> Region:
    return Region(database, profile, tmp_path)


def test_a_study_and_its_late_images_become_one_approved_manifest(region: Region) -> None:
    region.receive(1, 0.0)
    assert region.publisher.run_once(100.0) == 1
    assert region.entries() == [("Approved", 1)]
    region.receive(2, 100.0)
    assert region.publisher.run_once(200.0) == 1
    assert region.entries() == [("Deprecated", 1), ("Approved", 2)]


def test_a_lost_answer_registers_nothing_twice_and_loses_no_bytes(region: Region) -> None:
    def lose() -> None:
        region.lose = lambda: None
        raise Unavailable("repository")

    region.receive(1, 0.0)
    region.lose = lose
    assert region.publisher.run_once(100.0) == 0
    assert region.publisher.run_once(100.0 + LEASE) == 1
    assert (region.entries(), region.files()) == ([("Approved", 1)], 1)
    region.receive(2, 1000.0)
    region.lose = lose
    assert region.publisher.run_once(1100.0) == 0
    assert region.publisher.run_once(1100.0 + LEASE) == 1
    assert (region.entries(), region.files()) == ([("Deprecated", 1), ("Approved", 2)], 2)
