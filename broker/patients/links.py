"""Who is who: links source records by comparison, and keeps one group with one affinity-domain id per person.

A group is a connected component of positive links over active records. Joining keeps the older id and retires the
younger; where a record leaves, those who stay keep the id. All of it happens in the feed's unit of work.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from broker.matching.block import block_keys
from broker.matching.decide import Verdict, same_person
from broker.model.ids import PatientId
from broker.model.ports import PatientArrived, PatientMerged, Unit
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

    def place(self, unit: Unit, moved: Identity) -> None:
        """Find the group of a record that is new or changed; what comparison linked to it before is forgotten."""
        before = store.drop_automatic_links(unit, moved.id)
        found = store.candidates(unit, block_keys(moved.person))
        matches = [other for other in found if other.id != moved.id and _same(moved, other)]
        allowed = self._compatible(unit, moved, matches)
        linked = [other for other in matches if other.group in allowed]
        for other in linked:
            store.set_link(unit, moved.id, other.id, store.AUTOMATIC)
        if before != {other.id for other in linked}:
            body = {"to": [[other.patient.domain, other.patient.value] for other in linked]}
            store.tell(unit, Event(at=time.time(), kind="linked", patient=moved.patient, body=body))
        self._regroup(unit, allowed | ({moved.group} if moved.group is not None else set()), moved)

    def merge(self, unit: Unit, retired: Identity, survivor: Identity) -> None:
        """Retire a record in favour of another of its domain: their groups become one."""
        groups = {number for number in (retired.group, survivor.group) if number is not None}
        store.retire(unit, retired, survivor)
        self._regroup(unit, groups, survivor)

    def _compatible(self, unit: Unit, moved: Identity, matches: Sequence[Identity]) -> set[int]:
        """Give the groups of the matches in which nobody contradicts the record or a group taken before; its own first."""
        groups = {other.group for other in matches if other.group is not None}
        allowed: set[int] = set()
        together = _still_linked(unit, moved)
        kept = {person.id for person in together}
        for number in sorted(groups, key=lambda number: (number != moved.group, number)):
            people = [other for other in store.members(unit, [number]) if other.id not in kept]
            if len(together) + len(people) > LARGEST:
                log.warning("person has too many records, not linked further", records=len(together) + len(people))
            elif not any(_contradict(one, other) for one in together for other in people):
                allowed.add(number)
                together += people
        return allowed

    def _regroup(self, unit: Unit, groups: set[int], moved: Identity) -> None:
        """Give every component of the people in `groups` one id: the oldest it may claim, else a new one."""
        people = {person.id: person for person in (moved, *store.members(unit, groups))}
        parts = _components(people, store.links_between(unit, list(people)))
        claims: dict[int, list[int]] = {}
        for number in sorted(groups):
            claims.setdefault(_claimant(number, parts, people, moved.id), []).append(number)
        for index, part in enumerate(parts):
            kept, *others = claims.get(index) or [store.new_group(unit).id]
            self._settle(unit, [people[i] for i in part if people[i].group != kept], kept)
            for other in others:
                self._join(unit, other, kept)

    def _settle(self, unit: Unit, people: Sequence[Identity], number: int) -> None:
        store.put_in_group(unit, [person.id for person in people], number)
        value = store.get_group(unit, number).value
        for person in people:
            store.tell(unit, Event(at=time.time(), kind="grouped", patient=person.patient, body={"affinity": value}))
            self.arrived(unit, person.patient)

    def _join(self, unit: Unit, number: int, kept: int) -> None:
        store.retire_group(unit, number, kept)
        retired, survivor = (PatientId(self.affinity_domain, store.get_group(unit, n).value) for n in (number, kept))
        store.tell(unit, Event(at=time.time(), kind="joined", patient=retired, body={"survivor": survivor.value}))
        self.merged(unit, retired, survivor)


def _still_linked(unit: Unit, moved: Identity) -> list[Identity]:
    """Give the record and those of its group it hangs together with by explicit links."""
    people = {moved.id: moved}
    if moved.group is not None:
        people |= {person.id: person for person in store.members(unit, [moved.group])}
    parts = _components(people, store.links_between(unit, list(people)))
    return [people[number] for number in next(part for part in parts if moved.id in part)]


def _same(one: Identity, other: Identity) -> bool:
    return same_person(one.person, other.person) is Verdict.SAME


def _contradict(one: Identity, other: Identity) -> bool:
    return same_person(one.person, other.person) is Verdict.DIFFERENT


def _components(people: Iterable[int], links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Give the connected components, each sorted, the one with the oldest record first."""
    part = {person: [person] for person in people}
    for a, b in links:
        if part[a] is not part[b]:
            part[a].extend(part[b])
            for moved in part[b]:
                part[moved] = part[a]
    return sorted({id(members): sorted(members) for members in part.values()}.values())


def _claimant(number: int, parts: Sequence[Sequence[int]], people: dict[int, Identity], moved: int) -> int:
    """Give which component keeps a group's id: those who stayed, the larger part of them, then the older one.

    A group whose last active record was merged away goes to the survivor.
    """
    def rank(index: int) -> tuple[bool, int, int]:
        size = sum(people[person].group == number for person in parts[index])
        return moved not in parts[index], size, -index

    staying = [index for index, part in enumerate(parts) if any(people[person].group == number for person in part)]
    return max(staying, key=rank) if staying else next(i for i, part in enumerate(parts) if moved in part)
