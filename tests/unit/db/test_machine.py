"""Every state and every event of the four machines, on the real tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from broker.db import Database, sql
from broker.db.machine import GONE, NEW, Machine
from broker.imaging.store import tables as t
from broker.imaging.store.machines import FETCH_JOB, PUBLICATION, STUDY
from broker.model.ports import Unit
from broker.repository.store import DOCUMENT, document

_STUDY: dict[str, Any] = {
    "id": 1, "hospital": "a", "study_uid": "1.2", "tier": "online", "patient_domain": "2.999.2.1", "patient_value": "P",
    "study_date": "", "accession": "", "facts": {}, "objects": 0, "bytes": 0, "first_at": 0.0, "last_at": 0.0, "used_at": 0.0,
    "part": 0}


@dataclass(frozen=True)
class Bench:
    """A machine, its table, and a row of it without its state."""

    machine: Machine
    table: sa.Table
    row: dict[str, Any]

    def put(self, unit: Unit, state: str) -> None:
        """Have this row alone, in this state."""
        if self.table is t.publication:
            sql(unit).execute(t.study.insert(), {**_STUDY, "state": "complete"})
        sql(unit).execute(self.table.insert(), {**self.row, "state": state})

    def state(self, unit: Unit) -> str:
        """Return the row's state; `GONE` when there is none."""
        return sql(unit).scalar(sa.select(self.table.c.state)) or GONE


BENCHES = [
    Bench(STUDY, t.study, _STUDY),
    Bench(PUBLICATION, t.publication, {
        "study_id": 1, "patient_domain": "2.999.2.1", "patient_value": "P", "manifest_uid": "", "entry_uuid": "", "digest": "",
        "attempts": 0, "next_at": 0.0, "reason": ""}),
    Bench(FETCH_JOB, t.fetch_job, {
        "id": 1, "hospital": "a", "study_uid": "1.2", "owner": "", "created_at": 0.0, "beat_at": 0.0, "ended_at": 0.0,
        "reason": ""}),
    Bench(DOCUMENT, document, {
        "id": 1, "unique_id": "1.2", "sha1": "0" * 40, "size": 1, "mime_type": "text/plain", "path": "00/0", "at": 0.0}),
]


def pairs() -> Iterator[Any]:
    for bench in BENCHES:
        for state in bench.machine.states:
            for event in bench.machine.events:
                yield pytest.param(bench, state, event, id=f"{bench.machine.name}-{state}-{event}".replace(" ", "_"))


def targets(machine: Machine, event: str) -> set[str]:
    """Return where an event leads from anywhere."""
    return {one.target for one in machine.transitions if one.event == event and one.source != NEW}


@pytest.mark.parametrize(("bench", "state", "event"), list(pairs()))
def test_each_event_in_each_state_does_what_the_table_says(
        database: Database, bench: Bench, state: str, event: str) -> None:
    machine = bench.machine
    for target in sorted(targets(machine, event)):
        allowed = (state, event, target) in machine.transitions
        with database.write() as unit:
            for table in (document, t.fetch_job, t.publication, t.study):
                sql(unit).execute(table.delete())
            bench.put(unit, state)
            moved = machine.remove(unit, event) if target == GONE else machine.move(unit, event, to=target)
            assert (moved, bench.state(unit)) == ((1, target) if allowed else (0, state))


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: str(bench.machine.name))
def test_every_state_can_be_reached_from_the_beginning(bench: Bench) -> None:
    found, before = {NEW}, set[str]()
    while found != before:
        before = set(found)
        found |= {one.target for one in bench.machine.transitions if one.source in before}
    assert found - {NEW, GONE} == set(bench.machine.states)


def test_conditions_and_values_come_along(database: Database) -> None:
    bench = BENCHES[2]
    with database.write() as unit:
        bench.put(unit, "queued")
        assert FETCH_JOB.move(unit, "claimed", t.fetch_job.c.id == 2, owner="other") == 0
        assert FETCH_JOB.move(unit, "claimed", t.fetch_job.c.id == 1, owner="me") == 1
        assert sql(unit).execute(sa.select(t.fetch_job.c.state, t.fetch_job.c.owner)).one() == ("running", "me")


@pytest.mark.parametrize("call", [
    lambda unit: FETCH_JOB.move(unit, "forgotten by all"),
    lambda unit: FETCH_JOB.move(unit, "ended"),                 # done or failed?
    lambda unit: FETCH_JOB.move(unit, "claimed", to="done"),
    lambda unit: FETCH_JOB.remove(unit, "claimed"),
    lambda _unit: FETCH_JOB.first("claimed"),
])
def test_what_the_table_does_not_know_is_a_mistake(database: Database, call: Any) -> None:
    with database.write() as unit:
        BENCHES[2].put(unit, "queued")
        with pytest.raises(ValueError, match="fetch job"):
            call(unit)
        assert BENCHES[2].state(unit) == "queued"
