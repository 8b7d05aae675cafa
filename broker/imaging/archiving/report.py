"""What a run of the migration did: counted while it goes on, told at its end."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from broker.imaging.archiving.drop import Outcome
from broker.imaging.store.due import BEGUN, LATE
from broker.model.imaging import Due

# Told (studies done, studies in all, bytes done, bytes in all).
Watch = Callable[[int, int, int, int], None]

_OBJECTS = 2                # that a NameNode keeps in its memory for a file of one block: the file and the block
_SKIPPED = {
    Outcome.BUSY: "another process works on it",
    Outcome.CHANGED: "objects came meanwhile",
    Outcome.NOTHING: "nothing to pack any more",
}
PINNED = "pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A study that could not be packed, and why; it stays readable where it is."""

    hospital: str
    study_uid: str
    reason: str


@dataclass(slots=True)
class Report:
    """What became of the studies of a run. `freed` are bytes that the online tier does not hold any more.

    `written` containers were made; `waiting` studies are packed and proven, and keep their online copies for the grace time, as
    `held` ones do until they are released.
    """

    packed: int = 0
    images: int = 0
    freed: int = 0
    finished: int = 0
    waiting: int = 0
    held: int = 0
    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[Failed] = field(default_factory=list)

    @property
    def objects_used(self) -> int:
        """Objects of a NameNode that the archive of this run takes."""
        return _OBJECTS * self.written

    @property
    def objects_spared(self) -> int:
        """Objects that the images would take more if each were a file of its own."""
        return _OBJECTS * (self.images - self.written)

    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self) | {     # of a Counter asdict makes pairs counted once
            "skipped": dict(self.skipped), "objects_used": self.objects_used, "objects_spared": self.objects_spared}

    def add(self, due: Due, outcome: Outcome) -> None:
        """Count a study."""
        kept = outcome in (Outcome.ARCHIVED, Outcome.WAITING, Outcome.HELD)
        if outcome in _SKIPPED:
            self.skipped[_SKIPPED[outcome]] += 1
        self.waiting += outcome is Outcome.WAITING
        self.held += outcome is Outcome.HELD
        self.freed += due.bytes if outcome is Outcome.ARCHIVED else 0
        if due.rule == BEGUN:
            self.finished += outcome is Outcome.ARCHIVED
        elif kept:
            self.packed += outcome is Outcome.ARCHIVED
            self.images += due.images
            self.written += due.rule != LATE        # its new version takes the place of the one before


class Tally:
    """A report in the making, and how far it is. Safe to share between threads."""

    def __init__(self, found: list[Due], watch: Watch) -> None:
        self.report = Report()
        self._watch, self._lock = watch, threading.Lock()
        self._studies, self._total = 0, len(found)
        self._bytes, self._total_bytes = 0, sum(one.bytes for one in found)

    def moved(self, size: int) -> None:
        """Count bytes of a study under way."""
        with self._lock:
            self._bytes += size
            self._tell()

    def ended(self, due: Due, outcome: Outcome, moved: int) -> None:
        """Count a study that is done, of which `moved` bytes were counted before."""
        with self._lock:
            self.report.add(due, outcome)
            self._over(due, moved)

    def failed(self, due: Due, reason: str, moved: int) -> None:
        """Count a study that failed."""
        with self._lock:
            self.report.failed.append(Failed(hospital=due.hospital, study_uid=due.study_uid, reason=reason))
            self._over(due, moved)

    def _over(self, due: Due, moved: int) -> None:
        self._studies += 1
        self._bytes += due.bytes - moved
        self._tell()

    def _tell(self) -> None:
        self._watch(self._studies, self._total, self._bytes, self._total_bytes)
