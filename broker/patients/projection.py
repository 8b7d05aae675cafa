"""Who is who now, as the events say: the same lines take an event in when it happens and when a log is replayed."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from broker.matching.block import block_keys
from broker.model.ids import PatientId
from broker.model.people import Demographics
from broker.patients.events import Fed, Grouped, Happened, Joined, Late, Linked, Merged, Stated

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
    """Records, links and groups in memory."""

    def __init__(self) -> None:
        self._records: dict[PatientId, Record] = {}
        self._groups: dict[str, Group] = {}
        self._members: dict[str, set[PatientId]] = {}
        self._links: dict[PatientId, dict[PatientId, str]] = {}
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

    def links_between(self, patients: Iterable[PatientId]) -> Iterator[tuple[PatientId, PatientId]]:
        """Return the links whose both ends are among these records."""
        some = set(patients)
        return ((one, other) for one in some for other in self._links.get(one, ()) if other in some and one < other)

    def all_records(self) -> list[Record]:
        """Return the records, oldest first."""
        return sorted(self._records.values(), key=lambda one: one.age)

    def all_groups(self) -> list[Group]:
        """Return the groups, oldest first."""
        return sorted(self._groups.values(), key=lambda one: one.age)

    # -- what happens

    def apply(self, happened: Happened) -> None:
        """Take an event in."""
        match happened.event:
            case Late():
                """It came too late."""
            case Fed(patient, person, _, said_at):
                self._put(replace(
                    self._known(patient), person=person, message_id=happened.message_id, said_at=said_at,
                    said_by=happened.sender, at=happened.at))
            case Linked(patient, to):
                self._tie(patient, to, AUTOMATIC)
            case Stated(patient, to):
                self._tie(patient, to, EXPLICIT)
            case Merged(patient, survivor):
                self._retire(patient, survivor, happened)
            case Grouped(patient, affinity):
                if affinity not in self._groups:
                    self._put_group(Group(affinity, next(self._ages)))
                self._put(replace(self._known(patient), group=affinity))
            case Joined(patient, survivor):
                self._put_group(replace(self._groups[patient.value], survivor=survivor.value))

    def _known(self, patient: PatientId) -> Record:
        return self.find(patient) or Record(patient=patient, age=next(self._ages))

    def _tie(self, patient: PatientId, to: Iterable[PatientId], kind: str) -> None:
        wanted = set(to)
        for other in self.linked(patient, kind) - wanted:
            self._link(patient, other, "")
        for other in wanted:
            self._link(patient, other, kind)

    def _retire(self, patient: PatientId, survivor: PatientId, happened: Happened) -> None:
        """What comparison found of a retired record is no evidence about its survivor, whose own record is compared."""
        inherited = self.linked(patient, EXPLICIT) - {survivor}
        for other in list(self._links.get(patient, ())):
            self._link(patient, other, "")
        for other in inherited:
            self._link(survivor, other, EXPLICIT)
        message_id = self._known(patient).message_id or happened.message_id
        self._put(replace(self._known(patient), survivor=survivor, group="", message_id=message_id, at=happened.at))

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


def replay(log: Iterable[Happened]) -> Index:
    """Return what a log of events leads to; one that is cut off gives the state of that moment."""
    index = Index()
    for happened in log:
        index.apply(happened)
    return index
