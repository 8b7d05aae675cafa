"""Times of any precision against bounds of any precision, in the database as on paper."""

import importlib

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from broker.config.profile import Profile
from broker.db import Database, sql
from broker.model.metadata import APPROVED
from broker.registry import store
from broker.registry.actor import Registry
from broker.wire.ebxml_types import pad_dtm
from tests.helpers.registry import WANG, Directory, ask, bundle, document, register, unique_ids

MOMENTS = ("20231231235959", "20240101000000", "20240506070809")
TIMES = sorted({moment[:length] for moment in MOMENTS for length in (4, 6, 8, 10, 12, 14)})
FIND = {"$XDSDocumentEntryPatientId": str(WANG), "$XDSDocumentEntryStatus": [APPROVED]}


@pytest.fixture
def registry(database: Database, profile: Profile) -> Registry:
    made = Registry(database, Directory(), profile)
    register(made, bundle([
        document(f"Doc{n}", unique_id=f"2.999.55.{n}", creation_time=time, service_start_time="", service_stop_time="")
        for n, time in enumerate(TIMES)]))
    return made


def found(registry: Registry, **bounds: str) -> list[str]:
    asked = {f"$XDSDocumentEntryCreationTime{name}": text for name, text in bounds.items()}
    return sorted(TIMES[int(uid.rpartition(".")[2])] for uid in unique_ids(ask(registry, "FindDocuments", {**FIND, **asked})))


def test_what_cannot_lie_before_the_first_second_is_found(registry: Registry) -> None:
    """From is inside; a time of less precision ends with its last second."""
    for bound in TIMES:
        assert found(registry, From=bound) == [time for time in TIMES if time + "9" * (14 - len(time)) >= pad_dtm(bound)], bound


def test_what_begins_before_the_end_is_found(registry: Registry) -> None:
    """To is outside."""
    for bound in TIMES:
        assert found(registry, To=bound) == [time for time in TIMES if pad_dtm(time) < pad_dtm(bound)], bound


def test_rows_of_older_versions_get_their_times_back(registry: Registry, database: Database) -> None:
    entry = store.registry_entry
    register(registry, bundle([document("set")], submission_time="20240506"))
    with database.read() as unit:
        before = [tuple(row) for row in sql(unit).execute(sa.select(entry).order_by(entry.c.object_id))]
    with database.write() as unit:
        connection = sql(unit)
        for row in connection.execute(sa.select(entry.c.object_id, entry.c.creation_time)).all():
            connection.execute(sa.update(entry).where(entry.c.object_id == row.object_id).values(
                creation_time=pad_dtm(row.creation_time)))
        connection.execute(sa.update(store.registry_submission).where(
            store.registry_submission.c.submission_time == "20240506").values(submission_time="20240506000000"))
        with Operations.context(MigrationContext.configure(connection)):
            importlib.import_module("broker.db.migrations.versions.0005s_partial_times").upgrade()
    with database.read() as unit:
        assert [tuple(row) for row in sql(unit).execute(sa.select(entry).order_by(entry.c.object_id))] == before
        times = sql(unit).scalars(sa.select(store.registry_submission.c.submission_time)).all()
    assert sorted(times) == ["20240506", "20240506013010"]
