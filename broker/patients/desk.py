"""Where a steward decides who is who: merge, un-merge, link, unlink, split, each through the gate, each shown before if asked."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from broker.db import Database, Lock, lock
from broker.model.caller import Call
from broker.model.errors import Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.patients.decisions import STEWARD, DecisionWork, History, contradicting
from broker.patients.events import Happened
from broker.patients.notices import Change, Notice, notices
from broker.patients.resolution import Outcome
from broker.patients.settle import Settler
from broker.patients.store import log
from broker.patients.store.neighbourhood import Neighbourhood

Effects = Callable[[Unit, Outcome], tuple[int, int]]
"""Returns how many documents of the registry, and how many studies, an outcome moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted of an id, or of two.

    `undo` takes an earlier decision back, `force` passes over what contradicts, `preview` asks only what would become.
    """

    patient: PatientId
    other: PatientId | None = None
    reason: str = ""
    undo: bool = False
    force: bool = False
    preview: bool = False

    @property
    def second(self) -> PatientId:
        """Return the other id. Raise `Rejected` when there is none."""
        if self.other is None:
            raise Rejected(Hl7Code.REQUIRED_FIELD_MISSING, "a second id is needed")
        return self.other

    @property
    def ids(self) -> tuple[PatientId, ...]:
        """The ids it names."""
        return (self.patient,) if self.other is None else (self.patient, self.other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became, or would become, of the persons: as they were and are, and what follows.

    `moved` is, for each outcome, how many documents and studies it moves (only told before); `staying` are the entryUUIDs of
    documents that stay with a person from whom an id was parted: their source patient id is of neither.
    """

    change: Change
    outcomes: Sequence[Outcome]
    notices: Sequence[Notice] = ()
    moved: Sequence[tuple[int, int]] = ()
    against: Sequence[str] = ()
    staying: Sequence[str] = ()


def _link(work: DecisionWork, wish: Wish, history: History) -> None:
    if wish.undo:
        work.take_back(wish.patient, wish.second, history, wish.reason)
    else:
        work.link(wish.patient, wish.second, wish.reason, force=wish.force)


def _unlink(work: DecisionWork, wish: Wish, history: History) -> None:
    if wish.undo:
        work.take_back(wish.patient, wish.second, history, wish.reason)
    else:
        work.unlink(wish.patient, wish.second, wish.reason)


def _split(work: DecisionWork, wish: Wish, _: History) -> None:
    (work.rejoin if wish.undo else work.split)(wish.patient, wish.reason)


def _merge(work: DecisionWork, wish: Wish, _: History) -> None:
    work.merge(wish.patient, wish.second, wish.reason, force=wish.force)


def _unmerge(work: DecisionWork, wish: Wish, history: History) -> None:
    work.unmerge(wish.patient, history, wish.reason)


Decide = Callable[[DecisionWork, Wish, History], None]
DECIDE: Mapping[str, Decide] = {
    "merge": _merge, "unmerge": _unmerge, "link": _link, "unlink": _unlink, "split": _split}


class Desk:
    """Decisions about the patient index. Safe to share between threads. Raises `Rejected` for what cannot be done."""

    def __init__(
        self, database: Database, settler: Settler, effects: Effects, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._settler, self._effects, self._clock = database, settler, effects, clock
        self._affinity = settler.profile.region.affinity_domain

    def decide(self, name: str, wish: Wish, call: Call) -> Settled:
        """Carry a wish out durably; `name` is a key of `DECIDE`."""
        call.facts.patients += wish.ids
        call.facts.message_id = wish.reason[:64]
        with self._database.write() as unit:
            lock(unit, Lock.PATIENT_INDEX)
            index, work = self._worked(unit, name, wish, call.caller.user or call.caller.node)
            change = index.change(wish.ids)
            staying = self._settler.settle(unit, index, work, work.at)
        return Settled(change=change, outcomes=work.outcomes, staying=staying)

    def preview(self, name: str, wish: Wish, call: Call) -> Settled:
        """Return what would become of the persons. Nothing is changed; what contradicts is told, and stops nothing."""
        call.facts.patients += wish.ids
        call.facts.action = "R"
        with self._database.read() as unit:
            index = Neighbourhood(unit, wish.ids)
            against = () if wish.other is None or name not in {"merge", "link"} else self._against(index, name, wish)
            forced = Wish(patient=wish.patient, other=wish.other, undo=wish.undo, force=True)
            index, work = self._worked(unit, name, forced, "")
            change = index.change(wish.ids)
            return Settled(
                change=change, outcomes=work.outcomes, notices=notices(self._settler.profile, change, work.outcomes),
                moved=[self._effects(unit, outcome) for outcome in work.outcomes], against=against)

    def _worked(self, unit: Unit, name: str, wish: Wish, who: str) -> tuple[Neighbourhood, DecisionWork]:
        index = Neighbourhood(unit, wish.ids)
        distinct = self._settler.profile.distinct_domains
        work = DecisionWork(index, self._affinity, self._clock(), f"{STEWARD}{who}", distinct=distinct)

        def history(patient: PatientId) -> list[Happened]:
            return [one for _, one in log.around(unit, patient, self._affinity)]

        DECIDE[name](work, wish, history)
        return index, work

    @staticmethod
    def _against(index: Neighbourhood, name: str, wish: Wish) -> tuple[str, ...]:
        records = [index.find(patient) for patient in wish.ids]
        sides = [[] if one is None or not one.active else [one] if name == "merge" else index.members([one.group])
                 for one in records]
        return tuple(f"{what} of {one.patient} and {other.patient}" for one, other, what in contradicting(*sides))
