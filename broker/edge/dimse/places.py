"""Places for associations: a hospital has a share of them, and where they are short the one that loses least gives way.

Places are given freely while there are any. When all are taken, a newcomer gets one from a hospital that is farther over
its share than the newcomer's own would be then, else from its own hospital: from an address that holds more than its own
would, or from an association that is idle or all but stands still. What is idle goes before what is slow.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.config.profile import Hospital

CALM = 1.0          # seconds an association must have been idle to make room for another


class Activity(Protocol):
    """What an association does just now, for another thread to ask."""

    @property
    def idle(self) -> float:
        """Seconds without a message; 0 in the middle of one."""
        ...

    @property
    def lasting(self) -> float:
        """Seconds since its message began; 0 between messages."""
        ...

    @property
    def came(self) -> int:
        """Bytes of its message that came."""
        ...

    def wake(self) -> None:
        """End the wait of the thread that reads."""
        ...


@dataclass(eq=False, slots=True)
class Place:
    """One association's place; `served` is None while it negotiates."""

    hospital: Hospital
    address: str
    served: Activity | None = None
    evicted: bool = False

    @property
    def idle(self) -> float:
        """Seconds without a message; 0 in the middle of one."""
        return self.served.idle if self.served is not None else 0.0

    @property
    def lasting(self) -> float:
        """Seconds since its message began; 0 between messages."""
        return self.served.lasting if self.served is not None else 0.0

    @property
    def rate(self) -> float:
        """Bytes a second of the message under way; without end for one that has just begun, and for none."""
        seconds = self.lasting
        return self.served.came / seconds if self.served is not None and seconds >= CALM else float("inf")

    def evict(self) -> None:
        """Have it end soon."""
        self.evicted = True
        if self.served is not None:
            self.served.wake()


class Places:
    """Who has a place. At most `most`, a `share` of them for each hospital that says none; safe to share between threads.

    An association whose message has come at less than `crawl` bytes a second for `patience` seconds stands all but still.
    """

    def __init__(self, most: int, share: int, crawl: int, patience: float) -> None:
        self._most, self._share, self._crawl, self._patience = most, max(share, 1), crawl, patience
        self._places: dict[Place, None] = {}     # in order of their coming
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def take(self, hospital: Hospital, address: str) -> Place | None:
        """Return a place for an association of this hospital, if need be another's; None when there is none for it."""
        with self._guard:
            held = [place for place in self._places if not place.evicted]
            if len(held) >= self._most:
                loser = self._loser(held, hospital, address)
                if loser is None:
                    return None
                loser.evict()
            place = Place(hospital, address)
            self._places[place] = None
            return place

    def leave(self, place: Place) -> None:
        """Return a place back."""
        with self._guard:
            self._places.pop(place, None)

    def _loser(self, held: Sequence[Place], hospital: Hospital, address: str) -> Place | None:
        """Return whose place a newcomer gets."""
        counts = Counter(place.hospital.key for place in held)
        over = {place.hospital.key: counts[place.hospital.key] - self._due(place.hospital) for place in held}
        mine = counts[hospital.key] + 1 - self._due(hospital)
        others = {key for key, excess in over.items() if excess > mine}
        calm = [place for place in held if place.idle >= CALM and place.hospital.key in {hospital.key, *others}]
        if calm:
            return max(calm, key=lambda place: (over[place.hospital.key], place.idle))
        if others:
            most = max(others, key=over.__getitem__)
            return self._slowest(place for place in held if place.hospital.key == most)
        return self._own([place for place in held if place.hospital.key == hospital.key], address)

    def _own(self, held: Sequence[Place], address: str) -> Place | None:
        """Return who of the newcomer's own hospital gives way."""
        counts = Counter(place.address for place in held)
        if counts and max(counts.values()) > counts[address] + 1:
            return self._slowest(held)
        stuck = [place for place in held if place.lasting >= self._patience and place.rate < self._crawl]
        return self._slowest(stuck) if stuck else None

    def _due(self, hospital: Hospital) -> int:
        return hospital.limits.incoming or self._share

    @staticmethod
    def _slowest(places: Iterable[Place]) -> Place:
        """Return the slowest of the address that holds most."""
        listed = list(places)
        counts = Counter(place.address for place in listed)
        most = max(counts.values())
        return min((place for place in listed if counts[place.address] == most), key=lambda place: place.rate)
