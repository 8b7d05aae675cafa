"""Which studies are to be packed, and by which rule of the region; which migrations were begun.

Times are seconds since the epoch.
"""

import datetime as dt
from collections.abc import Iterable

import sqlalchemy as sa

from broker.config.profile import Retention, Rule
from broker.db import sql
from broker.imaging.store import tables as t
from broker.imaging.store.machines import COMPLETE, DROPPING, PACKING
from broker.imaging.store.retained import HOLD, PIN, is_kept
from broker.model.imaging import Due
from broker.model.ports import Unit

# What a study that is due gives as its rule besides the name of one: objects came when it was packed already, the disk runs
# full, no rule is made for it, its migration was begun.
LATE, LOW_WATER, DEFAULT, BEGUN = "late objects", "low_water", "online_days", "begun"

_DAY = 86400.0


def due(unit: Unit, retention: Retention, now: float, limit: int, *, room: bool = False) -> list[Due]:
    """Return the studies to pack: late objects of packed studies first, then the oldest. None of those that are pinned.

    A study is due when every rule that fits it is over: its date (without one, its last object) is older than `online_days`,
    and its last retrieve than `unused_days`; where none fits, the default. With `room` all others come after these.
    """
    over = _over(retention, now)
    query = (
        _studies(_rule(retention, over)).where(*_waiting(over, room=room), sa.not_(is_kept(PIN)))
        .order_by(*((_overdue_first(over),) if room else ()), t.study.c.tier, t.study.c.study_date, t.study.c.id).limit(limit))
    return _found(unit, query)


def pinned(unit: Unit, retention: Retention, now: float) -> int:
    """Return how many studies would be due if they were not pinned."""
    query = sa.select(sa.func.count()).select_from(t.study).where(*_waiting(_over(retention, now), room=False), is_kept(PIN))
    return sql(unit).scalar(query) or 0


def unfinished(unit: Unit, now: float, grace_seconds: float) -> list[Due]:
    """Return the studies whose migration was begun and can go on: those in packing, and those in dropping after their grace time.

    Those that are held wait. One that is in dropping since a time to come is among them: a clock was set back.
    """
    query = (
        _studies(sa.literal(BEGUN))
        .outerjoin(t.container, sa.and_(t.container.c.study_id == t.study.c.id, t.container.c.state == "current"))
        .where(sa.or_(
            t.study.c.state == PACKING,
            sa.and_(t.study.c.state == DROPPING, sa.not_(is_kept(HOLD)),
                    sa.or_(t.container.c.at <= now - grace_seconds, t.container.c.at > now))))
        .order_by(t.study.c.id))
    return _found(unit, query)


def mend_times(unit: Unit, now: float) -> int:
    """Bring times of studies that are more than a day to come back to now: a clock was ahead; return how many had such.

    Without it such a study would not be complete, or not be packed, until then.
    """
    ahead = now + _DAY
    changed = 0
    for column in (t.study.c.last_at, t.study.c.used_at):
        changed += sql(unit).execute(t.study.update().where(column > ahead).values({column.name: now})).rowcount
    return changed


def _studies(rule: sa.ColumnElement[str]) -> sa.Select[tuple[int, str, str, int, int, str]]:
    of = t.study.c
    return sa.select(of.id, of.hospital, of.study_uid, of.objects, of.bytes, rule.label("rule"))


def _found(unit: Unit, query: sa.Select[tuple[int, str, str, int, int, str]]) -> list[Due]:
    return [Due(id=row.id, hospital=row.hospital, study_uid=row.study_uid, images=row.objects, bytes=row.bytes, rule=row.rule)
            for row in sql(unit).execute(query)]


def _waiting(over: sa.ColumnElement[bool], *, room: bool) -> Iterable[sa.ColumnElement[bool]]:
    """Return the conditions for a study that could be packed now."""
    yield t.study.c.state == COMPLETE
    yield t.study.c.objects > 0
    yield sa.or_(t.study.c.tier == "archive", sa.and_(t.study.c.tier == "online", sa.true() if room else over))


def _overdue_first(over: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.case((sa.or_(t.study.c.tier == "archive", over), 0), else_=1)


def _over(retention: Retention, now: float) -> sa.ColumnElement[bool]:
    """Return the condition under which a study has been online for long enough."""
    rules = [(_fits(rule), _older(rule.online_days, rule.unused_days, now)) for rule in retention.rules]
    default = sa.or_(_older(retention.online_days, retention.unused_days, now), *(fits for fits, _ in rules))
    return sa.and_(default, *(sa.or_(sa.not_(fits), older) for fits, older in rules))


def _rule(retention: Retention, over: sa.ColumnElement[bool]) -> sa.ColumnElement[str]:
    """Return the name of what makes a study due: of the rules that fit, the longest."""
    named = [(_fits(rule), sa.literal(rule.name)) for rule in retention.rules]
    return sa.case(
        (t.study.c.tier == "archive", sa.literal(LATE)), (sa.not_(over), sa.literal(LOW_WATER)), *named,
        else_=sa.literal(DEFAULT))


def _fits(rule: Rule) -> sa.ColumnElement[bool]:
    conditions: list[sa.ColumnElement[bool]] = [sa.true()]
    if rule.hospital:
        conditions.append(t.study.c.hospital == rule.hospital)
    if rule.modality:
        conditions.append(sa.exists().where(t.series.c.study_id == t.study.c.id, t.series.c.modality == rule.modality))
    return sa.and_(*conditions)


def _older(days: int, unused_days: int, now: float) -> sa.ColumnElement[bool]:
    return sa.and_(*_ages(days, unused_days, now))


def _ages(days: int, unused_days: int, now: float) -> Iterable[sa.ColumnElement[bool]]:
    """Return the conditions for a study's age. A date to come is a slip of the pen: the last object's time stands for it."""
    dated = sa.and_(t.study.c.study_date != "", t.study.c.study_date <= _day(now + _DAY))
    yield sa.or_(
        sa.and_(dated, t.study.c.study_date <= _day(now - days * _DAY)),
        sa.and_(sa.not_(dated), t.study.c.last_at <= now - days * _DAY))
    if unused_days:
        yield t.study.c.used_at <= now - unused_days * _DAY


def _day(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y%m%d")
