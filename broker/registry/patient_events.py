"""What the registry does when the PIX manager says whose an id is; each call is part of the feed's unit of work."""

from collections.abc import Collection, Mapping

from broker.db import Lock, lock
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.registry import store
from broker.registry.relink import relink


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

    @staticmethod
    def merged(unit: Unit, retired: PatientId, survivor: PatientId) -> None:
        """Move all objects of `retired` to `survivor`; nothing is registered for `retired` any more (`ports.PatientMerged`)."""
        lock(unit, Lock.REGISTRY_PATIENT, (str(retired), str(survivor)))
        store.retire(unit, retired, survivor)
        store.move(unit, retired, survivor)
