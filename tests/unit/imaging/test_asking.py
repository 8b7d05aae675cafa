"""The requests of one fetch against PACS that can send some things and not others."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import pytest

from broker.imaging.asking import IN_VAIN, Asking, Ended, Listed, Request
from broker.imaging.store.fetches import Wanted
from broker.model.ports import Retrieved

CT, MR, PRIVATE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.3.12.2.1107.5.9.1"
STUDY = "1.2.1"
UNABLE = Retrieved(0xC000, "unable")


@dataclass
class Pacs:
    """Answers requests in the way of one program; `asked` keeps (level, instances) of each."""

    holds: dict[str, Listed]
    answer: Callable[["Pacs", list[str]], tuple[Collection[str], Retrieved, bool]]
    asked: list[tuple[str, int]] = field(default_factory=list)

    def carry_out(self, request: Request) -> tuple[Collection[str], Ended]:
        """Return what came and how it ended."""
        want = request.want
        named = [
            uid for uid, about in self.holds.items() if (not want.series_uids or about.series_uid in want.series_uids)
            and (not want.sop_uids or uid in want.sop_uids)]
        self.asked.append(("image" if want.sop_uids else "series" if want.series_uids else "study", len(request.sop_uids)))
        came, retrieved, failed = self.answer(self, named)
        return came, Ended(request, retrieved, failed)


def stops_at(bad: Collection[str]) -> Callable[[Pacs, list[str]], tuple[Collection[str], Retrieved, bool]]:
    """Orthanc: the first object it cannot send is the end of the request."""
    def answer(_pacs: Pacs, named: list[str]) -> tuple[Collection[str], Retrieved, bool]:
        at = next((n for n, uid in enumerate(named) if uid in bad), None)
        return (named, Retrieved(), False) if at is None else (named[:at], UNABLE, True)
    return answer


def skips(bad: Collection[str], *, tell: bool) -> Callable[[Pacs, list[str]], tuple[Collection[str], Retrieved, bool]]:
    """dcmqrscp: what it cannot send is left out, and named where `tell`; a failure where that is all."""
    def answer(_pacs: Pacs, named: list[str]) -> tuple[Collection[str], Retrieved, bool]:
        failed = tuple(uid for uid in named if uid in bad) if tell else ()
        good = [uid for uid in named if uid not in bad]
        if len(good) == len(named):
            return good, Retrieved(), False
        return good, Retrieved(0xB000 if good else 0xA702, "some failed", failed), not good
    return answer


def study(*series: tuple[int, str]) -> dict[str, Listed]:
    """`series` are (instances, SOP class)."""
    return {f"{STUDY}.{s}.{n}": Listed(f"{STUDY}.{s}", kind) for s, (count, kind) in enumerate(series, 1) for n in range(count)}


def run(pacs: Pacs, listed: dict[str, Listed], wanted: Collection[str] = (), most: int = 100) -> tuple[set[str], dict[str, str]]:
    """Ask until nothing more is to be asked; return what came, and why the rest did not."""
    asking, came, why = Asking(STUDY, listed, most), set[str](), dict[str, str]()
    wanted = wanted or list(listed)
    for _ in range(1000):
        missing = [Wanted(listed[uid].series_uid, uid) for uid in wanted if uid not in came and uid not in why]
        requests = asking.more(missing)
        why |= asking.reasons
        if not requests:
            return came, why
        for request in requests:
            new, ended = pacs.carry_out(request)
            came |= set(new)
            asking.ended(ended)
    raise AssertionError("it never ends")


MANNERS = [
    pytest.param(stops_at, id="stops"), pytest.param(lambda bad: skips(bad, tell=True), id="skips and names"),
    pytest.param(lambda bad: skips(bad, tell=False), id="skips"),
]


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize(("listed", "bad", "most"), [
    pytest.param(study((1, MR), (1, MR), (1, PRIVATE)), [f"{STUDY}.3.0"], 6, id="a series of its own"),
    pytest.param(study((40, MR)) | {f"{STUDY}.1.a": Listed(f"{STUDY}.1", PRIVATE)}, [f"{STUDY}.1.a"], 6, id="another class"),
    pytest.param(study((100, CT)), [f"{STUDY}.1.50"], 20, id="one of a hundred alike"),
    pytest.param(study((100, "")), [f"{STUDY}.1.0", f"{STUDY}.1.99"], 40, id="first and last, classes unknown"),
    pytest.param(study((1, CT)), [f"{STUDY}.1.0"], 4, id="all there is"),
    pytest.param(study(*[(5, CT)] * 6, (5, PRIVATE)), [f"{STUDY}.7.{n}" for n in range(5)], 30, id="a whole series"),
    pytest.param(study((450, CT)), [f"{STUDY}.1.{n}" for n in range(0, 450, 150)], 70, id="more than one list"),
])
def test_what_can_be_had_is_had_and_the_rest_is_named(
        listed: dict[str, Listed], bad: list[str], most: int, manner: Callable[[list[str]], object]) -> None:
    pacs = Pacs(listed, manner(bad))        # type: ignore[arg-type]
    came, why = run(pacs, listed)
    assert came == set(listed) - set(bad)
    assert set(why) == set(bad)
    assert len(pacs.asked) <= most


def test_the_study_is_asked_for_first_then_its_series_then_instances() -> None:
    pacs = Pacs(listed := study((2, MR), (2, CT)), stops_at([f"{STUDY}.1.0"]))
    run(pacs, listed)
    assert pacs.asked == [("study", 4), ("series", 2), ("series", 2), ("image", 1), ("image", 1)]


def test_a_pacs_that_fails_everything_is_soon_left_alone() -> None:
    pacs = Pacs(listed := study(*[(100, CT)] * 5), stops_at(study(*[(100, CT)] * 5)))
    came, why = run(pacs, listed)
    assert (came, set(why)) == (set(), set(listed))
    assert len(pacs.asked) < 2 * IN_VAIN


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0x0211, 0xA801])
def test_a_failure_that_is_not_the_objects_ends_it_at_once(status: int) -> None:
    pacs = Pacs(listed := study((3, CT), (3, MR)), lambda _pacs, _named: ((), Retrieved(status, "no"), True))
    assert run(pacs, listed) == (set(), dict.fromkeys(listed, "did not send it: no"))
    assert pacs.asked == [("study", 6)]


def test_a_list_that_fails_says_nothing_of_the_pacs() -> None:
    """pynetdicom's qrscp takes no lists, and says that it does not know the destination."""
    def no_lists(_pacs: Pacs, named: list[str]) -> tuple[Collection[str], Retrieved, bool]:
        return ((), Retrieved(0xA801, "no"), True) if len(named) == 2 else (named, Retrieved(), False)

    pacs = Pacs(listed := study((3, CT)), no_lists)
    assert run(pacs, listed, list(listed)[:2]) == (set(listed), {})
    assert pacs.asked == [("image", 2), ("series", 2)]


def test_the_number_of_further_requests_is_bounded_and_what_is_left_is_named() -> None:
    bad = [f"{STUDY}.1.{n}" for n in range(0, 200, 2)]
    pacs = Pacs(listed := study((200, CT)), stops_at(bad))
    came, why = run(pacs, listed, most=20)
    assert len(pacs.asked) <= 21
    assert came | set(why) == set(listed)
    assert came


def test_success_without_an_object_is_asked_about_twice_only() -> None:
    pacs = Pacs(listed := study((3, CT)), lambda _pacs, _named: ((), Retrieved(), False))
    assert run(pacs, listed) == (set(), {})
    assert pacs.asked == [("study", 3), ("image", 3)]


def test_what_we_refused_ourselves_has_our_reason() -> None:
    listed = study((2, CT))
    bad = f"{STUDY}.1.1"
    pacs = Pacs(listed, lambda _pacs, named: (
        [uid for uid in named if uid != bad], Retrieved(0xB000, "some failed", (bad,), {bad: "no Study Instance UID"}), False))
    assert run(pacs, listed) == ({f"{STUDY}.1.0"}, {bad: "sent it, and it was refused here: no Study Instance UID"})


def test_a_second_attempt_names_one_class_at_a_time() -> None:
    """So that a C-GET can propose each class with every transfer syntax."""
    listed = study((2, CT)) | {f"{STUDY}.1.b": Listed(f"{STUDY}.1", MR)}
    asking = Asking(STUDY, listed, 100)
    missing = [Wanted(about.series_uid, uid) for uid, about in listed.items()]
    (first,) = asking.more(missing)
    assert first.want.sop_classes == (CT, MR)
    asking.ended(Ended(first, Retrieved(0xB000, "some failed")))
    second = asking.more(missing)
    assert [(one.want.sop_classes, len(one.sop_uids), one.want.attempt) for one in second] == [((CT,), 2, 1), ((MR,), 1, 1)]


def test_what_was_not_carried_out_comes_again() -> None:
    asking = Asking(STUDY, listed := study((1, CT), (1, CT)), 100)
    missing = [Wanted(about.series_uid, uid) for uid, about in listed.items()]
    (whole,) = asking.more(missing)
    asking.ended(Ended(whole, UNABLE, failed=True))
    first, second = asking.more(missing)
    asking.ended(Ended(first, UNABLE, failed=True))
    asking.postpone([second])
    assert second in asking.more(missing)
