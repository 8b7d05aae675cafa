"""What publications do when the PIX manager says whose an id is; each call is part of the feed's unit of work."""

from collections.abc import Collection

from broker.coord.base import Coord
from broker.imaging.store import publications
from broker.model.ids import PatientId
from broker.model.ports import Unit


class PublicationEvents:
    """Keeps publications in step with the patient index. `coord` tells the publisher, once the unit is durable."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord

    def arrived(self, unit: Unit, local: PatientId, affinity: PatientId | None) -> None:
        """Let go on what waited for this patient, whose affinity-domain id is `affinity` now.

        What is published is published anew when the patient is another person now than it was registered for.
        """
        woken = publications.arrived(unit, local)
        if affinity is not None:
            woken += publications.strayed(unit, local, affinity)
        if woken:
            unit.after_commit(lambda: self._coord.publish("publish", {}))

    @staticmethod
    def studies(unit: Unit, local: Collection[PatientId]) -> int:
        """Return how many studies there are of these patients."""
        return sum(publications.studies_of(unit, one) for one in local)

    @staticmethod
    def merged(unit: Unit, retired: PatientId, survivor: PatientId) -> None:
        """Remember whose the registry's entries are now."""
        publications.merged(unit, retired, survivor)

    @staticmethod
    def moved(unit: Unit, entries: Collection[str], patient: PatientId) -> None:
        """Remember whose these entries of the registry (entryUUIDs) are now."""
        publications.moved(unit, entries, patient)
