"""What an operator has kept or brought near, each through the gate: hold, pin, release, recall of a study."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.archive.formats.sdicom import Progress
from broker.db import Database
from broker.imaging.archiving.recall import Recaller
from broker.imaging.audited import accessed
from broker.imaging.store import recalls, retained, studies
from broker.imaging.store.machines import MOVED
from broker.imaging.store.recalls import Recall
from broker.imaging.store.retained import HOLD, PIN, Retained
from broker.imaging.store.studies import Study
from broker.model.caller import Call
from broker.model.errors import Rejected
from broker.model.ids import PatientId
from broker.model.transaction import NOTHING_TO_FILTER, Disclosure, InternalTransaction, Keep, Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The study that is meant, of one hospital or of all that have it; why, or for how many days. `progress` counts bytes."""

    study_uid: str
    hospital: str = ""
    reason: str = ""
    days: int = 0
    progress: Progress | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Kept:
    """What was held, pinned or released, and whose study it is."""

    rows: tuple[Retained, ...]
    patients: tuple[PatientId, ...]


class Keeper:
    """Carries out wishes. Raise `Rejected` (UnknownStudy) for a study that is not here."""

    def __init__(self, database: Database, recaller: Recaller, clock: Callable[[], float] = time.time) -> None:
        self._database, self._recaller, self._clock = database, recaller, clock

    def hold(self, wish: Wish, call: Call) -> Kept:
        """Let no copy of the study be removed until it is released."""
        return self._keep(HOLD, wish, call)

    def pin(self, wish: Wish, call: Call) -> Kept:
        """Have the study online until it is released: it is not packed, and comes back near when it is."""
        return self._keep(PIN, wish, call)

    def release(self, wish: Wish, call: Call) -> Kept:
        """Undo holds and pins; return what was undone."""
        found = self._noted(wish, call)
        with self._database.write() as unit:
            rows = retained.release(unit, wish.study_uid, {study.hospital for study in found})
        return Kept(tuple(rows), _patients(found))

    def recall(self, wish: Wish, call: Call) -> int:
        """Copy a packed study to the online tier for so many days; return the bytes that are near, 0 when it was not packed."""
        return sum(self._recaller.recall(study.id, wish.days, wish.progress)
                   for study in self._noted(wish, call) if study.tier == "archive")

    def listed(self) -> tuple[list[Retained], list[Recall]]:
        """Return everything that is held or pinned, and every copy that is wanted or there."""
        with self._database.read() as unit:
            return retained.listed(unit), recalls.listed(unit)

    def subjects(self, wish: Wish) -> tuple[PatientId, ...]:
        """Return whose study it is."""
        return _patients(self._find(wish))

    def _keep(self, kind: str, wish: Wish, call: Call) -> Kept:
        found = self._noted(wish, call)
        rows = tuple(
            Retained(hospital=key, study_uid=wish.study_uid, kind=kind, reason=wish.reason,
                     set_by=call.caller.user or call.caller.node, at=self._clock())
            for key in dict.fromkeys(study.hospital for study in found))
        with self._database.write() as unit:
            for row in rows:
                retained.keep(unit, row)
        return Kept(rows, _patients(found))

    def _noted(self, wish: Wish, call: Call) -> list[Study]:
        """Return the parts of the study, and tell the audit record of them."""
        call.facts.studies[wish.study_uid] = []
        call.facts.message_id = wish.reason[:64]
        found = self._find(wish)
        if not found:
            where = f" of hospital {wish.hospital}" if wish.hospital else ""
            raise Rejected("UnknownStudy", f"there is no study {wish.study_uid}{where}")
        call.facts.patients += _patients(found)
        return found

    def _find(self, wish: Wish) -> list[Study]:
        with self._database.read() as unit:
            found = studies.find_studies(unit, hospital=wish.hospital, study_uid=wish.study_uid)
        return sorted((study for study in found if study.state != MOVED), key=lambda study: study.id)


def _patients(found: list[Study]) -> tuple[PatientId, ...]:
    return tuple(dict.fromkeys(study.patient for study in found if study.patient.value))


def _filtered(kept: Kept, keep: Keep) -> Kept:
    """Return nothing of a study one of whose patients may not be seen: reasons are written for those who may."""
    return kept if all(keep(Disclosure(patient=patient)) for patient in kept.patients) else Kept((), ())


KeepRow = InternalTransaction[Keeper, Wish, Kept]


def _row(code: str, name: str, handle: Callable[[Keeper, Wish, Call], Kept]) -> KeepRow:
    return InternalTransaction(
        code=code, name=name, wire=Wire.HTTP, audit=accessed(code, name), subject=Keeper.subjects, handle=handle,
        filtered=_filtered)


HOLD_ROW = _row("ARCHIVE-HOLD", "Study Held", Keeper.hold)
PIN_ROW = _row("ARCHIVE-PIN", "Study Pinned", Keeper.pin)
RELEASE_ROW = _row("ARCHIVE-RELEASE", "Study Released", Keeper.release)
RECALL_ROW: InternalTransaction[Keeper, Wish, int] = InternalTransaction(
    code="ARCHIVE-RECALL", name="Study Recalled", wire=Wire.HTTP, audit=accessed("ARCHIVE-RECALL", "Study Recalled"),
    subject=Keeper.subjects, handle=Keeper.recall, filtered=NOTHING_TO_FILTER)
