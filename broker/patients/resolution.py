"""Who is who: links source records by comparison, and keeps one group with one affinity-domain id per person. Pure.

A group is a connected component of positive links over active records. Joining keeps the older id and retires the
younger; where a record leaves, those who stay keep the id.

A link is automatic (found by comparison, and compared again whenever one of its ends is fed), explicit (a source named both
ids in one feed; taken back when it names one of them otherwise, without the other), or decided by somebody: then only another
decision changes it. It may also be decided that two records are never one person's; that is stronger than any link.
"""

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from broker.matching.block import block_keys
from broker.matching.decide import Verdict, disagree, same_person
from broker.model.ids import PatientId
from broker.patients.events import Event, Grouped, Joined, Linked, Revived, Stated
from broker.patients.projection import AUTOMATIC, EXPLICIT, Index, Record

log = structlog.get_logger("broker.patients")

_COMPARED = 2   # weakness of a link found by comparison
LARGEST = 64    # records of one person; one bad identity number must not draw strangers together without end
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"   # Crockford's base 32: nothing that is read as something else


@dataclass(frozen=True, slots=True)
class Arrived:
    """A local id has a person, or another one than before."""

    local: PatientId


@dataclass(frozen=True, slots=True)
class Retired:
    """An id of the affinity domain lives on as another one."""

    retired: PatientId
    survivor: PatientId


@dataclass(frozen=True, slots=True)
class Moved:
    """Local ids went from a person who stays to another one."""

    local: tuple[PatientId, ...]
    before: PatientId
    now: PatientId


@dataclass(frozen=True, slots=True)
class Parted:
    """An id of the affinity domain that lived on as `before` is a person's own again, and has these local ids.

    `kept` are the local ids that stay with the other person.
    """

    local: tuple[PatientId, ...]
    before: PatientId
    now: PatientId
    kept: tuple[PatientId, ...]


Outcome = Arrived | Retired | Moved | Parted
"""What the other actors are to be told."""


@dataclass
class Resolver:
    """Places the records of one feed. `happen` takes what happens into the index; `outcomes` gathers what others must know.

    Of the `distinct` domains two ids are never joined by comparison, neither directly nor by way of an id of another domain.
    """

    index: Index
    affinity_domain: str
    happen: Callable[[Event], None]
    distinct: Collection[str]
    outcomes: list[Outcome] = field(default_factory=list)

    def place(self, named: Sequence[PatientId]) -> None:
        """Find the group of the records of one feed, new or changed; what comparison linked to them before is forgotten.

        Several are ids of one person, because their source named them together.
        """
        for patient in named:
            self._state(patient, named)
        for patient in named:
            self._place(self.index.get(patient), self.index.tied(patient), ())

    def place_survivor(self, survivor: PatientId, retired: Record) -> None:
        """Find the group of a record anew into which another one, given as it was before, was merged."""
        self._place(self.index.get(survivor), self.index.tied(survivor), (retired,))

    def place_anew(self, patients: Iterable[PatientId]) -> None:
        """Find the groups of records, and of all who are in a group with one of them, anew after a decision."""
        groups = {self.index.get(patient).group for patient in patients} - {""}
        for record in [*map(self.index.get, patients), *self.index.members(groups)]:
            self._place(self.index.get(record.patient), self.index.tied(record.patient), ())

    def _state(self, patient: PatientId, named: Sequence[PatientId]) -> None:
        """Link a record explicitly to those named with it, and take back what its source has gone away from.

        Taken back are links to another id of a domain it now names another one of, and to a record that the feed did not name and
        that speaks against being the same person.
        """
        together = {other for other in named if other != patient and not self.index.apart(patient, other)}
        domains = {other.domain for other in named}
        person = self.index.get(patient).person
        before = self.index.linked(patient, EXPLICIT)
        gone = {other for other in before - together
                if other.domain in domains or disagree(person, self.index.get(other).person)}
        after = (before - gone) | together
        if after != before:
            self.happen(Stated(patient, tuple(self._by_age(after))))

    def _by_age(self, patients: Iterable[PatientId]) -> list[PatientId]:
        return sorted(patients, key=lambda patient: self.index.get(patient).age)

    def _place(self, moved: Record, ties: Collection[PatientId], retired: Sequence[Record]) -> None:
        tied = [self.index.get(patient) for patient in ties]
        groups = {record.group for record in (moved, *tied, *retired) if record.group}
        self._regroup(self._compare(moved, groups) | groups, moved.patient, ties, retired)

    def _compare(self, moved: Record, groups: set[str]) -> set[str]:
        """Link a record to those that comparison finds, its own groups first; return their groups."""
        before = self.index.linked(moved.patient, AUTOMATIC)
        explicit = self.index.linked(moved.patient, EXPLICIT)
        found = self.index.candidates(block_keys(moved.person))
        matches = [other for other in found if other.patient != moved.patient and self._same(moved, other)]
        allowed = self._compatible(moved, groups, matches)
        linked = [other.patient for other in matches if other.group in allowed and other.patient not in explicit]
        if before != set(linked):
            self.happen(Linked(moved.patient, tuple(linked)))
        return allowed

    def _compatible(self, moved: Record, own: set[str], matches: Sequence[Record]) -> set[str]:
        """Return the groups of the matches in which nobody contradicts the record or a group taken before; its own first."""
        groups = {other.group for other in matches if other.group}
        allowed: set[str] = set()
        together = self._tied_to(moved, own)
        kept = {person.patient for person in together}
        for group in sorted(groups, key=lambda group: (group not in own, self.index.group(group).age)):
            people = [other for other in self.index.members([group]) if other.patient not in kept]
            if len(together) + len(people) > LARGEST:
                log.warning("person has too many records, not linked further", records=len(together) + len(people))
            elif not any(self._contradict(one, other) for one in together for other in people):
                allowed.add(group)
                together += people
        return allowed

    def _tied_to(self, moved: Record, groups: set[str]) -> list[Record]:
        """Return the record and those of its groups it hangs together with by explicit links."""
        people = {moved.patient: moved, **{person.patient: person for person in self.index.members(groups)}}
        parts = self._components(list(people.values()), without=moved.patient)
        return [people[patient] for patient in next(part for part in parts if moved.patient in part)]

    def _regroup(
        self, groups: set[str], moved: PatientId, ties: Collection[PatientId], retired: Sequence[Record],
    ) -> None:
        """Return every component of the people in `groups`, and of those named, one id: the oldest it may claim, else a new one.

        `moved` is the record that changed, into which `retired` were merged.
        What the other actors have of a record goes along with it, also when its former id stays with others.
        """
        named = [self.index.get(patient) for patient in (moved, *ties)]
        people = {person.patient: person for person in (*named, *self.index.members(groups))}
        parts = self._components(list(people.values()))
        claims: dict[int, list[str]] = {}
        for group in sorted(groups, key=lambda group: self.index.group(group).age):
            claims.setdefault(_claimant(group, parts, people, moved), []).append(group)
        heirs: dict[str, str] = {}
        homes: list[tuple[Record, str]] = []
        arrivals: list[PatientId] = []
        for place, part in enumerate(parts):
            kept, *others = claims.get(place) or [new_value()]
            for patient in (one for one in part if people[one].group != kept):
                self.happen(Grouped(patient, kept))
                arrivals.append(patient)
            for other in others:
                self._join(other, kept)
            heirs |= dict.fromkeys((kept, *others), kept)
            homes += [(people[one], kept) for one in part] + [(record, kept) for record in retired if moved in part]
        for record, home in homes:
            if record.group and heirs[record.group] != home:
                local = (record.patient, *self.index.retired_into(record.patient))
                self.outcomes.append(Moved(local, self._affinity(heirs[record.group]), self._affinity(home)))
        self.outcomes += map(Arrived, arrivals)     # once everything that is registered for them has gone along

    def _join(self, group: str, kept: str) -> None:
        retired, survivor = self._affinity(group), self._affinity(kept)
        self.happen(Joined(retired, survivor))
        self.outcomes.append(Retired(retired, survivor))

    def part(self, one: PatientId, other: PatientId, past: Index) -> None:
        """Give two persons that are apart again the ids they had in the past, with all that belongs to these; compare anew."""
        now = self.index.get(other).group
        self._compare(self.index.get(one), {now})      # before they are parted: who stays together loses nothing
        people = {person.patient: person for person in (self.index.get(one), *self.index.members([now]))}
        parts = self._components(list(people.values()))
        mine, theirs = (next(part for part in parts if patient in part) for patient in (one, other))
        if mine is theirs:
            self._move(mine, now, now, ())
        else:
            former = [(part, self._former(past, patient, now)) for part, patient in ((mine, one), (theirs, other))]
            if former[0][1] == former[1][1]:        # they were one person then already, or their ids are others' now
                former = [(mine, ""), (theirs, now)]
            others = {id(mine): theirs, id(theirs): mine}
            for part, value in sorted(former, key=lambda one: one[1] == now):      # who keeps the present id does so last
                self._move(part, now, value or new_value(), others[id(part)])
        self.place_anew((one, other))

    def _former(self, past: Index, patient: PatientId, now: str) -> str:
        """Return the group a record was in, if that is the present one or lives on as it; nothing when it is another's now."""
        record = past.find(patient)
        value = record.group if record else ""
        while value and value != now:
            value = self.index.group(value).survivor
        return record.group if record and value else ""

    def _move(self, part: Sequence[PatientId], now: str, value: str, others: Sequence[PatientId]) -> None:
        """Let records have this id of the affinity domain, with all that is kept for it or belongs to them."""
        local, kept = (
            tuple(one for patient in some for one in (patient, *self.index.retired_into(patient))) for some in (part, others))
        if value != now and self.index.knows_group(value):
            self.happen(Revived(self._affinity(value), self._affinity(now)))
            self.outcomes.append(Parted(local, self._affinity(now), self._affinity(value), kept))
        elif value != now:
            self.outcomes.append(Moved(local, self._affinity(now), self._affinity(value)))
        arrived = [patient for patient in part if self.index.get(patient).group != value]
        for patient in arrived:
            self.happen(Grouped(patient, value))
        self.outcomes += map(Arrived, arrived)

    def _same(self, one: Record, other: Record) -> bool:
        return not self._distinct(one, other) and same_person(one.person, other.person) is Verdict.SAME

    def _contradict(self, one: Record, other: Record) -> bool:
        return (self._distinct(one, other) or self.index.apart(one.patient, other.patient)
                or same_person(one.person, other.person) is Verdict.DIFFERENT)

    def _distinct(self, one: Record, other: Record) -> bool:
        return one.patient.domain in self.distinct and one.patient.domain == other.patient.domain

    def _components(self, people: Sequence[Record], *, without: PatientId | None = None) -> list[list[PatientId]]:
        """Return the connected components, each by age, the one with the oldest record first.

        Links found by comparison of the record `without` are left out. What was decided to be apart is not connected by anything:
        the weakest link gives way, among equals the youngest.
        """
        ages = {person.patient: person.age for person in people}
        part = {patient: [patient] for patient in ages}
        links = sorted(
            ((weakness, *sorted((ages[a], ages[b]))), a, b) for a, b, weakness in self.index.links_between(ages)
            if weakness < _COMPARED or without not in {a, b})
        for _, a, b in links:
            if part[a] is not part[b] and not any(self.index.apart(one, two) for one in part[a] for two in part[b]):
                part[a].extend(part[b])
                for moved in part[b]:
                    part[moved] = part[a]
        whole = {id(members): sorted(members, key=ages.__getitem__) for members in part.values()}
        return sorted(whole.values(), key=lambda members: ages[members[0]])

    def _affinity(self, value: str) -> PatientId:
        return PatientId(self.affinity_domain, value)


def new_value() -> str:
    """Return a new id of the affinity domain: 75 random bits in 15 characters, as many as a v2.5 CX.1 holds."""
    return "".join(secrets.choice(_LETTERS) for _ in range(15))


def _claimant(group: str, parts: Sequence[Sequence[PatientId]], people: dict[PatientId, Record], moved: PatientId) -> int:
    """Return which component keeps a group's id: those who stayed, the larger part of them, then the older one.

    A group whose last active record was merged away goes to the survivor.
    """
    def rank(place: int) -> tuple[bool, int, int]:
        size = sum(people[patient].group == group for patient in parts[place])
        return moved not in parts[place], size, -place

    staying = [place for place, part in enumerate(parts) if any(people[patient].group == group for patient in part)]
    return max(staying, key=rank) if staying else next(i for i, part in enumerate(parts) if moved in part)
