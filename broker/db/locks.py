"""Named locks of a writing unit: what several brokers on one PostgreSQL decide one after the other.

A unit takes them in the order of `Lock` and holds them until it ends, so that no two units can wait for each other. SQLite
has one writer at a time anyway: there nothing is locked, but the order is checked all the same.
"""

import enum
import hashlib
from collections.abc import Iterable, Mapping

from broker.db.errors import DRIVER_ERRORS, unavailable
from broker.db.unit import SqlUnit
from broker.model.ports import Unit

# The subquery keeps the order of the keys: everyone locks a list in the same order.
_LOCK = ("SELECT pg_advisory_xact_lock(kind, key)"
         " FROM (SELECT unnest(%s::int[]) AS kind, unnest(%s::int[]) AS key ORDER BY 1, 2) AS ordered")


class Lock(enum.IntEnum):
    """What can be locked; a unit takes lower numbers first. The number is the first key of PostgreSQL's advisory lock."""

    SCHEMA = 1              # upgrading the tables
    FETCH_QUEUE = 2         # taking a job from the queue
    FETCH_STUDY = 3         # opening, joining and ending the job of "hospital study"
    PATIENT_INDEX = 4       # deciding who is who
    DOCUMENT = 5            # a document's uniqueId, in the repository
    REGISTRY_PATIENT = 6    # what is registered for an affinity-domain id
    REGISTRY_OBJECT = 7     # a uniqueId or entryUUID, in the registry


def lock(unit: Unit, kind: Lock, names: Iterable[str] = ("",)) -> None:
    """Return when no other unit holds `kind` for any of `names`; held until this unit ends.

    Different names may share a lock now and then (they are hashed to 32 bits), which costs time and nothing else. Raise
    `Unavailable` when the store cannot be reached.
    """
    lock_all(unit, {kind: names})


def lock_all(unit: Unit, wanted: Mapping[Lock, Iterable[str]]) -> None:
    """Return when no other unit holds any of the locks: those of several kinds by one statement, in the order of `Lock`."""
    assert isinstance(unit, SqlUnit)
    first = min(wanted)
    assert first >= unit.highest_lock, f"{first.name} is taken after {Lock(unit.highest_lock).name}"
    unit.highest_lock = max(wanted)
    if unit.dialect.name != "postgresql":
        return
    locks = sorted((int(kind), _key(name)) for kind, names in wanted.items() for name in names)
    kinds, keys = [kind for kind, _ in locks], [key for _, key in locks]
    try:
        with unit.waiting(locks), unit.driver.pipeline():       # BEGIN is sent with it
            unit.driver.execute(_LOCK, (kinds, keys))
    except DRIVER_ERRORS as error:
        raise unavailable(error) or error from error


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big", signed=True)
