"""Who gives way where many peers want the same few places: the one that holds most of them, and of its own the one in question.

Knows no wire. A peer is an address: an IPv4 address, or an IPv6 network of 64 bits, which one host has for itself.
"""

import ipaddress
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, Protocol, TypeVar


class Member(Protocol):
    """What may hold a place."""

    @property
    def peer(self) -> str:
        """Whose it is, as `peer_of` says."""
        ...


class Worker(Member, Protocol):
    """What may queue for a place at work."""

    @property
    def eager(self) -> bool:
        """Whether it can be worked on at once, without waiting for its peer."""
        ...


T = TypeVar("T", bound=Member)
W = TypeVar("W", bound=Worker)


def peer_of(address: str) -> str:
    """Return what counts as one peer of this address; the address as it is when it is none."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class Shares(Generic[T]):
    """Members by peer, those of each in the order they came. Not for several threads at once."""

    def __init__(self) -> None:
        self._peers: dict[str, dict[T, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        for members in self._peers.values():
            yield from members

    def __contains__(self, member: T) -> bool:
        return member in self._peers.get(member.peer, ())

    @property
    def peers(self) -> list[str]:
        """Everybody who has a member."""
        return list(self._peers)

    def add(self, member: T) -> None:
        """Add a member, as the last of its peer."""
        members = self._peers.setdefault(member.peer, {})
        if member not in members:
            members[member] = None
            self._size += 1

    def discard(self, member: T) -> None:
        """Remove a member; one that is not there is no error."""
        members = self._peers.get(member.peer)
        if members is not None and member in members:
            del members[member]
            self._size -= 1
            if not members:
                del self._peers[member.peer]

    def count(self, peer: str) -> int:
        """Return how many members a peer has."""
        return len(self._peers.get(peer, ()))

    def of(self, peer: str) -> list[T]:
        """Return the members of a peer, in the order they came."""
        return list(self._peers.get(peer, ()))

    def crowd(self) -> list[T]:
        """Return the members of the peer that has most, in the order they came; nothing when there are none."""
        peer = max(self._peers, key=self.count, default=None)
        return [] if peer is None else list(self._peers[peer])


class Held(Generic[T]):
    """How many bytes each member has in memory; all together may have `most`. Not for several threads at once."""

    def __init__(self, most: int) -> None:
        self._most, self.total = most, 0
        self._counts: dict[str, dict[T, int]] = {}

    def note(self, member: T, count: int) -> None:
        """Say how many bytes a member has."""
        if not count:
            self.discard(member)
            return
        counts = self._counts.setdefault(member.peer, {})
        self.total += count - counts.get(member, 0)
        counts[member] = count

    def discard(self, member: T) -> None:
        """Say that a member has none."""
        counts = self._counts.get(member.peer)
        if counts is not None:
            self.total -= counts.pop(member, 0)
            if not counts:
                del self._counts[member.peer]

    @property
    def excess(self) -> T | None:
        """The one that has to give its bytes up, where there are too many: the first of the peer that has most."""
        if self.total <= self._most:
            return None
        peer = max(self._counts, key=lambda peer: sum(self._counts[peer].values()))
        return next(iter(self._counts[peer]))


class Slots:
    """So many slots, an eighth of them only for peers that have none. Safe to share between threads."""

    def __init__(self, count: int) -> None:
        self._free, self._kept = count, count // 8
        self._taken: Counter[str] = Counter()
        self._guard = threading.Lock()

    def take(self, peer: str) -> Callable[[], None] | None:
        """Return what gives the slot back, to be called once; None when there is no slot for this peer."""
        with self._guard:
            if self._free <= (self._kept if self._taken[peer] else 0):
                return None
            self._free -= 1
            self._taken[peer] += 1
        return partial(self._give, peer)

    def _give(self, peer: str) -> None:
        with self._guard:
            self._free += 1
            self._taken[peer] -= 1
            if not self._taken[peer]:
                del self._taken[peer]


class Lane(Generic[W]):
    """So many places at work, and those who queue for one.

    A free place goes to the peer that holds fewest, and of its own to the first that is eager, else to the first.
    Not for several threads at once.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.queue: Shares[W] = Shares()
        self.working: Shares[W] = Shares()

    def next(self) -> W | None:
        """Return the one that works from now on; None when there is no free place, or nobody queues."""
        if not len(self.queue) or len(self.working) >= self.places:
            return None
        members = self.queue.of(min(self.queue.peers, key=self.working.count))
        member = next((one for one in members if one.eager), members[0])
        self.queue.discard(member)
        self.working.add(member)
        return member

    @property
    def wanted(self) -> bool:
        """Whether somebody queues in vain."""
        return len(self.queue) > 0 and len(self.working) >= self.places

    @property
    def unfair(self) -> bool:
        """Whether the peer that has most places has at least two more than one that queues."""
        fewest = min(map(self.working.count, self.queue.peers), default=0)
        return len(self.queue) > 0 and fewest + 1 < len(self.working.crowd())
