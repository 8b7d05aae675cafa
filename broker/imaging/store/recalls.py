"""Copies of packed studies in the online tier: which are wanted, which are there, until when. Times are seconds since the epoch.

A row says that a copy is to be there or is. Readers need no row: they take the copy where there is one (`Sdfo`).
"""

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from broker.config.profile import Retention
from broker.db import sql
from broker.imaging.store import tables as t
from broker.imaging.store.damages import IS_DAMAGED
from broker.imaging.store.machines import NEAR, RECALL, WANTED
from broker.imaging.store.retained import HOLD, PIN, is_kept
from broker.model.ports import Unit

ASKED, READS, PINNED = "asked", "reads", "pin"

_DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """A row, with the study it is of; `path` is the container that was copied, empty while none was."""

    study_id: int
    hospital: str
    study_uid: str
    state: str
    path: str
    size: int
    why: str
    at: float
    until: float


def ask(unit: Unit, study_id: int, why: str, now: float, until: float) -> None:
    """Have a copy of a packed study made, or let the one that is there stay until this time at least."""
    insert = postgresql.insert(t.recall) if sql(unit).dialect.name == "postgresql" else sqlite.insert(t.recall)
    sql(unit).execute(insert.values(
        study_id=study_id, state=RECALL.first("asked for"), path="", size=0, why=why, at=now, until=until,
    ).on_conflict_do_nothing(index_elements=["study_id"]))
    for state in (WANTED, NEAR):
        RECALL.move(unit, "asked for", t.recall.c.study_id == study_id, t.recall.c.state == state,
                    t.recall.c.until < until, to=state, why=why, until=until)


def count_use(unit: Unit, study_id: int, at: float) -> None:
    """Note a retrieve of a packed study, for the rule that counts them."""
    insert = postgresql.insert(t.study_use) if sql(unit).dialect.name == "postgresql" else sqlite.insert(t.study_use)
    sql(unit).execute(insert.values(study_id=study_id, day=int(at // _DAY), times=1).on_conflict_do_update(
        index_elements=["study_id", "day"], set_={"times": t.study_use.c.times + 1}))


def often_read(unit: Unit, retention: Retention, now: float) -> list[int]:
    """Return the packed studies without a copy that were retrieved as often as the rule says; forget days that count no more."""
    first = int(now // _DAY) - retention.recall_within_days + 1
    sql(unit).execute(sa.delete(t.study_use).where(t.study_use.c.day < first))
    times = sa.func.sum(t.study_use.c.times)
    query = (
        sa.select(t.study_use.c.study_id).join(t.study, t.study.c.id == t.study_use.c.study_id)
        .where(t.study.c.tier == "archive", sa.not_(_asked_for()))
        .group_by(t.study_use.c.study_id).having(times >= retention.recall_reads).order_by(times.desc()))
    return list(sql(unit).scalars(query))


def pinned(unit: Unit) -> list[int]:
    """Return the packed studies that are pinned and have no copy."""
    return list(sql(unit).scalars(
        sa.select(t.study.c.id).where(t.study.c.tier == "archive", is_kept(PIN), sa.not_(_asked_for())).order_by(t.study.c.id)))


def wanted(unit: Unit) -> list[Recall]:
    """Return the copies that are to be made, the longest asked for first."""
    return _found(unit, _rows().where(t.recall.c.state == WANTED).order_by(t.recall.c.at))


def copied(unit: Unit, study_id: int, path: str, size: int, now: float) -> bool:
    """Note that there is a copy of this container; False when it is not wanted, or the study has another container now."""
    same = sa.exists().where(
        t.container.c.study_id == study_id, t.container.c.path == path, t.container.c.state == "current")
    return RECALL.move(unit, "copied", t.recall.c.study_id == study_id, same, path=path, size=size, at=now) == 1


def packed_again(unit: Unit, study_id: int) -> None:
    """Have a copy made of the study's new container."""
    RECALL.move(unit, "packed again", t.recall.c.study_id == study_id, path="", size=0)


def lost(unit: Unit, there: Collection[str]) -> int:
    """Have copies made again whose files are not among those that are there; return how many."""
    gone = [row.study_id for row in listed(unit) if row.state == NEAR and row.path not in there]
    return sum(RECALL.move(unit, "lost", t.recall.c.study_id == study_id, path="", size=0) for study_id in gone)


def over(unit: Unit, study_id: int) -> str:
    """Forget that a copy is wanted or there; return the container of which it is, empty when there is none."""
    path = path_of(unit, study_id)
    RECALL.remove(unit, "over", t.recall.c.study_id == study_id)
    return path


def path_of(unit: Unit, study_id: int) -> str:
    """Return the container of which there is a copy; empty when there is none."""
    return sql(unit).scalar(sa.select(t.recall.c.path).where(t.recall.c.study_id == study_id)) or ""


def expired(unit: Unit, now: float, recall_days: int) -> list[Recall]:
    """Return the copies whose time is over and that nobody retrieved for so many days; not what is pinned, held or damaged."""
    return _found(unit, _rows().where(
        t.recall.c.state == NEAR, t.recall.c.until < now, t.study.c.used_at < now - recall_days * _DAY,
        sa.not_(is_kept(PIN, HOLD)), sa.not_(IS_DAMAGED)).order_by(t.recall.c.until))


def least_used(unit: Unit) -> list[Recall]:
    """Return the copies to go first, the longest unused; none of a study that is pinned, held or damaged in the archive."""
    return _found(unit, _rows().where(
        t.recall.c.state == NEAR, sa.not_(is_kept(PIN, HOLD)), sa.not_(IS_DAMAGED)).order_by(t.study.c.used_at))


def listed(unit: Unit) -> list[Recall]:
    """Return all, oldest first."""
    return _found(unit, _rows().order_by(t.recall.c.at))


def _asked_for() -> sa.ColumnElement[bool]:
    return sa.exists().where(t.recall.c.study_id == t.study.c.id)


_Row = sa.Select[tuple[int, str, str, str, str, int, str, float, float]]


def _rows() -> _Row:
    of = t.recall.c
    return sa.select(
        of.study_id, t.study.c.hospital, t.study.c.study_uid, of.state, of.path, of.size, of.why, of.at, of.until,
    ).join(t.study, t.study.c.id == of.study_id)


def _found(unit: Unit, query: _Row) -> list[Recall]:
    return [Recall(**row._mapping) for row in sql(unit).execute(query)]
