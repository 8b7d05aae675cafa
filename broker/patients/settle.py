"""What follows from a change of the index, in its unit of work: its rows, what the other actors do, what consumers are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.config.profile import Profile
from broker.coord.base import Coord
from broker.model.ports import PatientArrived, PatientMerged, PatientMoved, PatientParted, Unit
from broker.patients.events import Happened
from broker.patients.notices import notices
from broker.patients.notifier import CHANNEL
from broker.patients.resolution import Arrived, Moved, Outcome, Parted, Retired
from broker.patients.store import outbox
from broker.patients.store.neighbourhood import Neighbourhood


@dataclass(frozen=True, slots=True, kw_only=True)
class Followers:
    """The other actors, which are told what became of ids inside the unit of work in which it does."""

    arrived: PatientArrived
    merged: PatientMerged
    moved: PatientMoved
    parted: PatientParted


class Work(Protocol):
    """What was carried out on an index: what happened, and what the other actors are to be told of it."""

    @property
    def log(self) -> Sequence[Happened]: ...

    @property
    def outcomes(self) -> Sequence[Outcome]: ...


@dataclass(frozen=True)
class Settler:
    """Makes a change durable with all that follows from it."""

    profile: Profile
    coord: Coord
    followers: Followers

    def settle(self, unit: Unit, index: Neighbourhood, work: Work, at: float) -> tuple[str, ...]:
        """Write what has changed, tell the other actors, and keep what consumers are to be told.

        Return the entryUUIDs of documents that stay with a person from whom an id was parted, as nobody can tell whose they are.
        """
        change = index.change() if self.profile.consumers else None
        index.save(work.log, at)
        staying = tuple(uuid for outcome in work.outcomes for uuid in self._told(unit, outcome))
        if change:
            told = notices(self.profile, change, work.outcomes)
            outbox.write(unit, told, at)
            if told:
                unit.after_commit(self._announce)
        return staying

    def _announce(self) -> None:
        self.coord.publish(CHANNEL, {})

    def _told(self, unit: Unit, outcome: Outcome) -> Sequence[str]:
        match outcome:
            case Retired(retired, survivor):
                self.followers.merged(unit, retired, survivor)
            case Moved(local, before, now):
                self.followers.moved(unit, local, before, now)
            case Parted(local, before, now, kept):
                return self.followers.parted(unit, local, before, now, kept)
            case Arrived(local_id):
                self.followers.arrived(unit, local_id)
        return ()
