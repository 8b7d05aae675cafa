"""The Document Registry as the rest of the broker sees it."""

from collections.abc import Callable
from datetime import UTC, datetime

from broker.config.profile import Profile
from broker.db import Database
from broker.model.caller import Call
from broker.model.errors import Problem
from broker.model.ids import PatientId
from broker.model.ports import PatientDirectory, Unit
from broker.registry import store
from broker.registry.iti42_register import Registration
from broker.wire.ebxml import Submission


def _now() -> datetime:
    return datetime.now(UTC)


class Registry:
    """Document Registry (ITI TF-1 10.1.1.3). Serves the rows of ITI-18 and ITI-42; a `Registrar` and a `PatientMerged`."""

    def __init__(
        self, database: Database, patients: PatientDirectory, profile: Profile, *,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._registration = Registration(database, patients, profile, clock)

    def register(self, submission: Submission, call: Call) -> tuple[Problem, ...]:
        """Register durably; give the warnings, of which there are none: everything submitted is kept.

        Raise `Rejected` with all problems of the first failing rule; then nothing is stored.
        """
        self._registration.register(submission, call.facts)
        return ()

    def merged(self, unit: Unit, retired: PatientId, survivor: PatientId) -> None:
        """Give all objects of `retired` to `survivor` inside the merge's unit; nothing is registered for `retired` any more."""
        store.lock(unit)
        store.retire(unit, retired, survivor)
        store.move(unit, retired, survivor)
