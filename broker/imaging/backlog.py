"""What does not go on, and why: publications that wait or failed, and what background work could not do."""

from dataclasses import dataclass

from broker.db import Database
from broker.imaging.store import machines, publications, setbacks


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One thing that waits. `subject` is a Study Instance UID, a study's row id or a path; `next_at` 0 = not by itself."""

    work: str
    hospital: str
    subject: str
    state: str
    reason: str
    attempts: int
    next_at: float


def backlog(database: Database, limit: int = 1000) -> list[Held]:
    """Return them: publications first, then other work, what has waited longest first."""
    with database.read() as unit:
        held = [
            Held(work="publish", hospital=row.hospital, subject=row.study_uid, state=row.state, reason=row.reason,
                 attempts=row.attempts, next_at=0.0 if row.state == machines.FAILED else row.next_at)
            for row in publications.stuck(unit, limit)]
        held += [
            Held(work=row.work, hospital=row.hospital, subject=row.subject, state="due", reason=row.reason,
                 attempts=row.attempts, next_at=row.next_at)
            for row in setbacks.listed(unit, limit)]
    return held[:limit]
