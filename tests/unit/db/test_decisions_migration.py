"""Events of the versions before decisions are found by every id they tell of, as those of today are."""

import contextlib
import os
from pathlib import Path

import sqlalchemy as sa

from broker.db import Database, schema, sql
from broker.model.ids import PatientId
from broker.patients import events
from broker.patients.events import Event, Grouped, Joined, Merged
from broker.patients.store import log, tables
from tests.helpers.postgresql import fresh

HOSPITAL, XAD = "2.999.2.1", "2.999.1.1"
LONG = "号" * 250       # as long as an id may be


def _before(folder: Path) -> str:
    """Return the URL of a store at the schema before decisions, on the PostgreSQL that BROKER_TEST_POSTGRESQL names if any."""
    if server := os.environ.get("BROKER_TEST_POSTGRESQL", ""):
        return fresh(server, "0010")
    url = f"sqlite:///{folder / 'broker.db'}"
    with contextlib.closing(Database(url)) as database:
        schema.upgrade(database, "0010")
    return url


def test_events_of_earlier_versions_tell_of_the_other_id_too(tmp_path: Path) -> None:
    happened: list[Event] = [
        *(Grouped(PatientId(HOSPITAL, f"A{n}"), f"G{n}") for n in range(2001)), Grouped(PatientId(HOSPITAL, LONG), "GLONG"),
        Joined(PatientId(XAD, "G1"), PatientId(XAD, "G2")), Merged(PatientId(HOSPITAL, "A1"), PatientId(HOSPITAL, LONG))]
    with contextlib.closing(Database(_before(tmp_path))) as database:
        with database.write() as unit:
            sql(unit).execute(sa.insert(tables.event), [
                {"at": 1.0, "kind": one.kind, "domain": one.patient.domain, "value": one.patient.value, "sender": "HIS",
                 "message_id": "m", "body": one.body()} for one in happened])
        schema.upgrade(database)
        with database.read() as unit:
            told = list(sql(unit).scalars(sa.select(tables.event.c.about).order_by(tables.event.c.id)))
            assert told == [events.about(one) for one in happened]
            around = [one.event for _, one in log.around(unit, PatientId(HOSPITAL, LONG), XAD)]
    assert around == [happened[1], happened[2], *happened[2001:]]
