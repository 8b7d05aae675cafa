"""Places that many peers want: whose turn it is, and of whom one gives way."""

from dataclasses import dataclass

import pytest

from broker.edge.door.shares import Lane, Shares, Slots, peer_of


@dataclass(frozen=True)
class One:
    peer: str
    number: int = 0
    eager: bool = False


@pytest.mark.parametrize(("address", "peer"), [
    ("10.1.2.3", "10.1.2.3"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
    ("::ffff:10.1.2.3", "10.1.2.3"), ("fe80::1%eth0", "fe80::/64"), ("::1", "::/64"), ("a:b", "a:b"), ("", ""),
])
def test_a_peer_is_an_address_or_the_network_one_host_has(address: str, peer: str) -> None:
    assert peer_of(address) == peer


def test_the_crowd_is_the_peer_that_has_most_in_the_order_they_came() -> None:
    shares: Shares[One] = Shares()
    members = [One("a", 1), One("b", 2), One("a", 3), One("c", 4)]
    for member in (*members, members[0]):
        shares.add(member)
    assert (len(shares), shares.crowd()) == (4, [One("a", 1), One("a", 3)])
    shares.discard(One("a", 1))
    shares.discard(One("a", 1))
    shares.discard(One("nobody"))
    shares.add(One("b", 5))
    assert (len(shares), shares.crowd(), shares.count("a")) == (4, [One("b", 2), One("b", 5)], 1)
    assert Shares[One]().crowd() == []


def test_a_free_place_goes_to_the_peer_that_holds_fewest_and_of_its_own_to_the_eager_one() -> None:
    lane: Lane[One] = Lane(3)
    for number in range(4):
        lane.queue.add(One("a", number))
    lane.queue.add(One("b", 9))
    lane.queue.add(One("a", 7, eager=True))
    got = [lane.next() for _ in range(4)]
    assert got == [One("a", 7, eager=True), One("b", 9), One("a", 0), None]
    assert lane.wanted
    lane.working.discard(One("b", 9))
    lane.queue.add(One("c", 1))
    assert lane.next() == One("c", 1)


def test_it_is_unfair_when_one_peer_has_two_more_than_one_that_queues() -> None:
    lane: Lane[One] = Lane(2)
    for number in range(3):
        lane.queue.add(One("a", number))
    assert not lane.wanted
    lane.next()
    lane.next()
    assert (lane.wanted, lane.unfair) == (True, False)      # only its own queue
    lane.queue.add(One("b"))
    assert lane.unfair
    lane.working.discard(One("a", 0))
    lane.next()
    assert not lane.unfair


def test_an_eighth_of_the_slots_is_for_peers_that_have_none() -> None:
    slots = Slots(16)
    given = [slots.take("a") for _ in range(16)]
    assert [one is not None for one in given] == [True] * 14 + [False] * 2
    others = [slots.take(peer) for peer in ("b", "b", "c", "d")]
    assert [one is not None for one in others] == [True, False, True, False]
    for give_back in (*given, *others):
        if give_back is not None:
            give_back()
    assert sum(slots.take("a") is not None for _ in range(16)) == 14


def test_few_slots_are_for_anybody() -> None:
    slots = Slots(2)
    assert [slots.take("a") is not None for _ in range(3)] == [True, True, False]
