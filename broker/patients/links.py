"""Who is who: links source records by comparison, and keeps one group with one affinity-domain id per person.

A group is a connected component of positive links over active records. Joining keeps the older id and retires the
younger; where a record leaves, those who stay keep the id. All of it happens in the feed's unit of work.

A link is automatic (found by comparison, and compared again whenever one of its ends is fed) or explicit (a source named both
ids in one feed; taken back when it names one of them otherwise, without the other).
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog

from broker.matching.block import block_keys
from broker.matching.decide import Verdict, disagree, same_person
from broker.model.ids import PatientId
from broker.model.ports import PatientArrived, PatientMerged, PatientMoved, Unit
from broker.patients import store
from broker.patients.store import Event, Identity

log = structlog.get_logger("broker.patients")

LARGEST = 64    # records of one person; one bad identity number must not draw strangers together without end


@dataclass(frozen=True)
class Linker:
    """Places records in groups and tells the other actors what became of the affinity-domain ids."""

    affinity_domain: str
    arrived: PatientArrived
    merged: PatientMerged
    moved: PatientMoved

    def place(self, unit: Unit, records: Sequence[Identity]) -> None:
        """Find the group of the records of one feed, new or changed; what comparison linked to them before is forgotten.

        Several are ids of one person, because their source named them together.
        """
        ties = [self._state(unit, record, records) for record in records]
        for record, tied in zip(records, ties, strict=True):
            self._place(unit, record if record is records[0] else store.get(unit, record.id), tied, ())

    def merge(self, unit: Unit, retired: Identity, survivor: Identity) -> None:
        """Retire a record in favour of another of its domain, whose group is found anew."""
        store.retire(unit, retired, survivor)
        self._place(unit, survivor, store.explicit_links(unit, survivor.id), (retired,))

    def _state(self, unit: Unit, record: Identity, records: Sequence[Identity]) -> set[int]:
        """Link a record explicitly to those named with it, take back what its source has gone away from, return what is left.

        Taken back are links to another id of a domain it now names another one of, and to a record that the feed did not name and
        that speaks against being the same person.
        """
        together = {other.id for other in records} - {record.id}
        domains = {other.patient.domain for other in records}
        before = store.explicit_links(unit, record.id)
        others = {number: store.get(unit, number) for number in before - together}
        gone = {number for number, other in others.items()
                if other.patient.domain in domains or disagree(record.person, other.person)}
        for number in gone:
            store.drop_link(unit, record.id, number)
        for number in together - before:
            store.set_link(unit, record.id, number, store.EXPLICIT)
        after = (before - gone) | together
        if after != before:
            self._tell(unit, "stated", record, [store.get(unit, number) for number in sorted(after)])
        return after

    def _place(self, unit: Unit, moved: Identity, ties: Collection[int], retired: Sequence[Identity]) -> None:
        tied = [store.get(unit, number) for number in ties]
        groups = {record.group for record in (moved, *tied, *retired) if record.group is not None}
        before = store.drop_automatic_links(unit, moved.id)
        found = store.candidates(unit, block_keys(moved.person))
        matches = [other for other in found if other.id != moved.id and _same(moved, other)]
        allowed = self._compatible(unit, moved, groups, matches)
        linked = [other for other in matches if other.group in allowed
                  and store.set_link(unit, moved.id, other.id, store.AUTOMATIC) == store.AUTOMATIC]
        if before != {other.id for other in linked}:
            self._tell(unit, "linked", moved, linked)
        self._regroup(unit, allowed | groups, (moved, *tied), retired)

    @staticmethod
    def _tell(unit: Unit, kind: str, record: Identity, to: Sequence[Identity]) -> None:
        body = {"to": [[other.patient.domain, other.patient.value] for other in to]}
        store.tell(unit, Event(at=time.time(), kind=kind, patient=record.patient, body=body))

    def _compatible(self, unit: Unit, moved: Identity, own: set[int], matches: Sequence[Identity]) -> set[int]:
        """Return the groups of the matches in which nobody contradicts the record or a group taken before; its own first."""
        groups = {other.group for other in matches if other.group is not None}
        allowed: set[int] = set()
        together = _still_linked(unit, moved, own)
        kept = {person.id for person in together}
        for number in sorted(groups, key=lambda number: (number not in own, number)):
            people = [other for other in store.members(unit, [number]) if other.id not in kept]
            if len(together) + len(people) > LARGEST:
                log.warning("person has too many records, not linked further", records=len(together) + len(people))
            elif not any(_contradict(one, other) for one in together for other in people):
                allowed.add(number)
                together += people
        return allowed

    def _regroup(self, unit: Unit, groups: set[int], fed: Sequence[Identity], retired: Sequence[Identity]) -> None:
        """Return every component of `fed` and the people in `groups` one id: the oldest it may claim, else a new one.

        The first of `fed` is the one that changed, into which `retired` were merged.
        What the other actors have of a record goes along with it, also when its former id stays with others.
        """
        moved = fed[0]
        people = {person.id: person for person in (*fed, *store.members(unit, groups))}
        parts = _components(people, store.links_between(unit, list(people)))
        claims: dict[int, list[int]] = {}
        for number in sorted(groups):
            claims.setdefault(_claimant(number, parts, people, moved.id), []).append(number)
        heirs: dict[int, int] = {}
        homes: list[tuple[Identity, int]] = []
        arrivals: list[PatientId] = []
        for index, part in enumerate(parts):
            kept, *others = claims.get(index) or [store.new_group(unit).id]
            arrivals += self._settle(unit, [people[i] for i in part if people[i].group != kept], kept)
            for other in others:
                self._join(unit, other, kept)
            heirs |= dict.fromkeys((kept, *others), kept)
            homes += [(people[i], kept) for i in part] + [(record, kept) for record in retired if moved.id in part]
        for record, home in homes:
            if record.group is not None and heirs[record.group] != home:
                self._move(unit, record, heirs[record.group], home)
        for local in arrivals:      # once everything that is registered for them has gone along
            self.arrived(unit, local)

    @staticmethod
    def _settle(unit: Unit, people: Sequence[Identity], number: int) -> list[PatientId]:
        store.put_in_group(unit, [person.id for person in people], number)
        value = store.get_group(unit, number).value
        for person in people:
            store.tell(unit, Event(at=time.time(), kind="grouped", patient=person.patient, body={"affinity": value}))
        return [person.patient for person in people]

    def _move(self, unit: Unit, record: Identity, before: int, now: int) -> None:
        left, home = (PatientId(self.affinity_domain, store.get_group(unit, number).value) for number in (before, now))
        self.moved(unit, (record.patient, *store.retired_into(unit, record.id)), left, home)

    def _join(self, unit: Unit, number: int, kept: int) -> None:
        store.retire_group(unit, number, kept)
        retired, survivor = (PatientId(self.affinity_domain, store.get_group(unit, n).value) for n in (number, kept))
        store.tell(unit, Event(at=time.time(), kind="joined", patient=retired, body={"survivor": survivor.value}))
        self.merged(unit, retired, survivor)


def _still_linked(unit: Unit, moved: Identity, groups: set[int]) -> list[Identity]:
    """Return the record and those of its groups it hangs together with by explicit links."""
    people = {moved.id: moved, **{person.id: person for person in store.members(unit, groups)}}
    parts = _components(people, store.links_between(unit, list(people)))
    return [people[number] for number in next(part for part in parts if moved.id in part)]


def _same(one: Identity, other: Identity) -> bool:
    return same_person(one.person, other.person) is Verdict.SAME


def _contradict(one: Identity, other: Identity) -> bool:
    return same_person(one.person, other.person) is Verdict.DIFFERENT


def _components(people: Iterable[int], links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the connected components, each sorted, the one with the oldest record first."""
    part = {person: [person] for person in people}
    for a, b in links:
        if part[a] is not part[b]:
            part[a].extend(part[b])
            for moved in part[b]:
                part[moved] = part[a]
    return sorted({id(members): sorted(members) for members in part.values()}.values())


def _claimant(number: int, parts: Sequence[Sequence[int]], people: dict[int, Identity], moved: int) -> int:
    """Return which component keeps a group's id: those who stayed, the larger part of them, then the older one.

    A group whose last active record was merged away goes to the survivor.
    """
    def rank(index: int) -> tuple[bool, int, int]:
        size = sum(people[person].group == number for person in parts[index])
        return moved not in parts[index], size, -index

    staying = [index for index, part in enumerate(parts) if any(people[person].group == number for person in part)]
    return max(staying, key=rank) if staying else next(i for i, part in enumerate(parts) if moved in part)
