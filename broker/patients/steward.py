"""What a steward asks of the index: who a person is and why, and what ever happened to an id."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from broker.db import Database, batches
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.patients.events import Decided, Happened
from broker.patients.listed import Listed
from broker.patients.projection import AUTOMATIC, EXPLICIT, Index, Record, replay
from broker.patients.store import listing, log, records
from broker.patients.store.neighbourhood import Neighbourhood

DECIDED = "decided"
_PORTION = 1000     # records read at once


@dataclass(frozen=True, slots=True)
class Tie:
    """An id of the same person. `to` are the ids that it is linked to, and how, `apart` those it is never to be one with."""

    record: Record
    to: tuple[tuple[PatientId, str], ...]
    apart: tuple[PatientId, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """A record that was asked for, the one it was merged into at last (itself while it is active), and its person."""

    asked: Record
    survivor: Record
    affinity: PatientId
    ties: tuple[Tie, ...]
    retired: tuple[PatientId, ...]      # into one of these


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A person, named by the affinity-domain id, with several active ids of one domain, the one known longest first."""

    affinity: str
    records: tuple[Listed, ...]


class Steward:
    """Reads of the patient index for people. Safe to share between threads."""

    def __init__(self, database: Database, affinity_domain: str) -> None:
        self._database, self.affinity_domain = database, affinity_domain

    def person(self, patient: PatientId, at: float | None = None) -> Person | None:
        """Return the person with a local id, or None when it was never seen; of an affinity-domain id the oldest record's.

        `at` (seconds since the epoch) asks for the person as it was then.
        """
        with self._database.read() as unit:
            if at is None:
                return self._present(unit, patient)
            index = replay(_until([one for _, one in log.around(unit, patient, self.affinity_domain)], at))
        if patient.domain == self.affinity_domain:
            return self._of_group(index, patient.value) if index.knows_group(patient.value) else None
        return self._person(index, patient)

    def _present(self, unit: Unit, patient: PatientId) -> Person | None:
        if patient.domain == self.affinity_domain:
            found = records.find_group(unit, patient.value)
            people = records.members(unit, [records.group_survivor(unit, found).id]) if found else []
            if not people:
                return None
            patient = people[0].patient
        return self._person(Neighbourhood(unit, [patient]), patient)

    def _of_group(self, index: Index, value: str) -> Person | None:
        while index.group(value).survivor:
            value = index.group(value).survivor
        people = index.members([value])
        return self._person(index, people[0].patient) if people else None

    def _person(self, index: Index, patient: PatientId) -> Person | None:
        asked = index.find(patient)
        if asked is None:
            return None
        survivor = index.survivor(asked)
        people = index.members([survivor.group])
        ties = tuple(Tie(one, tuple(_linked(index, one.patient)), _apart(index, one.patient)) for one in people)
        retired = tuple(gone for one in people for gone in index.retired_into(one.patient))
        return Person(asked, survivor, PatientId(self.affinity_domain, survivor.group), ties, retired)

    def duplicates(self, domain: str) -> Iterator[Duplicate]:
        """Return the persons with two or more active ids of one domain, the one whose first of them is known longest first."""
        with self._database.read() as unit:
            groups = listing.duplicates(unit, domain)
        for some in batches(groups):
            with self._database.read() as unit:
                found = listing.members(unit, domain, some)
            for group in some:
                if len(people := found.get(group, [])) > 1:      # nobody has mended it meanwhile
                    yield Duplicate(people[0].affinity, tuple(people))

    def every(self) -> Iterator[Listed]:
        """Return every active record, the one known longest first. Memory does not grow with the index."""
        number = 0
        while True:
            with self._database.read() as unit:
                some = listing.portion(unit, number, _PORTION)
            if not some:
                return
            yield from some
            number = some[-1].number

    def history(self, patient: PatientId) -> list[Happened]:
        """Return what happened to an id, a local one or one of the affinity domain, oldest first."""
        with self._database.read() as unit:
            return log.of(unit, patient)


def _until(happened: Sequence[Happened], at: float) -> Sequence[Happened]:
    """Return everything up to the last event that is not later than a moment: a clock that was set back tears nothing apart."""
    return happened[:max((place for place, one in enumerate(happened, 1) if one.at <= at), default=0)]


def _linked(index: Index, patient: PatientId) -> Iterator[tuple[PatientId, str]]:
    yield from ((other, DECIDED) for other, verdict in sorted(index.decisions(patient).items()) if verdict == Decided.SAME)
    for kind in (EXPLICIT, AUTOMATIC):
        yield from ((other, kind) for other in sorted(index.linked(patient, kind)))


def _apart(index: Index, patient: PatientId) -> tuple[PatientId, ...]:
    return tuple(sorted(other for other, verdict in index.decisions(patient).items() if verdict == Decided.APART))
