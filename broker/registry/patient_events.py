"""What the registry does when the PIX manager says whose an id is; each call is part of the feed's unit of work."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from broker.db import Lock, lock
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.registry import store
from broker.registry.relink import relink


@dataclass(frozen=True, slots=True)
class Given:
    """entryUUIDs of the documents that an id has again, and of those that may be its, and stay because nobody can tell."""

    back: set[str]
    staying: tuple[str, ...]


class RegistryEvents:
    """Keeps the registry in step with the patient index. `aliases` maps designators of coding schemes to their OIDs."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = aliases

    def moved(self, unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId) -> set[str]:
        """Move to `now` what is registered for `before` under one of these source patient ids (`ports.PatientMoved`).

        Return the entryUUIDs of the documents.
        """
        lock(unit, Lock.REGISTRY_PATIENT, (str(before), str(now)))
        return relink(unit, local, before, now, self._aliases)

    def parted(
        self, unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId, kept: Collection[PatientId],
    ) -> Given:
        """Give `now`, which lived on as `before`, what was registered for it then, and what was for its local ids since.

        What was registered for `before` since, of a source patient that is of neither, stays there (`ports.PatientParted`).
        """
        lock(unit, Lock.REGISTRY_PATIENT, (str(before), str(now)))
        since = store.revive(unit, now)
        back = store.move_back(unit, now, before)
        back |= relink(unit, local, before, now, self._aliases)
        return Given(back, store.unsourced(unit, before, since, kept))

    @staticmethod
    def documents(unit: Unit, patient: PatientId, local: Collection[PatientId] | None = None) -> int:
        """Return how many documents are registered for a patient; those of some source patient ids where these are given."""
        wanted = None if local is None else set(map(str, local))
        return sum(1 for one in store.documents_of(unit, patient) if wanted is None or one.source_patient_id in wanted)

    @staticmethod
    def merged(unit: Unit, retired: PatientId, survivor: PatientId) -> None:
        """Move all objects of `retired` to `survivor`; nothing is registered for `retired` any more (`ports.PatientMerged`)."""
        lock(unit, Lock.REGISTRY_PATIENT, (str(retired), str(survivor)))
        store.retire(unit, retired, survivor)
        store.move(unit, retired, survivor)
