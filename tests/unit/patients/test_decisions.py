"""A steward decides who is who: merge, un-merge, link, unlink, split; each is undone, and none is undone by a feed."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.model.caller import AuditFacts, Call, Caller
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.people import PersonName
from broker.patients.desk import Desk, Settled, Wish
from broker.patients.events import Decided, Happened
from broker.patients.projection import replay
from broker.patients.steward import Steward
from broker.patients.steward_rest import DECISIONS
from broker.patients.store import log
from broker.patients.store.neighbourhood import Neighbourhood
from tests.helpers.patients import CLINIC, HOSPA, HOSPB, HOSPC, WEI, XAD, Bench, events

OTHER = replace(WEI, names=(PersonName("李", "雷"),), birth_date="19550607")
A1, A9, B1, C1 = PatientId(HOSPA, "A1"), PatientId(HOSPA, "A9"), PatientId(HOSPB, "B1"), PatientId(HOSPC, "C1")
Decide = Callable[..., Settled]


@pytest.fixture
def desk(bench: Bench) -> Desk:
    moments = itertools.count(2_000_000_000.0)
    return Desk(bench.database, bench.settler, lambda _unit, _outcome: (1, 2), lambda: next(moments))


@pytest.fixture
def decide(bench: Bench, desk: Desk) -> Decide:
    def decided(name: str, patient: PatientId, other: PatientId | None = None, **said: object) -> Settled:
        wish = Wish(patient=patient, other=other, **said)  # type: ignore[arg-type]
        return bench.gate.inside(DECISIONS[name], desk, wish, Caller(node="here", user="ward", address="127.0.0.1"))
    return decided


def check(bench: Bench) -> None:
    """The tables are what the log replays to."""
    with bench.database.read() as unit:
        index = replay(log.read(unit))
        for record in index.all_records():
            here = Neighbourhood(unit, [record.patient])
            now = here.get(record.patient)
            assert (now.group, now.survivor, now.person) == (record.group, record.survivor, record.person)
            assert here.decisions(record.patient) == index.decisions(record.patient)
            if record.active:
                for kind in ("automatic", "explicit"):
                    assert here.linked(record.patient, kind) == index.linked(record.patient, kind)
                people = {one.patient for one in here.members([record.group])}
                assert people == {one.patient for one in index.members([record.group])}
                assert not any(here.apart(one, other) for one in people for other in people)
                assert here.group(record.group).survivor == ""


def test_what_was_linked_stays_one_person_whatever_feeds_say(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.add("B1", replace(OTHER, birth_date=WEI.birth_date))
    older, younger = bench.affinity("A1"), bench.affinity("B1", HOSPB)
    settled = decide("link", A1, B1, reason="seen at the desk")
    assert bench.who("A1") == {"A1", "B1"}
    assert bench.ports.merged == [(PatientId(XAD, younger), PatientId(XAD, older))]
    assert [person.affinity for person in settled.change.after] == [older]
    bench.feed("A08", "A1", replace(WEI, names=(PersonName("王", "五"),)))
    bench.add("B1", OTHER, revise=True)
    assert bench.who("B1", HOSPB) == {"A1", "B1"}
    check(bench)
    [event] = [one for one in events_of(bench, A1) if isinstance(one.event, Decided)]
    assert (event.sender, event.event) == ("steward ward", Decided(A1, B1, Decided.SAME, "seen at the desk"))


def events_of(bench: Bench, patient: PatientId) -> list[Happened]:
    with bench.database.read() as unit:
        return events(unit, patient)


def test_a_link_taken_back_gives_both_their_ids_again(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.add("B1", OTHER)
    before = bench.affinity("A1"), bench.affinity("B1", HOSPB)
    decide("link", A1, B1, force=True)
    assert bench.affinity("A1") == bench.affinity("B1", HOSPB)
    decide("link", A1, B1, undo=True)
    assert (bench.affinity("A1"), bench.affinity("B1", HOSPB)) == before
    assert bench.ports.parted == [({B1}, PatientId(XAD, before[0]), PatientId(XAD, before[1]))]
    assert bench.is_active(before[1])
    check(bench)
    bench.add("B1", OTHER, revise=True)
    assert bench.who("A1") == {"A1"}


def test_persons_who_contradict_each_other_are_linked_only_by_force(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.add("B1", replace(OTHER, sex="F"))
    with pytest.raises(Rejected, match=r"sex of .*A1.* birth date of"):
        decide("link", A1, B1)
    assert bench.who("A1") == {"A1"}
    decide("link", A1, B1, force=True)
    assert bench.who("A1") == {"A1", "B1"}
    check(bench)


def test_what_was_decided_to_be_apart_stays_apart_whatever_feeds_say(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.add("B1")
    bench.add("C1", domain=HOSPC)
    assert bench.who("A1") == {"A1", "B1", "C1"}
    decide("unlink", A1, B1)
    assert (bench.who("A1"), bench.who("B1", HOSPB)) in ((({"A1"}), {"B1", "C1"}), ({"A1", "C1"}, {"B1"}))
    for _ in range(2):
        bench.feed("A08", "A1")
        bench.add("B1", revise=True)
        bench.add("C1", domain=HOSPC, revise=True)
        assert bench.affinity("A1") != bench.affinity("B1", HOSPB)
        check(bench)
    decide("unlink", A1, B1, undo=True)
    assert bench.who("A1") == {"A1", "B1", "C1"}
    check(bench)


def test_not_even_a_source_that_names_both_in_one_feed_joins_what_was_decided_apart(bench: Bench, decide: Decide) -> None:
    both = replace(WEI, other_ids=((CLINIC, "K1"),))
    bench.feed("A04", "A1", both)
    clinic = PatientId(CLINIC, "K1")
    decide("unlink", A1, clinic)
    assert bench.affinity("A1") != bench.affinity("K1", CLINIC)
    bench.feed("A08", "A1", both)
    assert bench.affinity("A1") != bench.affinity("K1", CLINIC)
    check(bench)


def test_a_split_id_is_a_person_of_its_own_until_that_is_taken_back(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.add("B1")
    bench.add("C1", domain=HOSPC)
    decide("split", B1)
    assert (bench.who("A1"), bench.who("B1", HOSPB)) == ({"A1", "C1"}, {"B1"})
    bench.add("B1", revise=True)
    assert bench.who("B1", HOSPB) == {"B1"}
    check(bench)
    decide("split", B1, undo=True)
    assert bench.who("A1") == {"A1", "B1", "C1"}
    check(bench)


def test_an_unmerge_gives_back_ids_links_and_demographics(bench: Bench, decide: Decide) -> None:
    """A9 was tied to K1 by its source; A1 to B1 by comparison."""
    other = replace(OTHER, birth_date=WEI.birth_date)
    bench.feed("A04", "A1")
    bench.add("B1")
    bench.feed("A04", "A9", replace(other, other_ids=((CLINIC, "K1"),)))
    before = {value: bench.affinity(*value) for value in (("A1", HOSPA), ("B1", HOSPB), ("A9", HOSPA), ("K1", CLINIC))}
    bench.feed("A40", "A1", retired="A9")
    assert bench.who("A1") == {"A1", "B1", "K1"}
    assert len({bench.affinity(*value) for value in before}) == 1
    check(bench)
    decide("unmerge", A9, reason="other people")
    assert {value: bench.affinity(*value) for value in before} == before
    assert (bench.who("A1"), bench.who("A9")) == ({"A1", "B1"}, {"A9", "K1"})
    with bench.database.read() as unit:
        assert bench.manager.demographics(unit, A9) == replace(other, other_ids=((CLINIC, "K1"),))
    [(local, old, new)] = bench.ports.parted
    assert (local, old.value, new.value) == ({A9, PatientId(CLINIC, "K1")}, before["A1", HOSPA], before["A9", HOSPA])
    check(bench)
    assert bench.feed("A08", "A9", OTHER) == "AA"


@pytest.mark.parametrize("survivor_is_older", [True, False])
def test_whichever_id_of_the_affinity_domain_was_kept_both_have_theirs_again(
    bench: Bench, decide: Decide, survivor_is_older: bool,
) -> None:
    first, second = ("A1", "A9") if survivor_is_older else ("A9", "A1")
    bench.feed("A04", first, WEI if first == "A1" else OTHER)
    bench.feed("A04", second, WEI if second == "A1" else OTHER)
    before = bench.affinity("A1"), bench.affinity("A9")
    bench.feed("A40", "A1", retired="A9")
    bench.add("B1")         # comes to the survivor meanwhile
    assert bench.who("A1") == {"A1", "B1"}
    decide("unmerge", A9)
    assert (bench.affinity("A1"), bench.affinity("A9")) == before
    assert (bench.who("A1"), bench.who("A9")) == ({"A1", "B1"}, {"A9"})
    check(bench)


def test_what_was_decided_of_both_ids_holds_again_after_their_merge_is_undone(bench: Bench, decide: Decide) -> None:
    """They would be one person by comparison; the steward had said that they are not, and a hospital merged them all the same."""
    bench.feed("A04", "A1")
    bench.feed("A04", "A9")
    decide("unlink", A9, A1)
    before = bench.affinity("A1"), bench.affinity("A9")
    bench.feed("A40", "A1", retired="A9")
    decide("unmerge", A9)
    assert (bench.affinity("A1"), bench.affinity("A9")) == before
    for _ in range(2):
        bench.feed("A08", "A9")
        assert (bench.who("A1"), bench.who("A9")) == ({"A1"}, {"A9"})
    check(bench)


def test_ids_of_one_person_before_and_after_a_merge_were_never_parted(bench: Bench, decide: Decide) -> None:
    """Else the registry would divide submission sets and end memberships that nothing brings back."""
    bench.feed("A04", "A1")
    bench.feed("A04", "A9")
    bench.feed("A40", "A1", retired="A9")
    decide("unmerge", A9)
    assert bench.who("A1") == {"A1", "A9"}
    assert (bench.ports.moved, bench.ports.parted, bench.ports.merged) == ([], [], [])
    check(bench)


def test_a_second_id_that_nobody_knows_does_not_disturb_a_decision_of_one(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.feed("A40", "A1", retired="A9")
    decide("unmerge", A9, B1)
    assert (bench.who("A1"), bench.who("A9")) == ({"A1"}, {"A9"})


def test_what_the_survivor_got_since_stays_its_own(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1", replace(WEI, other_ids=((CLINIC, "K1"),)))
    bench.feed("A04", "A9", OTHER)
    bench.feed("A40", "A1", retired="A9")
    decide("link", A1, add(bench, "B1"), force=True)
    decide("unmerge", A9)
    assert (bench.who("A1"), bench.who("A9")) == ({"A1", "K1", "B1"}, {"A9"})
    check(bench)


def add(bench: Bench, value: str) -> PatientId:
    bench.add(value, replace(OTHER, birth_date="20010101"))
    return PatientId(HOSPB, value)


PEOPLE = {value: replace(WEI, birth_date=f"197902{day}") for value, day in (("A1", "14"), ("A2", "15"), ("A3", "16"))}


@pytest.fixture
def chain(bench: Bench) -> dict[str, str]:
    """A1 merged into A2, and that into A3; return which ids of the affinity domain they had before."""
    for value, person in PEOPLE.items():
        bench.feed("A04", value, person)
    before = {value: bench.affinity(value) for value in PEOPLE}
    bench.feed("A40", "A2", retired="A1")
    bench.feed("A40", "A3", retired="A2")
    return before


def test_a_chain_of_merges_is_undone_from_its_end(bench: Bench, decide: Decide, chain: dict[str, str]) -> None:
    decide("unmerge", PatientId(HOSPA, "A2"))
    check(bench)
    assert (bench.affinity("A1"), bench.affinity("A3")) == (bench.affinity("A2"), chain["A3"])
    decide("unmerge", PatientId(HOSPA, "A1"))
    assert {value: bench.affinity(value) for value in PEOPLE} == chain
    check(bench)


def test_a_chain_of_merges_is_undone_in_its_middle(bench: Bench, decide: Decide, chain: dict[str, str]) -> None:
    decide("unmerge", PatientId(HOSPA, "A1"))
    check(bench)
    assert (bench.affinity("A1"), bench.affinity("A2")) == (chain["A1"], bench.affinity("A3"))
    decide("unmerge", PatientId(HOSPA, "A2"))
    assert len({bench.affinity(value) for value in PEOPLE}) == 3
    assert (bench.affinity("A1"), bench.affinity("A3")) == (chain["A1"], chain["A3"])
    check(bench)


def test_a_merge_by_a_steward_is_as_one_by_its_hospital(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.feed("A04", "A9", replace(WEI, names=(PersonName("张", "玮"),)))
    decide("merge", A1, A9)
    assert bench.who("A1") == {"A1"}
    assert bench.feed("A08", "A9") == "AE"
    decide("unmerge", A9)
    decide("merge", A1, A9)
    check(bench)
    assert bench.who("A1") == {"A1"}


@pytest.mark.parametrize(("name", "ids", "problem"), [
    ("merge", (A1, B1), "two ids of one domain"),
    *((name, (A1, A1), "both ids are the same") for name in ("merge", "link", "unlink")),
    ("merge", (A1, PatientId(HOSPA, "X")), "no feed has named"),
    ("link", (A1, PatientId(HOSPA, "X")), "no feed has named"),
    ("link", (A1,), "a second id is needed"),
    ("unmerge", (A1,), "was not merged away"),
    ("split", (B1,), "only id"),
    ("unlink", (A9, A1), "lives on as A1"),
])
def test_what_cannot_be_decided_says_why_and_changes_nothing(
    bench: Bench, decide: Decide, name: str, ids: tuple[PatientId, ...], problem: str,
) -> None:
    bench.feed("A04", "A1")
    bench.feed("A04", "A9", OTHER)
    bench.feed("A40", "A1", retired="A9")
    bench.add("B1", replace(OTHER, birth_date="20010101"))
    with bench.database.read() as unit:
        before = list(log.read(unit))
    with pytest.raises(Rejected, match=problem):
        decide(name, *ids)
    with bench.database.read() as unit:
        assert list(log.read(unit)) == before


def test_a_preview_tells_what_would_become_and_changes_nothing(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.add("B1", replace(OTHER, sex="F"))
    with bench.database.read() as unit:
        before = list(log.read(unit))
    shown = decide("link", A1, B1, preview=True)
    assert [text.split(" of ")[0] for text in shown.against] == ["sex", "birth date"]
    assert [sorted(one.value for one in person.local) for person in shown.change.after] == [["A1", "B1"]]
    assert (1, 2) in shown.moved
    with bench.database.read() as unit:
        assert list(log.read(unit)) == before
    done = decide("link", A1, B1, force=True)
    assert done.change == shown.change


def test_every_decision_is_audited_with_who_and_whom(bench: Bench, decide: Decide) -> None:
    bench.feed("A04", "A1")
    bench.add("B1")
    decide("unlink", A1, B1, reason="twins")
    with pytest.raises(Rejected):
        decide("unmerge", A1)
    last = [one for one in bench.audited() if one["type"].startswith("PATIENT-")]
    assert [(one["type"], one["action"], one["outcome"], one["patient"].split("^")[0]) for one in last] == [
        ("PATIENT-UNLINK", "U", "0", "A1"), ("PATIENT-UNLINK", "U", "0", "B1"), ("PATIENT-UNMERGE", "U", "4", "A1")]
    assert last[0]["nodes"][:2] == ["here", "ward"]


def test_the_past_is_shown_as_it_was(bench: Bench, desk: Desk) -> None:
    moments = itertools.count(1_000_000_000.0, 10.0)
    bench.manager._clock = lambda: next(moments)    # noqa: SLF001 - each feed at a moment that the test knows
    bench.feed("A04", "A1")                                             # …00
    bench.add("B1")                                                     # …10
    bench.feed("A04", "A9", OTHER)                                      # …20
    bench.feed("A40", "A1", retired="A9")                               # …30
    desk.decide("unlink", Wish(patient=A1, other=B1), Call(caller=Caller(node="here"), facts=AuditFacts()))
    steward = Steward(bench.database, XAD)

    def ids(patient: PatientId, at: float | None) -> tuple[set[str], list[str]] | None:
        found = steward.person(patient, at)
        return ({tie.record.patient.value for tie in found.ties}, [one.value for one in found.retired]) if found else None
    assert ids(A1, 999_999_999.0) is None
    assert ids(A1, 1_000_000_005.0) == ({"A1"}, [])
    assert ids(A1, 1_000_000_015.0) == ids(B1, 1_000_000_015.0) == ({"A1", "B1"}, [])
    assert ids(A9, 1_000_000_025.0) == ({"A9"}, [])
    assert ids(A9, 1_000_000_035.0) == ({"A1", "B1"}, ["A9"])
    assert ids(A1, None) == ids(A1, 3e9) == ({"A1"}, ["A9"])
    gone = PatientId(XAD, bench.affinity("A1"))
    assert ids(gone, None) == ({"A1"}, ["A9"])


def test_a_clock_that_was_set_back_tears_the_past_not_apart(bench: Bench, decide: Decide) -> None:
    moments = iter([1_000_000_100.0, 1_000_000_110.0, 1_000_000_010.0, 1_000_000_020.0])
    bench.manager._clock = lambda: next(moments)    # noqa: SLF001 - each feed at a moment that the test knows
    bench.feed("A04", "A1")
    bench.feed("A04", "A9", OTHER)
    bench.feed("A40", "A1", retired="A9")           # by the clock before both were there
    bench.add("B1")
    steward = Steward(bench.database, XAD)

    def ids(at: float) -> tuple[list[str], list[str]] | None:
        found = steward.person(A1, at)
        return ([tie.record.patient.value for tie in found.ties], [one.value for one in found.retired]) if found else None
    assert [ids(1_000_000_000.0 + at) for at in (5, 15, 20, 105, 200)] == [
        None, (["A1"], ["A9"]), (["A1", "B1"], ["A9"]), (["A1", "B1"], ["A9"]), (["A1", "B1"], ["A9"])]


@pytest.mark.parametrize("value", ["号" * 250, "a b", "x^y&z~|\\", "2.999.2.1 A1", "A1^^^&2.999.2.1&ISO"])
def test_ids_of_any_form_are_merged_found_in_the_past_and_parted_again(bench: Bench, decide: Decide, value: str) -> None:
    gone = PatientId(HOSPA, value)
    assert bench.feed("A04", "A1") == "AA"
    assert bench.feed("A04", value, OTHER) == "AA"
    before = bench.affinity("A1"), bench.affinity(value)
    assert bench.feed("A40", "A1", retired=value) == "AA"
    was = Steward(bench.database, XAD).person(gone, 3e9)
    assert was is not None
    assert (was.survivor.patient, was.retired) == (A1, (gone,))
    decide("unmerge", gone)
    assert (bench.affinity("A1"), bench.affinity(value)) == before
    check(bench)


def test_a_history_too_long_to_be_looked_through_is_refused(
    bench: Bench, decide: Decide, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "_MOST", 12)
    bench.feed("A04", "A1")
    bench.feed("A04", "A9", OTHER)
    bench.feed("A40", "A1", retired="A9")
    for _ in range(10):
        bench.feed("A08", "A1")
    with pytest.raises(Rejected, match="more than 12 events"):
        decide("unmerge", A9)
    assert bench.who("A9") == {"A1"}


KINDS = ["feed", "feed", "both", "merge", "unmerge", "link", "unlink", "split", "undo link", "undo unlink", "undo split"]
FACES = ["张伟", "ZHANG WEI", "张伟|ZHANG WEI", "李雷"]
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3), st.sampled_from(FACES)), min_size=4, max_size=12)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_is_fed_and_decided_the_log_gives_the_tables_back(
    bench: Bench, decide: Decide, counter: Iterator[int], steps: list[tuple[str, int, int, str]],
) -> None:
    """And nobody is one person with whom was decided to be apart; what cannot be decided changes nothing."""
    run = next(counter)
    for kind, one, other, face in steps:
        person = replace(WEI, names=tuple(PersonName(f"{name}{run}") for name in face.split("|")))
        ids = PatientId(HOSPA if one < 2 else HOSPB, f"{run}-{one}"), PatientId(HOSPA if other < 2 else HOSPB, f"{run}-{other}")
        if kind in {"feed", "both"}:
            hints = ((CLINIC, f"{run}-{other}"),) if kind == "both" else ()
            fed = replace(person, other_ids=hints)
            if one < 2:
                bench.feed("A08", ids[0].value, fed)
            else:
                bench.add(ids[0].value, fed, revise=True)
        else:
            undo, _, name = kind.rpartition(" ")
            with contextlib.suppress(Rejected):
                decide(name, ids[0], ids[1] if name in {"merge", "link", "unlink"} else None, undo=bool(undo), force=True)
    check(bench)


@pytest.fixture(scope="module")
def counter() -> Iterator[int]:
    return itertools.count()
