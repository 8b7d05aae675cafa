import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.config.profile import Profile
from broker.db import Database, sql
from broker.model.people import PersonName
from broker.patients.events import person_of
from broker.patients.projection import AUTOMATIC, EXPLICIT, replay
from broker.patients.store import log, tables
from broker.patients.store.tables import RETIRED
from broker.patients.terms import terms
from tests.helpers.patients import CLINIC, HOSPA, HOSPB, WEI, XAD, Bench, region

Id = tuple[str, str]
FACES = ("张伟", "ZHANG WEI", "张伟|ZHANG WEI", "李雷")
EVENTS = {"feed": "A04", "merge": "A40", "change": "A47"}
STEPS = st.lists(st.tuples(
    st.sampled_from(["feed", "feed", "both", "merge", "change"]), st.sampled_from([HOSPA, HOSPB]),
    st.integers(0, 3), st.integers(0, 3),
    st.sampled_from(FACES)), min_size=4, max_size=14)


@dataclass
class Replayed:
    """The state the events alone give."""

    people: dict[Id, Any] = field(default_factory=dict)
    survivors: dict[Id, str] = field(default_factory=dict)
    links: set[frozenset[Id]] = field(default_factory=set)      # found by comparison
    stated: set[frozenset[Id]] = field(default_factory=set)
    groups: dict[Id, str] = field(default_factory=dict)
    joined: dict[str, str] = field(default_factory=dict)

    def apply(self, kind: str, key: Id, body: dict[str, Any]) -> None:
        if kind == "fed":
            self.people[key] = body["demographics"]
        elif kind == "late":
            """It changes nothing."""
        elif kind == "linked":
            self.links = {pair for pair in self.links if key not in pair} | _pairs(key, body)
        elif kind == "stated":
            self.stated = {pair for pair in self.stated if key not in pair} | _pairs(key, body)
            self.links -= self.stated
        elif kind == "merged":
            self._merge(key, (key[0], body["survivor"]))
        elif kind == "grouped":
            self.groups[key] = body["affinity"]
        else:
            self.joined[key[1]] = body["survivor"]

    def _merge(self, retired: Id, survivor: Id) -> None:
        self.survivors[retired] = survivor[1]
        theirs = {pair for pair in self.stated if retired in pair}
        carried = {frozenset(other if other != retired else survivor for other in pair) for pair in theirs}
        self.stated = (self.stated - theirs) | {pair for pair in carried if len(pair) == 2}
        self.links = {pair for pair in self.links if retired not in pair} - self.stated
        self.groups.pop(retired, None)


def _pairs(key: Id, body: dict[str, Any]) -> set[frozenset[Id]]:
    return {frozenset((key, (domain, value))) for domain, value in body["to"]}


def read(bench: Bench) -> tuple[Replayed, list[Any]]:
    """Return the present state as the tables have it, and all events."""
    found = Replayed()
    with bench.database.read() as unit:
        groups = {row.id: row for row in sql(unit).execute(sa.select(tables.group))}
        identities = {row.id: row for row in sql(unit).execute(sa.select(tables.identity))}
        links = list(sql(unit).execute(sa.select(tables.link)))
        events = list(sql(unit).execute(sa.select(tables.event).order_by(tables.event.c.id)))
    found.joined = {row.value: groups[row.survivor_id].value for row in groups.values() if row.state == RETIRED}
    for row in identities.values():
        key = (row.domain, row.value)
        found.people[key] = row.demographics
        if row.state == RETIRED:
            found.survivors[key] = identities[row.survivor_id].value
        else:
            found.groups[key] = groups[row.group_id].value
    for row in links:
        of_kind = found.links if row.kind == AUTOMATIC else found.stated
        of_kind.add(frozenset((identities[i].domain, identities[i].value) for i in (row.a_id, row.b_id)))
    return found, events


def components(state: Replayed) -> set[frozenset[Id]]:
    parts = {key: {key} for key in state.groups}
    for one, other in map(tuple, state.links | state.stated):
        whole = parts[one] | parts[other]
        for key in whole:
            parts[key] = whole
    return {frozenset(part) for part in parts.values()}


def _assert_replayed(bench: Bench, state: Replayed) -> None:
    """The lines that took each event in when it happened give the same state from the log."""
    with bench.database.read() as unit:
        index = replay(log.read(unit))
        joined = sa.select(tables.identity.c.domain, tables.identity.c.value, tables.term.c.kind, tables.term.c.value).join(
            tables.term, tables.term.c.identity_id == tables.identity.c.id)
        found = sorted(map(tuple, sql(unit).execute(joined)))
    assert found == sorted((*key, *term) for key in state.groups for term in terms(person_of(state.people[key])))
    records = {(one.patient.domain, one.patient.value): one for one in index.all_records()}
    assert {key: asdict(one.person) for key, one in records.items()} == {
        key: asdict(person_of(person)) for key, person in state.people.items()}
    assert {key: one.group for key, one in records.items() if one.active} == state.groups
    assert {key: one.survivor.value for key, one in records.items() if one.survivor} == state.survivors
    assert {one.value: one.survivor for one in index.all_groups() if one.survivor} == state.joined
    for kind, links in ((AUTOMATIC, state.links), (EXPLICIT, state.stated)):
        assert {frozenset((key, (other.domain, other.value))) for key, one in records.items()
                for other in index.linked(one.patient, kind)} == links


@pytest.fixture(scope="module")
def counter() -> Iterator[int]:
    return itertools.count()


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_event_log_gives_the_tables_back(
    database: Database, profile: Profile, tmp_path: Path, counter: Iterator[int], steps: list[tuple[str, str, int, int, str]],
) -> None:
    bench, run = Bench(database, region(profile), tmp_path / str(next(counter))), next(counter)
    for kind, domain, one, other, face in steps:
        names = tuple(PersonName(f"{name}{run}") for name in face.split("|"))
        person, ids = replace(WEI, names=names), (f"{run}-{one}", f"{run}-{other}")
        if kind == "both":
            clinic = replace(person, other_ids=((CLINIC, ids[1]),))
            if domain == HOSPA:
                bench.feed("A08", ids[0], clinic)
            else:
                bench.add(ids[0], clinic, revise=True)
        elif domain == HOSPA:
            bench.feed(EVENTS[kind], ids[0], person, retired="" if kind == "feed" else ids[1])
        elif kind == "feed":
            bench.add(ids[0], person)
        else:
            bench.merge(*ids)
    state, events = read(bench)
    _assert_replayed(bench, state)
    replayed = Replayed()
    for event in events:
        replayed.apply(event.kind, (event.domain, event.value), event.body)
    assert (replayed.links, replayed.stated) == (state.links, state.stated)
    assert replayed.groups == state.groups
    assert (replayed.survivors, replayed.joined) == (state.survivors, state.joined)
    assert replayed.people == {key: value for key, value in state.people.items() if key in replayed.people}
    told = {(retired.value, survivor.value) for retired, survivor in bench.ports.merged if survivor.domain == XAD}
    assert told <= set(state.joined.items())
    by_group: dict[str, set[Id]] = {}
    for key, value in state.groups.items():
        by_group.setdefault(value, set()).add(key)
    assert not set(by_group) & set(state.joined), "a retired affinity id is nobody's"
    assert {frozenset(people) for people in by_group.values()} == components(state), "a group is what hangs together"
