import threading
from dataclasses import replace

import pytest

from broker.matching.normalise import resident_number
from broker.model.ids import PatientId
from broker.model.people import Demographics, PersonName
from broker.patients import resolution
from broker.patients.events import Fed, Grouped, Joined, Linked, Merged
from tests.helpers.patients import HOSPA, HOSPB, HOSPC, WEI, XAD, Bench, events

OTHER = replace(WEI, names=(PersonName("李", "雷"),))


def test_a_new_person_gets_an_affinity_id_nobody_can_guess_and_keeps_it(bench: Bench) -> None:
    assert bench.feed("A04", "A1") == "AA"
    value = bench.affinity("A1")
    assert len(value) == 15
    assert bench.ports.arrived == [PatientId(HOSPA, "A1")]
    assert bench.feed("A08", "A1") == "AA"
    assert (bench.affinity("A1"), bench.is_active(value), bench.is_active("X" * 15)) == (value, True, False)
    assert bench.ports.arrived == [PatientId(HOSPA, "A1")]
    assert not bench.affinity("A2")


def test_two_hospitals_feeds_of_one_person_become_one(bench: Bench) -> None:
    bench.feed("A04", "A1", replace(WEI, names=(PersonName("葉", "誠"), PersonName("YE", "CHENG"))))
    bench.add("B1", replace(WEI, names=(PersonName("葉誠"),)))
    bench.add("C1", replace(WEI, names=(PersonName("Ye", "Cheng"),)), domain=HOSPC)
    assert bench.who("A1") == {"A1", "B1", "C1"}
    assert len({bench.affinity("A1"), bench.affinity("B1", HOSPB), bench.affinity("C1", HOSPC)}) == 1
    assert bench.ports.arrived == [PatientId(HOSPA, "A1"), PatientId(HOSPB, "B1"), PatientId(HOSPC, "C1")]
    assert bench.ports.merged == []


def test_a_record_that_joins_two_persons_retires_the_younger_id(bench: Bench) -> None:
    bench.feed("A04", "A1", replace(WEI, names=(PersonName("张", "伟"),)))
    bench.add("B1", replace(WEI, names=(PersonName("ZHANG", "WEI"),)))
    older, younger = bench.affinity("A1"), bench.affinity("B1", HOSPB)
    assert older != younger
    bench.ports.arrived.clear()
    bench.add("C1", WEI, domain=HOSPC)
    assert bench.who("A1") == {"A1", "B1", "C1"}
    assert bench.affinity("B1", HOSPB) == older
    assert bench.ports.merged == [(PatientId(XAD, younger), PatientId(XAD, older))]
    assert set(bench.ports.arrived) == {PatientId(HOSPB, "B1"), PatientId(HOSPC, "C1")}
    assert (bench.is_active(older), bench.is_active(younger)) == (True, False)


def test_groups_that_contradict_are_not_joined(bench: Bench) -> None:
    numbers = [resident_number("999999790214001"), resident_number("999999790214003")]
    bench.feed("A04", "A1", replace(WEI, names=(PersonName("张", "伟"),), other_ids=(("", numbers[0]),)))
    bench.add("B1", replace(WEI, names=(PersonName("ZHANG", "WEI"),), other_ids=(("2.999.9.1", numbers[1]),)))
    bench.add("C1", WEI, domain=HOSPC)
    assert bench.who("C1", HOSPC) == {"A1", "C1"}
    assert bench.who("B1", HOSPB) == {"B1"}
    assert bench.ports.merged == []


def test_an_update_that_no_longer_matches_leaves_and_those_who_stay_keep_the_id(bench: Bench) -> None:
    bench.feed("A04", "A1")
    bench.add("B1")
    before = bench.affinity("B1", HOSPB)
    assert bench.feed("A08", "A1", OTHER) == "AA"
    assert bench.affinity("B1", HOSPB) == before
    assert bench.affinity("A1") not in ("", before)
    assert (bench.who("A1"), bench.who("B1", HOSPB)) == ({"A1"}, {"B1"})
    assert bench.ports.merged == []
    assert bench.ports.arrived.count(PatientId(HOSPA, "A1")) == 2
    alone = bench.affinity("A1")
    bench.feed("A08", "A1", WEI)
    assert bench.affinity("A1") == before
    assert bench.ports.merged == [(PatientId(XAD, alone), PatientId(XAD, before))]


def test_one_who_held_others_together_leaves_them_apart(bench: Bench) -> None:
    bench.feed("A04", "A1", replace(WEI, names=(PersonName("张", "伟"),)))
    bench.add("B1", replace(WEI, names=(PersonName("ZHANG", "WEI"),)))
    bench.add("C1", WEI, domain=HOSPC)
    kept = bench.affinity("A1")
    bench.add("C1", OTHER, domain=HOSPC, revise=True)
    assert bench.affinity("A1") == kept
    assert len({bench.affinity("A1"), bench.affinity("B1", HOSPB), bench.affinity("C1", HOSPC)}) == 3


def test_one_who_moves_to_another_person_takes_no_id_along(bench: Bench) -> None:
    bench.feed("A04", "A1")
    bench.add("B1")
    bench.add("C1", OTHER, domain=HOSPC)
    first, second = bench.affinity("A1"), bench.affinity("C1", HOSPC)
    bench.feed("A08", "A1", OTHER)
    assert (bench.affinity("A1"), bench.affinity("B1", HOSPB)) == (second, first)
    assert bench.ports.merged == []


def test_a_merge_joins_the_groups_and_its_replay_changes_nothing(bench: Bench) -> None:
    bench.feed("A04", "A1", OTHER)
    bench.feed("A04", "A9")
    bench.add("B7")
    older, younger = bench.affinity("A1"), bench.affinity("A9")
    bench.ports.arrived.clear()
    for _ in range(2):
        assert bench.feed("A40", "A1", OTHER, retired="A9") == "AA"
        assert (bench.who("A1"), bench.who("B7", HOSPB)) == ({"A1"}, {"B7"}), "nobody said that B7 is the survivor"
        assert (bench.affinity("A1"), bench.affinity("A9"), bench.affinity("B7", HOSPB)) == (older, older, younger)
        assert bench.ports.merged == []
        assert bench.ports.moved == [({PatientId(HOSPA, "A9")}, PatientId(XAD, younger), PatientId(XAD, older))]
    assert bench.ports.arrived == []
    bench.feed("A08", "A1", WEI)
    assert (bench.who("A1"), bench.affinity("A9")) == ({"A1", "B7"}, older)


def test_a_merge_does_not_freeze_what_comparison_found(bench: Bench) -> None:
    for value in ("A1", "A9"):
        bench.feed("A04", value)
    bench.add("B7")
    person = bench.affinity("A1")
    assert bench.feed("A40", "A1", retired="A9") == "AA"
    assert (bench.who("A1"), bench.ports.moved, bench.ports.merged) == ({"A1", "B7"}, [], [])
    bench.add("B7", replace(OTHER, birth_date="19620301", sex="F"), revise=True)
    assert (bench.who("A1"), bench.who("B7", HOSPB)) == ({"A1"}, {"B7"})
    assert (bench.affinity("A1"), bench.affinity("A9")) == (person, person)
    assert bench.ports.moved == [({PatientId(HOSPB, "B7")}, PatientId(XAD, person), PatientId(XAD, bench.affinity("B7", HOSPB)))]


def test_who_leaves_takes_the_ids_merged_into_it_along(bench: Bench) -> None:
    for value in ("A1", "A8", "A9"):
        bench.feed("A04", value)
    bench.add("B7")
    bench.feed("A40", "A9", retired="A8")
    bench.feed("A40", "A1", retired="A9")
    before = bench.affinity("A1")
    bench.feed("A08", "A1", OTHER)
    moved = {PatientId(HOSPA, value) for value in ("A1", "A8", "A9")}
    assert bench.ports.moved == [(moved, PatientId(XAD, before), PatientId(XAD, bench.affinity("A1")))]
    assert bench.affinity("A8") == bench.affinity("A1") != before


def test_the_survivor_keeps_the_older_id_even_when_it_was_the_retired_ones(bench: Bench) -> None:
    bench.feed("A04", "A9")
    older = bench.affinity("A9")
    bench.feed("A04", "A1", OTHER)
    younger = bench.affinity("A1")
    assert bench.feed("A40", "A1", OTHER, retired="A9") == "AA"
    assert (bench.affinity("A1"), bench.who("A1")) == (older, {"A1"})
    assert bench.ports.merged == [(PatientId(XAD, younger), PatientId(XAD, older))]


def test_a_survivor_never_seen_lives_on_as_the_retired_one(bench: Bench) -> None:
    bench.feed("A04", "A9")
    bench.add("B1")
    kept = bench.affinity("A9")
    assert bench.feed("A40", "A1", OTHER, retired="A9") == "AA"
    assert (bench.affinity("A1"), bench.who("A1")) == (kept, {"A1", "B1"})
    with bench.database.read() as unit:
        assert bench.manager.demographics(unit, PatientId(HOSPA, "A1")) == WEI


def test_a_merge_of_ids_never_seen_is_remembered(bench: Bench) -> None:
    assert bench.feed("A40", "A1", retired="A9") == "AA"
    assert bench.affinity("A1") == bench.affinity("A9") != ""
    assert bench.who("A9") == {"A1"}
    assert bench.feed("A04", "A9") == "AE"
    assert bench.feed("A40", "A1", retired="A8") == "AA"
    assert bench.affinity("A8") == bench.affinity("A1")


def test_chains_of_merges_and_circles(bench: Bench) -> None:
    for value in ("A1", "A2", "A3"):
        bench.feed("A04", value, replace(WEI, names=(PersonName(value),)))
    assert bench.feed("A40", "A2", retired="A1") == "AA"
    assert bench.feed("A40", "A3", retired="A2") == "AA"
    assert bench.affinity("A1") == bench.affinity("A3")
    assert bench.feed("A40", "A2", retired="A1", control="again") == "AA"
    assert bench.feed("A40", "A3", retired="A1", control="direct") == "AA"
    assert bench.feed("A40", "A1", retired="A3") == "AE"
    assert bench.feed("A40", "A9", retired="A1") == "AE"
    assert bench.who("A1") == {"A3"}


def test_a_merge_the_registry_refuses_is_no_merge(bench: Bench) -> None:
    bench.feed("A04", "A1", OTHER)
    bench.feed("A04", "A9")
    bench.ports.failing = True
    assert bench.feed("A40", "A1", OTHER, retired="A9") == "AE"
    assert bench.who("A9") == {"A9"}
    assert bench.affinity("A1") != bench.affinity("A9")


def test_a_person_does_not_grow_without_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "LARGEST", 3)
    for number in range(5):
        assert bench.feed("A04", f"A{number}") == "AA"
    assert sorted(len(bench.who(f"A{n}")) for n in range(5)) == [2, 2, 3, 3, 3]


def test_the_event_log_tells_who_was_who(bench: Bench) -> None:
    bench.feed("A04", "A9")
    bench.feed("A04", "A1", OTHER)
    older, younger = bench.affinity("A9"), bench.affinity("A1")
    bench.feed("A40", "A1", OTHER, retired="A9", control="m40")
    a1, a9, b1 = (PatientId(domain, value) for domain, value in ((HOSPA, "A1"), (HOSPA, "A9"), (HOSPB, "B1")))
    with bench.database.read() as unit:
        retired, survivor, joined = (events(unit, patient) for patient in (a9, a1, PatientId(XAD, younger)))
    fed, *others = (one.event for one in retired)
    assert isinstance(fed, Fed)
    assert replace(fed, said_at=None) == Fed(a9, WEI, "add")
    assert others == [Grouped(a9, older), Merged(a9, a1)]
    assert {(one.message_id, one.sender) for one in (retired[2], *joined)} == {("m40", "HOSPA|HIS-A")}
    assert [one.event for one in survivor if isinstance(one.event, Grouped)] == [Grouped(a1, younger), Grouped(a1, older)]
    assert [one.event for one in joined] == [Joined(PatientId(XAD, younger), PatientId(XAD, older))]
    bench.add("B1", OTHER)
    bench.add("B1", OTHER, revise=True)
    with bench.database.read() as unit:
        assert [one.event for one in events(unit, b1) if isinstance(one.event, Linked)] == [Linked(b1, (a1,))]


def test_eight_threads_feeding_one_new_person_make_one_group(bench: Bench) -> None:
    started, answers = threading.Barrier(8), list[str]()

    def feed(number: int) -> None:
        started.wait()
        answers.append(bench.feed("A04", f"A{number}") if number % 2 else bench.add(f"B{number}"))

    threads = [threading.Thread(target=feed, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["AA"] * 4 + ["CA"] * 4
    assert bench.who("A1") == {*(f"A{n}" for n in (1, 3, 5, 7)), *(f"B{n}" for n in (0, 2, 4, 6))}
    assert bench.ports.merged == []


@pytest.mark.parametrize("person", [
    replace(WEI, names=(PersonName("无名氏"),)), replace(WEI, names=(PersonName("李梅之子"),)), replace(WEI, birth_date=""),
    replace(WEI, sex=""), replace(WEI, birth_date="19000101"), Demographics(),
])
def test_what_is_not_known_does_not_link(bench: Bench, person: Demographics) -> None:
    bench.feed("A04", "A1", person)
    bench.add("B1", person)
    assert bench.who("A1") == {"A1"}
