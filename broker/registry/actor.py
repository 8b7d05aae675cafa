"""The Document Registry as the rest of the broker sees it."""

from collections.abc import Callable
from datetime import UTC, datetime

from broker.config.profile import Profile
from broker.db import Database
from broker.model.caller import Call
from broker.model.errors import Problem
from broker.model.ports import PatientDirectory
from broker.registry.iti18_query import Answer, Limits, Request, StoredQueries
from broker.registry.iti42_register import Registration
from broker.wire.ebxml import Submission


def _now() -> datetime:
    return datetime.now(UTC)


class Registry:
    """Document Registry (ITI TF-1 10.1.1.3), a `Registrar`. Serves the rows of ITI-18 and ITI-42."""

    def __init__(
        self, database: Database, patients: PatientDirectory, profile: Profile, *,
        limits: Limits = Limits(), clock: Callable[[], datetime] = _now,  # noqa: B008 - frozen
    ) -> None:
        self._registration = Registration(database, patients, profile, clock)
        self._queries = StoredQueries(database, profile.codes.scheme_aliases, limits)

    def register(self, submission: Submission, call: Call) -> tuple[Problem, ...]:
        """Register durably; return the warnings, of which there are none: everything submitted is kept.

        Raise `Rejected` with all problems of the first failing rule; then nothing is stored.
        """
        self._registration.register(submission, call.facts)
        return ()

    def query(self, request: Request) -> Answer:
        """Answer a stored query; nothing found is an empty answer. Raise `Rejected` and `TooLarge` where there is too much."""
        return self._queries.answer(request)
