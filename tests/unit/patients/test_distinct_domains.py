"""`link_duplicates = false`: of such a domain comparison never makes two ids one person's, decisions and merges do."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.config.profile import Profile
from broker.db import Database
from broker.model.caller import Caller
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.patients.desk import Desk, Wish
from broker.patients.projection import replay
from broker.patients.steward_rest import DECISIONS
from broker.patients.store import log
from tests.helpers.patients import HOSPA, HOSPB, HOSPC, WEI, Bench, region

RUNS = itertools.count()
CHINESE, LATIN = (replace(WEI, names=(name,)) for name in WEI.names)
FACES = [CHINESE, LATIN, WEI]


def distinct(profile: Profile) -> Profile:
    domains = tuple(one.model_copy(update={"link_duplicates": one.oid != HOSPA}) for one in region(profile).domains)
    return region(profile).model_copy(update={"domains": domains})


@pytest.fixture
def apart(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    return Bench(database, distinct(profile), tmp_path)


def decide(bench: Bench, name: str, one: PatientId, other: PatientId, *, undo: bool = False) -> None:
    desk = Desk(bench.database, bench.settler, lambda _unit, _outcome: (0, 0))
    caller = Caller(node="here", user="ward", address="127.0.0.1")
    bench.gate.inside(DECISIONS[name], desk, Wish(patient=one, other=other, undo=undo), caller)


def replayed(bench: Bench) -> dict[str, str]:
    with bench.database.read() as unit:
        return {one.patient.value: one.group for one in replay(log.read(unit)).all_records()}


def test_without_the_setting_two_ids_of_one_domain_are_joined(bench: Bench) -> None:
    bench.feed("A04", "A1")
    bench.feed("A04", "A2")
    assert bench.who("A1") == {"A1", "A2"}


def test_two_ids_stay_two_persons_and_others_join_the_older(apart: Bench) -> None:
    apart.feed("A04", "A1")
    apart.feed("A04", "A2")
    apart.add("B1")
    apart.add("B2")
    apart.feed("A08", "A2")
    apart.feed("A08", "A1")
    assert (apart.who("A1"), apart.who("A2")) == ({"A1", "B1", "B2"}, {"A2"}), "of hospital B two may be one"
    assert replayed(apart) == {
        **dict.fromkeys(("A1", "B1", "B2"), apart.affinity("A1")), "A2": apart.affinity("A2")}


@settings(derandomize=True, deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(
    st.sampled_from([HOSPA, HOSPA, HOSPB, HOSPC]), st.integers(0, 2), st.sampled_from(FACES)), max_size=12))
def test_whatever_is_fed_nobody_has_two_ids_of_such_a_domain(apart: Bench, steps: list[tuple[str, int, Demographics]]) -> None:
    run = next(RUNS)
    for domain, number, face in steps:
        person = replace(face, names=tuple(replace(name, given=f"{name.given}{run}") for name in face.names))
        value = f"{run}-{domain[-3]}{number}"
        if domain == HOSPA:
            apart.feed("A04", value, person)
        else:
            apart.add(value, person, domain=domain)
    groups = {value: group for value, group in replayed(apart).items() if value.startswith(f"{run}-")}
    mine = [group for value, group in groups.items() if value.startswith(f"{run}-2")]
    assert len(mine) == len(set(mine))
    domains = {"2": HOSPA, "3": HOSPB, "4": HOSPC}
    assert groups == {value: apart.affinity(value, domains[value.partition("-")[2][0]]) for value in groups}


def test_an_id_of_another_domain_is_no_way_round(apart: Bench) -> None:
    apart.feed("A04", "A1", CHINESE)
    apart.feed("A04", "A2", LATIN)
    apart.add("C1", domain=HOSPC)       # has both names
    assert (apart.who("A1"), apart.who("A2")) == ({"A1", "C1"}, {"A2"})
    apart.feed("A08", "A2", LATIN)
    assert (apart.who("A1"), apart.who("A2")) == ({"A1", "C1"}, {"A2"})


def test_what_is_decided_or_merged_holds(apart: Bench) -> None:
    for value in ("A1", "A2", "A3"):
        apart.feed("A04", value)
    one, two = PatientId(HOSPA, "A1"), PatientId(HOSPA, "A2")
    decide(apart, "link", one, two)
    apart.feed("A08", "A2")
    apart.add("B1")
    assert apart.who("A2") == {"A1", "A2", "B1"}
    assert apart.feed("A40", "A1", retired="A3") == "AA"
    assert (apart.who("A1"), replayed(apart)["A3"]) == ({"A1", "A2", "B1"}, "")
    decide(apart, "link", one, two, undo=True)
    apart.feed("A08", "A1")
    assert apart.who("A1") != apart.who("A2"), "comparison has not linked them meanwhile"


def test_switching_it_on_parts_them_as_they_are_fed_and_the_past_replays_as_it_was(
    database: Database, profile: Profile, tmp_path: Path,
) -> None:
    before = Bench(database, region(profile), tmp_path)
    before.feed("A04", "S1")
    before.feed("A04", "S2")
    before.add("S3", domain=HOSPB)
    assert replayed(before) == dict.fromkeys(("S1", "S2", "S3"), before.affinity("S1"))
    after = Bench(database, distinct(profile), tmp_path)
    after.feed("A08", "S2")
    after.feed("A08", "S1")
    assert "S2" not in after.who("S1")
    assert replayed(after) == {value: after.affinity(value) for value in ("S1", "S2")} | {"S3": after.affinity("S3", HOSPB)}
