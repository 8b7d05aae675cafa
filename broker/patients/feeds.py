"""Carries out a feed: what it says becomes events. Pure over the records that were loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from broker.model.errors import Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.patients.events import Event, Fed, Happened, Late, Merged
from broker.patients.feed import Feed, Kind
from broker.patients.identifiers import Authorities, GivenId
from broker.patients.projection import Index, Record
from broker.patients.resolution import Outcome, Resolver
from broker.wire.hl7v2_time import interval


@dataclass(frozen=True, slots=True)
class Pair:
    """Two ids of one domain that become one: the id that stays and the id that retires, each with the id as it was given."""

    survivor: PatientId
    key: GivenId
    retired: PatientId
    retired_given_id: GivenId


class FeedWork:
    """One feed at work on an index. `log` is what happened, `outcomes` what the other actors are to be told of it."""

    def __init__(self, feed: Feed, index: Index, authorities: Authorities, affinity_domain: str, at: float) -> None:
        self._feed, self._index, self._authorities, self._at = feed, index, authorities, at
        self._said = interval(feed.said, authorities.profile.region.timezone)
        self._resolver = Resolver(index, affinity_domain, self._happen, authorities.profile.distinct_domains)
        self.log: list[Happened] = []

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """What became of ids, in order."""
        return self._resolver.outcomes

    def feed(self, own: Sequence[tuple[PatientId, GivenId]]) -> None:
        """Keep what is said of every id named; one of a further domain that was merged away is left to its survivor.

        What comes after something newer that its sender said is noted, and changes nothing. Raise `Rejected` (204) when the id
        the feed is about was merged away.
        """
        named = []
        for patient, given_id in own:
            known = self._index.find(patient)
            if known is not None and not known.active:
                if patient == own[0][0]:
                    raise Rejected(Hl7Code.UNKNOWN_KEY, f"{given_id.title} was merged away", given_id.at)
            elif known is not None and self._is_late(known):
                self._happen(Late(patient, self._person(given_id, known), self._feed.kind, self._start))
            else:
                self._save(patient, given_id, known)
                named.append(patient)
        if named:
            self._resolver.place(named)

    def merge(self, pairs: Sequence[Pair]) -> None:
        """Retire an id of each pair. Raise `Rejected`: 204 for an id that was merged into another one, 205 for a circle,

        or for a change to an id that is in use.
        """
        for pair in pairs:
            self._merge(pair)
        if len(pairs) > 1:
            self._resolver.place([pair.survivor for pair in pairs])

    def _happen(self, event: Event) -> None:
        happened = Happened(at=self._at, sender=str(self._feed.sender), message_id=self._feed.message_id, event=event)
        self._index.apply(happened)
        self.log.append(happened)

    @property
    def _start(self) -> float | None:
        return self._said[0] if self._said else None

    def _is_late(self, known: Record) -> bool:
        """Whether the sender of this feed told of a later moment before; times of two senders are not compared."""
        if self._said is None or known.said_at is None or known.said_by != str(self._feed.sender):
            return False
        domain = self._authorities.profile.domain(known.patient.domain)
        return domain is not None and domain.ordered and self._said[1] < known.said_at

    def _save(self, patient: PatientId, key: GivenId, known: Record | None) -> None:
        self._happen(Fed(patient, self._person(key, known), self._feed.kind, self._start))

    def _person(self, key: GivenId, known: Record | None) -> Demographics:
        return self._feed.person(known.person if known else Demographics(), key, self._authorities)

    def _merge(self, pair: Pair) -> None:
        """ITI TF-2 3.8.4.2: demographics in a merge are not an update; they serve only for an id never seen before."""
        survivor, retired, places = self._index.find(pair.survivor), self._index.find(pair.retired), self._feed.places
        if retired is not None and not retired.active:
            if survivor is not None and self._leads_to(retired, survivor):
                return
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"{pair.retired_given_id.title} was merged into another id", places.retired)
        if survivor is not None and not survivor.active:
            if retired is not None and self._index.survivor(survivor).patient == retired.patient:
                raise Rejected(Hl7Code.DUPLICATE_KEY, "the merge would close a circle", places.retired)
            raise Rejected(Hl7Code.UNKNOWN_KEY, f"the surviving {pair.key.title} was merged away", pair.key.at)
        if survivor is None:
            self._first_seen(pair, retired)
        elif self._feed.kind is Kind.CHANGE:
            raise Rejected(Hl7Code.DUPLICATE_KEY, f"{pair.key.title} is in use: an id changes to a new one", pair.key.at)
        before = retired or Record(patient=pair.retired, age=0)
        self._happen(Merged(pair.retired, pair.survivor))
        self._resolver.place_survivor(pair.survivor, before)

    def _first_seen(self, pair: Pair, retired: Record | None) -> None:
        if retired is None:
            self._save(pair.survivor, pair.key, None)
        else:
            self._happen(Fed(pair.survivor, retired.person, self._feed.kind))

    def _leads_to(self, retired: Record, survivor: Record) -> bool:
        while retired.survivor is not None:
            retired = self._index.get(retired.survivor)
            if retired.patient == survivor.patient:
                return True
        return False
