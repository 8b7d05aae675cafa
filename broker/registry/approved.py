"""What other actors of this database may ask about entries without a query."""

from collections.abc import Iterable

from broker.model.metadata import APPROVED
from broker.model.ports import Unit
from broker.registry import store


def approved(unit: Unit, uuids: Iterable[str]) -> set[str]:
    """Return those of these entryUUIDs that are in the registry of this database, and approved."""
    return {uuid for uuid, found in store.summaries(unit, uuids).items() if found.status == APPROVED}
