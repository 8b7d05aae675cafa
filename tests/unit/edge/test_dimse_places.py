"""Who gets a place for an association, and who gives way."""

from dataclasses import dataclass, field

import pytest

from broker.config.profile import Hospital, Limits, Profile
from broker.edge.dimse.places import Place, Places

IDLE, FAST, SLOW = (5.0, 0.0, 0), (0.0, 5.0, 5_000_000), (0.0, 5.0, 20_000)
FRESH, STUCK = (0.0, 0.1, 100), (0.0, 60.0, 60_000)


@dataclass
class Doing:
    """What an association does: seconds idle, seconds its message lasts, bytes of it that came."""

    idle: float
    lasting: float
    came: int
    woken: list[bool] = field(default_factory=list)

    def wake(self) -> None:
        self.woken.append(True)


@pytest.fixture
def a(profile: Profile) -> Hospital:
    found = profile.hospital("a")
    assert found is not None
    return found


@pytest.fixture
def b(profile: Profile) -> Hospital:
    found = profile.hospital("b")
    assert found is not None
    return found


def filled(places: Places, *wanted: tuple[Hospital, str, tuple[float, float, int]]) -> list[Place]:
    """Take these places."""
    found = []
    for hospital, address, doing in wanted:
        place = places.take(hospital, address)
        assert place is not None
        place.served = Doing(*doing)
        found.append(place)
    return found


def gave_way(held: list[Place]) -> list[int]:
    return [number for number, place in enumerate(held) if place.evicted]


def test_places_are_given_freely_while_there_are_any(a: Hospital) -> None:
    places = Places(4, 1, 1000, 30.0)
    held = filled(places, *[(a, "x", SLOW)] * 4)
    assert gave_way(held) == []
    assert places.take(a, "x") is None
    places.leave(held[0])
    assert places.take(a, "x") is not None
    assert len(places) == 4


@pytest.mark.parametrize(("doing", "loser"), [
    ([FAST, FAST, SLOW, FAST], 2),
    ([FAST, IDLE, SLOW, FAST], 1),
    ([FAST, FAST, FRESH, FAST], 0),      # what has just begun is no slow one
])
def test_a_hospital_over_its_share_gives_its_idle_then_its_slowest(
        a: Hospital, b: Hospital, doing: list[tuple[float, float, int]], loser: int) -> None:
    places = Places(4, 2, 1000, 30.0)
    held = filled(places, *[(a, "x", one) for one in doing])
    assert places.take(b, "y") is not None
    assert gave_way(held) == [loser]
    doing_it = held[loser].served
    assert isinstance(doing_it, Doing)
    assert doing_it.woken == [True]


def test_a_hospital_keeps_its_share_whatever_others_do(a: Hospital, b: Hospital) -> None:
    places = Places(4, 2, 1000, 30.0)
    mine, theirs = filled(places, *[(b, "y", IDLE)] * 2), filled(places, *[(a, "x", FAST)] * 2)
    assert places.take(a, "x") is None
    assert gave_way(mine + theirs) == []


def test_shares_of_the_profile_count(a: Hospital, b: Hospital) -> None:
    large = a.model_copy(update={"limits": Limits(incoming=3)})
    places = Places(4, 2, 1000, 30.0)
    held = filled(places, *[(large, "x", FAST)] * 3, (b, "y", FAST))
    assert places.take(b, "y") is None
    assert gave_way(held) == []
    places.leave(held[3])
    more = filled(places, (large, "x", SLOW))
    assert places.take(b, "y") is not None
    assert gave_way(held + more) == [4]


def test_one_address_leaves_room_for_the_others_of_its_hospital(a: Hospital) -> None:
    places = Places(4, 4, 1000, 30.0)
    held = filled(places, *[(a, "x", FAST)] * 3, (a, "y", SLOW))
    assert places.take(a, "z") is not None
    assert len(gave_way(held)) == 1
    assert gave_way(held) != [3]
    assert places.take(a, "x") is None


def test_what_all_but_stands_still_makes_room_for_its_own_hospital(a: Hospital) -> None:
    places = Places(3, 3, 4000, 30.0)
    held = filled(places, (a, "x", FAST), (a, "x", SLOW), (a, "x", STUCK))
    assert places.take(a, "x") is not None
    assert gave_way(held) == [2]
    assert places.take(a, "x") is None


def test_a_place_given_away_once_is_not_given_twice(a: Hospital, b: Hospital) -> None:
    places = Places(4, 2, 1000, 30.0)
    held = filled(places, *[(a, "x", SLOW)] * 4)
    assert [places.take(b, "y") is not None for _ in range(3)] == [True, True, False]
    assert len(gave_way(held)) == 2
