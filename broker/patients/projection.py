"""Who is who now, as the events say: the same lines take an event in when it happens and when a log is replayed."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from broker.matching.block import block_keys
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.patients.events import Decided, Fed, Grouped, Happened, Joined, Late, Linked, Merged, Revived, Stated, Unmerged

AUTOMATIC, EXPLICIT = "automatic", "explicit"
NOBODY = Demographics()     # of whom nothing is known
_NEW = 1 << 60      # ages of what has no row yet: after all that have


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A source record: an id of a domain and what its source last said of the person. The older one has the smaller `age`.

    `group` is the person's id in the affinity domain; empty for a retired record, which has a `survivor`. `said_at` is when
    `said_by` knew what is known (seconds since the epoch), where it says so.
    """

    patient: PatientId
    age: int
    person: Demographics = NOBODY
    group: str = ""
    survivor: PatientId | None = None
    message_id: str = ""
    said_at: float | None = None
    said_by: str = ""
    at: float = 0.0

    @property
    def active(self) -> bool:
        """Whether it was not merged away."""
        return self.survivor is None


@dataclass(frozen=True, slots=True)
class Group:
    """A person's id in the affinity domain, and the one as which it lives on, if any."""

    value: str
    age: int
    survivor: str = ""


class Index:
    """Records, links, decisions and groups in memory."""

    def __init__(self) -> None:
        self._records: dict[PatientId, Record] = {}
        self._groups: dict[str, Group] = {}
        self._members: dict[str, set[PatientId]] = {}
        self._links: dict[PatientId, dict[PatientId, str]] = {}
        self._decisions: dict[PatientId, dict[PatientId, str]] = {}
        self._keys: dict[tuple[str, str], set[PatientId]] = {}
        self._ages = itertools.count(_NEW)

    # -- what is

    def find(self, patient: PatientId) -> Record | None:
        """Return the record of a local id, retired or not."""
        return self._records.get(patient)

    def get(self, patient: PatientId) -> Record:
        """Return the record of a local id that is known."""
        found = self.find(patient)
        assert found is not None
        return found

    def survivor(self, record: Record) -> Record:
        """Return the active record at the end of the merges, the record itself when it is active."""
        while record.survivor is not None:
            record = self.get(record.survivor)
        return record

    def retired_into(self, patient: PatientId) -> list[PatientId]:
        """Return the ids merged into a record, one after the other and through each other."""
        found = sorted(
            (one for one in self._records.values() if one.survivor == patient), key=lambda one: one.age)
        return [merged for one in found for merged in (one.patient, *self.retired_into(one.patient))]

    def group(self, value: str) -> Group:
        """Return a group that is known."""
        return self._groups[value]

    def knows_group(self, value: str) -> bool:
        """Say whether an id of the affinity domain is known here."""
        return value in self._groups

    def members(self, groups: Iterable[str]) -> list[Record]:
        """Return the active records of these groups, oldest first."""
        found = (self._records[patient] for group in groups for patient in self._members.get(group, ()))
        return sorted(found, key=lambda one: one.age)

    def candidates(self, keys: Iterable[tuple[str, str]]) -> list[Record]:
        """Return the active records that have one of these blocking keys, oldest first."""
        found = {patient for key in keys for patient in self._keys.get(key, ())}
        return sorted((self._records[patient] for patient in found), key=lambda one: one.age)

    def linked(self, patient: PatientId, kind: str) -> set[PatientId]:
        """Return the records to which this one is linked, explicitly or by comparison."""
        return {other for other, found in self._links.get(patient, {}).items() if found == kind}

    def decisions(self, patient: PatientId) -> dict[PatientId, str]:
        """Return what was decided of a record and others: `Decided.SAME` or `Decided.APART`."""
        return dict(self._decisions.get(patient, {}))

    def tied(self, patient: PatientId) -> set[PatientId]:
        """Return the records to which this one is linked by more than comparison: explicitly, or by decision."""
        decided = {other for other, verdict in self._decisions.get(patient, {}).items() if verdict == Decided.SAME}
        return self.linked(patient, EXPLICIT) | decided

    def apart(self, one: PatientId, other: PatientId) -> bool:
        """Say whether it was decided that two records are not one person's."""
        return self._decisions.get(one, {}).get(other) == Decided.APART

    def links_between(self, patients: Iterable[PatientId]) -> Iterator[tuple[PatientId, PatientId, int]]:
        """Return the links whose both ends are among these records, each with its weakness.

        That is 0 for a decision, 1 for an explicit link, 2 for one found by comparison.
        """
        some = set(patients)
        for one in some:
            decided = self._decisions.get(one, {})
            for other, verdict in decided.items():
                if verdict == Decided.SAME and other in some and one < other:
                    yield one, other, 0
            for other, kind in self._links.get(one, {}).items():
                if other in some and one < other:
                    yield one, other, 1 if kind == EXPLICIT else 2

    def all_records(self) -> list[Record]:
        """Return the records, oldest first."""
        return sorted(self._records.values(), key=lambda one: one.age)

    def all_groups(self) -> list[Group]:
        """Return the groups, oldest first."""
        return sorted(self._groups.values(), key=lambda one: one.age)

    # -- what happens

    def apply(self, happened: Happened) -> None:
        """Take an event in."""
        self._taken_in[type(happened.event)](self, happened.event, happened)

    def _late(self, event: Late, happened: Happened) -> None:
        """It came too late."""

    def _fed(self, event: Fed, happened: Happened) -> None:
        self._put(replace(
            self._known(event.patient), person=event.person, message_id=happened.message_id, said_at=event.said_at,
            said_by=happened.sender, at=happened.at))

    def _linked(self, event: Linked, _: Happened) -> None:
        self._tie(event.patient, event.to, AUTOMATIC)

    def _stated(self, event: Stated, _: Happened) -> None:
        self._tie(event.patient, event.to, EXPLICIT)

    def _decided(self, event: Decided, _: Happened) -> None:
        self._decide(event.patient, event.other, event.verdict)

    def _grouped(self, event: Grouped, _: Happened) -> None:
        if event.affinity not in self._groups:
            self._put_group(Group(event.affinity, next(self._ages)))
        self._put(replace(self._known(event.patient), group=event.affinity))

    def _joined(self, event: Joined, _: Happened) -> None:
        self._put_group(replace(self.group(event.patient.value), survivor=event.survivor.value))

    def _revived(self, event: Revived, _: Happened) -> None:
        self._put_group(replace(self.group(event.patient.value), survivor=""))

    def _merged(self, event: Merged, happened: Happened) -> None:
        """What comparison found of a retired record is no evidence about its survivor, whose own record is compared."""
        patient, survivor = event.patient, event.survivor
        inherited, verdicts = self.linked(patient, EXPLICIT) - {survivor}, self.decisions(patient)
        for other in list(self._links.get(patient, ())):
            self._link(patient, other, "")
        for other in inherited:
            self._link(survivor, other, EXPLICIT)
        for other, verdict in verdicts.items():
            self._decide(patient, other, Decided.OPEN)
            if other != survivor and other not in self._decisions.get(survivor, {}):
                self._decide(survivor, other, verdict)
        message_id = self._known(patient).message_id or happened.message_id
        self._put(replace(self._known(patient), survivor=survivor, group="", message_id=message_id, at=happened.at))

    def _unmerged(self, event: Unmerged, happened: Happened) -> None:
        """Make a retired record active, with what it had; the record it lived on in loses what was not its own."""
        for other in event.left:
            self._link(event.home, other, "")
        for other in event.dropped:
            self._decide(event.home, other, Decided.OPEN)
        for other in event.back:
            self._link(event.patient, other, EXPLICIT)
        for other, verdict in event.verdicts:
            self._decide(event.patient, other, verdict)
        self._put(replace(self.get(event.patient), survivor=None, at=happened.at))

    _taken_in: ClassVar[Mapping[type, Callable[[Any, Any, Happened], None]]] = {
        Fed: _fed, Late: _late, Linked: _linked, Stated: _stated, Decided: _decided, Merged: _merged, Unmerged: _unmerged,
        Grouped: _grouped, Joined: _joined, Revived: _revived}

    def _known(self, patient: PatientId) -> Record:
        return self.find(patient) or Record(patient=patient, age=next(self._ages))

    def _tie(self, patient: PatientId, to: Iterable[PatientId], kind: str) -> None:
        wanted = set(to)
        for other in self.linked(patient, kind) - wanted:
            self._link(patient, other, "")
        for other in wanted:
            self._link(patient, other, kind)

    def _put(self, record: Record) -> None:
        """Let this be the state of a record."""
        before = self._records.get(record.patient)
        for patients in self._places(before):
            patients.discard(record.patient)
        self._records[record.patient] = record
        for patients in self._places(record):
            patients.add(record.patient)

    def _places(self, record: Record | None) -> Iterator[set[PatientId]]:
        """Return the sets an active record stands in: its group's and those of its blocking keys."""
        if record is not None and record.active:
            if record.group:
                yield self._members.setdefault(record.group, set())
            for key in block_keys(record.person):
                yield self._keys.setdefault(key, set())

    def _put_group(self, group: Group) -> None:
        self._groups[group.value] = group

    def _link(self, one: PatientId, other: PatientId, kind: str) -> None:
        """Let this be the kind of the link of two records; empty: they have none."""
        for a, b in ((one, other), (other, one)):
            if kind:
                self._links.setdefault(a, {})[b] = kind
            else:
                self._links.get(a, {}).pop(b, None)

    def _decide(self, one: PatientId, other: PatientId, verdict: str) -> None:
        """Let this be what was decided of two records; empty: nothing."""
        for a, b in ((one, other), (other, one)):
            if verdict:
                self._decisions.setdefault(a, {})[b] = verdict
            else:
                self._decisions.get(a, {}).pop(b, None)


def replay(log: Iterable[Happened]) -> Index:
    """Return what a log of events leads to; one that is cut off gives the state of that moment."""
    index = Index()
    for happened in log:
        index.apply(happened)
    return index
