"""PostgreSQL as the durable store: the transactions' own tests on it, the main job, and the service while it is gone."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from broker.model.errors import Rejected
from broker.wire.ebxml import read_registry_response
from broker.wire.xml import RS
from tests.helpers import dicom, mllp
from tests.helpers.bad_pacs import BadPacs
from tests.helpers.mllp import codes, segment
from tests.helpers.postgresql import Postgres, fresh
from tests.helpers.region import Region
from tests.helpers.site import LIMITS, THEIRS, Site, adt, ref
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("postgresql"), pytest.mark.peer("dcmtk"), pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
ON_IT = {
    "documents": ("tests/conformance/iti18", "tests/conformance/iti41", "tests/conformance/iti42", "tests/conformance/iti43",
                  "tests/conformance/rad69", "tests/unit/registry", "tests/unit/repository"),
    "feeds": ("tests/conformance/iti8", "tests/conformance/iti30", "tests/conformance/iti44", "tests/conformance/iti104"),
    "queries": ("tests/conformance/iti9", "tests/conformance/iti21", "tests/conformance/iti45", "tests/conformance/iti47",
                "tests/conformance/iti78", "tests/conformance/iti83", "tests/conformance/iti119"),
    "patients": ("tests/unit/patients",),
    "imaging": tuple(f"tests/unit/imaging/test_{name}.py" for name in (
        "studies", "fetch", "locate", "publish", "receiver", "conflicts", "damage", "verify", "tiering", "recall")),
}
# They look below SQLAlchemy into SQLite.
NOT_ON_IT = ("few_statements", "test_what_comes_on_another_day")


class PgSite(Site):
    """A region whose rows are in PostgreSQL."""

    url: str = ""

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """Return the rows of a table."""
        with psycopg.connect(self.url.replace("+psycopg", "")) as connection:
            return connection.execute(f"SELECT {columns} FROM {table}").fetchall()


@pytest.fixture(scope="module")
def site(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgSite]:
    PgSite.url = fresh(postgres.url)
    region = Region(tmp_path_factory.mktemp("pg"), server=LIMITS, database_url=PgSite.url)
    with region:
        yield PgSite(region)


def test_every_transaction_is_named() -> None:
    named = {Path(path).name for paths in ON_IT.values() for path in paths if path.startswith("tests/conformance")}
    assert named == {one.name for one in (ROOT / "tests" / "conformance").iterdir() if one.is_dir() and one.name != "__pycache__"}


@pytest.mark.parametrize("part", ON_IT)
def test_the_transactions_own_tests_pass_on_it(postgres: Postgres, part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", " and ".join(f"not {name}" for name in NOT_ON_IT),
         *ON_IT[part]],
        cwd=ROOT, env={**os.environ, "BROKER_TEST_POSTGRESQL": postgres.url}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]


def test_a_role_refuses_to_start_on_another_schema(postgres: Postgres, tmp_path: Path) -> None:
    with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    region = Region(tmp_path, database_url=postgres.url.rpartition("/")[0] + "/empty")
    assert "broker db upgrade" in subprocess.run(
        [sys.executable, "-m", "broker", "serve", "--config", str(region.config)], capture_output=True, text=True, timeout=60,
        check=False).stderr
    region.run("db", "upgrade")
    region.run("db", "current")


def test_the_main_job(site: PgSite, tmp_path: Path) -> None:
    """In by C-STORE, published, found, its manifest read, given; and from the PACS that keeps it."""
    files = site.store(tmp_path, 3)
    eventually(lambda: site.query() >= 1)
    with site.client() as client:
        found = client.manifests(client.documents(site.patient), tmp_path / "manifests")
        got = client.pictures(found.files, tmp_path / "got")
    assert got.missing == ()
    assert {picture.sop_uid for picture in got.pictures} == {ref(file).sop_uid for file in files}
    far = dicom.ct_study(tmp_path / "far", 3)
    with contextlib.closing(BadPacs(site.region.pacs_port, site.region.dicom_port)) as pacs:
        pacs.holds += far
        assert "3 images" in site.region.run("publish", "--hospital", "b", "--study", ref(far[0]).study_uid)
        with site.client() as client:
            got = client.images([ref(file, THEIRS) for file in far], tmp_path / "far")
    assert got.missing == ()
    site.goes_on(tmp_path)


def test_the_service_while_it_is_gone_and_when_it_is_back(site: PgSite, postgres: Postgres, tmp_path: Path) -> None:
    data = b"while the database is away"
    (late,) = dicom.ct_study(tmp_path / "late", 1)
    files = site.files()
    postgres.stop()
    try:
        answer = mllp.send(site.region.mllp_port, adt("away", "PG-1"))
        assert (segment(answer, "MSA")[1:3], codes(answer)) == (["AR", "away"], ["207"])
        body = site.provide(site.objects(data), data)
        reply = site.post("/xds/repository", body, body.content_type)
        problems = read_registry_response(next(reply.root().iter(f"{{{RS}}}RegistryResponse"))).problems
        assert [problem.code for problem in problems] == ["XDSRepositoryBusy"]
        assert site.files() == files
        with site.client() as client, pytest.raises(Rejected) as caught:
            client.documents(site.patient)
        assert [problem.code for problem in caught.value.problems] == ["XDSRegistryBusy"]
        assert dicom.store([late], site.region.dicom_port, "PACSA").returncode == 0     # durable: its row follows
        health = site.region.health()
        assert (health["status"], health["dependencies"]["database"]) == ("degraded", "database is not available")
    finally:
        postgres.start()
    site.region.wait_healthy()
    eventually(lambda: site.known(ref(late).sop_uid))
    assert ("PG-1",) not in site.rows("patient_identity", "value")
    site.feed("PG-1")
    site.goes_on(tmp_path)
