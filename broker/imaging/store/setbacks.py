"""What background work could not do: each subject fails by itself, with its reason, and waits longer each time.

`work` is complete, pack, evict, sweep, recall, index, verify or mend; `subject` a study's row id or a path. Publications and
fetches have rows of their own.
"""

import dataclasses
from dataclasses import dataclass

import sqlalchemy as sa

from broker.db import sql
from broker.imaging.store.tables import setback
from broker.model.ports import Unit

FIRST_DELAY = 3600.0        # seconds until the second attempt; each further one waits twice as long
LONGEST_DELAY = 86400.0

_LONGEST_SUBJECT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """A row. Times are seconds since the epoch."""

    work: str
    subject: str
    hospital: str
    reason: str
    attempts: int
    first_at: float
    last_at: float
    next_at: float


def note(unit: Unit, work: str, subject: str, hospital: str, reason: str, now: float) -> Setback:
    """Enter a failure, and return when it is tried again."""
    here = setback.c.work == work, setback.c.subject == subject[:_LONGEST_SUBJECT]
    before = sql(unit).execute(sa.select(setback).where(*here)).one_or_none()
    attempts = before.attempts + 1 if before else 1
    row = Setback(
        work=work, subject=subject[:_LONGEST_SUBJECT], hospital=hospital, reason=reason, attempts=attempts,
        first_at=before.first_at if before else now, last_at=now,
        next_at=now + min(FIRST_DELAY * float(1 << min(attempts - 1, 16)), LONGEST_DELAY))
    values = dataclasses.asdict(row)
    sql(unit).execute(sa.update(setback).where(*here).values(values) if before else sa.insert(setback).values(values))
    return row


def known(unit: Unit, work: str) -> dict[str, float]:
    """Return when each subject that failed is tried again, by subject."""
    rows = sql(unit).execute(sa.select(setback.c.subject, setback.c.next_at).where(setback.c.work == work))
    return {row.subject: row.next_at for row in rows}


def clear(unit: Unit, work: str, subject: str) -> None:
    """Forget a failure: it is done, or there is nothing to do any more."""
    sql(unit).execute(sa.delete(setback).where(setback.c.work == work, setback.c.subject == subject[:_LONGEST_SUBJECT]))


def listed(unit: Unit, limit: int = 1000) -> list[Setback]:
    """Return all, those that failed longest first."""
    rows = sql(unit).execute(sa.select(setback).order_by(setback.c.first_at).limit(limit))
    return [Setback(**row._mapping) for row in rows]
