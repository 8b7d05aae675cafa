"""What a steward asks of the index: who a person is and why, and what ever happened to an id."""

from collections.abc import Iterator
from dataclasses import dataclass

from broker.db import Database
from broker.model.ids import PatientId
from broker.patients.events import Happened
from broker.patients.projection import AUTOMATIC, EXPLICIT, Index, Record
from broker.patients.store import log, records
from broker.patients.store.neighbourhood import Neighbourhood


@dataclass(frozen=True, slots=True)
class Tie:
    """An id of the same person. `to` are the ids of that person that it is linked to, and how."""

    record: Record
    to: tuple[tuple[PatientId, str], ...]


@dataclass(frozen=True, slots=True)
class Person:
    """A record that was asked for, the one it was merged into at last (itself while it is active), and its person."""

    asked: Record
    survivor: Record
    affinity: PatientId
    ties: tuple[Tie, ...]
    retired: tuple[PatientId, ...]      # into one of these


class Steward:
    """Reads of the patient index for people. Safe to share between threads."""

    def __init__(self, database: Database, affinity_domain: str) -> None:
        self._database, self._affinity = database, affinity_domain

    def person(self, patient: PatientId) -> Person | None:
        """Return the person with a local id, or None when it was never seen; of an affinity-domain id the oldest record's."""
        with self._database.read() as unit:
            if patient.domain == self._affinity:
                group = records.find_group(unit, patient.value)
                found = records.members(unit, [records.group_survivor(unit, group).id]) if group else []
                if not found:
                    return None
                patient = found[0].patient
            index = Neighbourhood(unit, [patient])
            asked = index.find(patient)
            if asked is None:
                return None
            survivor = index.survivor(asked)
            people = index.members([survivor.group])
            ties = tuple(Tie(one, tuple(_linked(index, one.patient))) for one in people)
            retired = tuple(gone for one in people for gone in index.retired_into(one.patient))
            return Person(asked, survivor, PatientId(self._affinity, survivor.group), ties, retired)

    def history(self, patient: PatientId) -> list[Happened]:
        """Return what happened to an id, a local one or one of the affinity domain, oldest first."""
        with self._database.read() as unit:
            return log.of(unit, patient)


def _linked(index: Index, patient: PatientId) -> Iterator[tuple[PatientId, str]]:
    for kind in (EXPLICIT, AUTOMATIC):
        yield from ((other, kind) for other in sorted(index.linked(patient, kind)))
