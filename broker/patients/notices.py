"""Whom a change of the index concerns, and what each consumer is told of it (ITI TF-2 3.10, 3.46, 3.64). Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.config.profile import Consumer, Profile
from broker.model.ids import PatientId
from broker.patients.resolution import Moved, Outcome, Parted, Retired

FEED, LINKS = "ITI-8", "ITI-64"


@dataclass(frozen=True, slots=True)
class Person:
    """Ids of one person: the value of the one in the affinity domain, and the active local ones."""

    affinity: str
    local: frozenset[PatientId]

    def known_to(self, domains: Collection[str], affinity_domain: str) -> frozenset[PatientId]:
        """Return the ids of these domains."""
        return frozenset(one for one in (PatientId(affinity_domain, self.affinity), *self.local) if one.domain in domains)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The persons to whom something happened, as they were and as they are; `retired` are pairs of an id and its survivor."""

    before: tuple[Person, ...] = ()
    after: tuple[Person, ...] = ()
    retired: tuple[tuple[PatientId, PatientId], ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """What one consumer is to be told: the transaction and what its message says, as JSON has it."""

    consumer: str
    transaction: str
    body: Mapping[str, Any]


def notices(profile: Profile, change: Change, outcomes: Sequence[Outcome]) -> list[Notice]:
    """Return what the consumers of the profile are told, each in the order in which it is to hear it."""
    told = list[Notice]()
    for consumer in profile.consumers:
        if consumer.transaction == LINKS:
            told += _of_registry(consumer, change, outcomes)
        else:
            told += _of_consumer(profile, consumer, change, outcomes)
    return told


def _of_consumer(profile: Profile, consumer: Consumer, change: Change, outcomes: Sequence[Outcome]) -> Iterator[Notice]:
    """One message for each resulting person of whom the ids in the consumer's domains are others than before.

    There is no message that takes an id back: who knew a retired id is told anew of the person it lives on in.
    """
    ours = profile.region.affinity_domain
    order = {one.oid: number for number, one in enumerate(profile.domains) if not one.hidden}
    domains = set(consumer.domains) or set(order)
    joined = [(one.retired, one.survivor) for one in outcomes if isinstance(one, Retired)]
    survivors = {survivor for retired, survivor in (*change.retired, *joined) if retired.domain in domains}
    known = {person.known_to(domains, ours) for person in change.before}
    for person in change.after:
        ids = person.known_to(domains, ours)
        if ids and (ids not in known or survivors & ids):
            listed = sorted(ids, key=lambda one: (order[one.domain], one))
            yield Notice(consumer.key, consumer.transaction, {"ids": [[one.domain, one.value] for one in listed]})


def _of_registry(consumer: Consumer, change: Change, outcomes: Sequence[Outcome]) -> Iterator[Notice]:
    """New ids of the affinity domain, those that became one, then the local ids whose documents are another person's now.

    It hears of no id that is new and retired in one change, and of a local id that went on and on only where it is at last.
    """
    joined = {one.retired.value: one.survivor.value for one in outcomes if isinstance(one, Retired)}
    known = {person.affinity for person in change.before}
    for person in change.after:
        if person.affinity not in known:
            yield Notice(consumer.key, FEED, {"event": "A04", "id": person.affinity})
    for retired in (one for one in joined if one in known):
        yield Notice(consumer.key, FEED, {"event": "A40", "id": _end(retired, joined), "retired": retired})
    for patient, (before, now) in _ways(outcomes).items():
        if _end(before, joined) != _end(now, joined):
            yield _moved(consumer, patient, _end(before, joined), _end(now, joined), patient)
    homes = {patient: person.affinity for person in change.after for patient in person.local}
    for retired_id, survivor in change.retired:
        if survivor in homes:
            yield _moved(consumer, survivor, homes[survivor], homes[survivor], retired_id)


def _ways(outcomes: Sequence[Outcome]) -> dict[PatientId, tuple[str, str]]:
    """Return from where to where, by ids of the affinity domain, the documents of each local id went."""
    ways: dict[PatientId, tuple[str, str]] = {}
    for one in outcomes:
        if isinstance(one, Moved | Parted):
            for patient in one.local:
                first, _ = ways.get(patient, (one.before.value, ""))
                ways[patient] = first, one.now.value
    return ways


def _end(value: str, joined: Mapping[str, str]) -> str:
    """Return as what an id of the affinity domain lives on after all joins of a change."""
    while value in joined:
        value = joined[value]
    return value


def _moved(consumer: Consumer, local: PatientId, before: str, now: str, subsumed: PatientId) -> Notice:
    body: dict[str, Any] = {"id": now, "local": [local.domain, local.value], "before": before}
    if subsumed != local:
        body["retired"] = [subsumed.domain, subsumed.value]
    return Notice(consumer.key, LINKS, body)
