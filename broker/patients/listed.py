"""A record as lists of the whole index have it."""

from dataclasses import dataclass

from broker.model.ids import PatientId
from broker.model.people import Demographics


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An active record: its number, the affinity-domain id of its person, what its source last said, and since when the id is

    known (seconds since the epoch).
    """

    number: int
    patient: PatientId
    affinity: str
    person: Demographics
    since: float
