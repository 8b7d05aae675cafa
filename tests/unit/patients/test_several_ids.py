"""Feeds that name ids of several domains their sender feeds."""

from dataclasses import replace

from broker.model.ids import PatientId
from broker.model.people import Demographics, PersonName
from tests.helpers.patients import CLINIC, HOSPA, HOSPB, WEI, XAD, Bench

BARE = Demographics(names=(PersonName("王", "芳"),))      # too little to be matched by
OTHER = replace(WEI, names=(PersonName("李", "雷"),))


def pair(bench: Bench, value: str, clinic: str, person: Demographics, event: str = "A04") -> str:
    """Let hospital A name an id of its own and one of the clinic in one feed."""
    return bench.feed(event, value, replace(person, other_ids=((CLINIC, clinic),)))


def test_each_id_finds_the_person_on_both_wires(bench: Bench) -> None:
    assert pair(bench, "A1", "L1", BARE) == "AA"
    assert bench.who("A1") == bench.who("L1", CLINIC) == {"A1", "L1"}
    query = "MSH|^~\\&|V|C|BROKER|REGION|1||QBP^Q23|q|P|2.5\nQPD|IHE PIX Query|t|{}\nRCP|I"
    for asked, other in (("A1^^^HOSPA", "L1^^^CLINIC&2.999.6.1&ISO"), ("L1^^^CLINIC", "A1^^^HOSPA&2.999.2.1&ISO")):
        [pid] = [fields for fields in bench.v2(query.format(asked)) if fields[0] == "PID"]
        assert other in pid[3].split("~")
    assert bench.ports.arrived == [PatientId(CLINIC, "L1"), PatientId(HOSPA, "A1")] or (
        bench.ports.arrived == [PatientId(HOSPA, "A1"), PatientId(CLINIC, "L1")])
    assert bench.ports.merged == []


def test_two_persons_become_one_when_a_feed_names_both(bench: Bench) -> None:
    bench.feed("A04", "A1", BARE)
    bench.add("L1", WEI, domain=CLINIC)
    older, younger = bench.affinity("A1"), bench.affinity("L1", CLINIC)
    assert pair(bench, "A1", "L1", BARE, "A08") == "AA"
    assert bench.who("A1") == {"A1", "L1"}
    assert bench.ports.merged == [(PatientId(XAD, younger), PatientId(XAD, older))]


def test_what_a_source_said_holds_until_it_says_otherwise(bench: Bench) -> None:
    pair(bench, "A1", "L1", BARE)
    bench.feed("A08", "A1", replace(BARE, phones=("1",)))
    assert bench.who("A1") == {"A1", "L1"}, "to be silent about the other id is not to take it back"
    pair(bench, "A1", "L1", OTHER, "A08")
    assert bench.who("A1") == {"A1", "L1"}, "a new name of both"
    before = bench.affinity("A1")
    bench.add("L1", replace(OTHER, names=(PersonName("韩", "梅"),)), domain=CLINIC, revise=True)
    assert (bench.who("A1"), bench.who("L1", CLINIC)) == ({"A1"}, {"L1"}), "another name of one of them"
    new = bench.affinity("L1", CLINIC)
    assert bench.ports.moved == [({PatientId(CLINIC, "L1")}, PatientId(XAD, before), PatientId(XAD, new))]


def test_another_id_in_the_place_of_the_first_one_takes_it_back(bench: Bench) -> None:
    pair(bench, "A1", "L1", BARE)
    assert pair(bench, "A1", "L2", BARE, "A08") == "AA"
    assert (bench.who("A1"), bench.who("L1", CLINIC)) == ({"A1", "L2"}, {"L1"})


def test_an_id_merged_away_is_left_to_its_survivor(bench: Bench) -> None:
    bench.add("L1", BARE, domain=CLINIC)
    pair(bench, "A1", "L2", BARE)
    assert bench.merge("L1", "L2", domain=CLINIC) == "CA"
    assert bench.who("A1") == {"A1", "L1"}, "what a source said of the retired id holds for its survivor"
    assert pair(bench, "A1", "L2", BARE, "A08") == "AA"
    assert bench.who("A1") == {"A1", "L1"}


def test_an_update_reaches_both_records(bench: Bench) -> None:
    pair(bench, "A1", "L1", BARE)
    bench.add("B1")
    pair(bench, "A1", "L1", WEI, "A08")
    assert bench.who("B1", HOSPB) == {"A1", "B1", "L1"}
    with bench.database.read() as unit:
        found = [bench.manager.demographics(unit, PatientId(*one)) for one in ((HOSPA, "A1"), (CLINIC, "L1"))]
    assert all(one is not None and one.names == WEI.names and one.birth_date == WEI.birth_date for one in found)
