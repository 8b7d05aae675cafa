"""Which containers are to be read through, and when each last was. Times are seconds since the epoch."""

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from broker.db import sql
from broker.imaging.store import tables as t
from broker.model.ports import Unit

_OPEN_DAMAGE = sa.exists().where(t.damage.c.container == t.container.c.path, t.damage.c.mended_at == 0)


@dataclass(frozen=True, slots=True)
class Kept:
    """The current container of a study: what its file must be."""

    id: int
    study_id: int
    hospital: str
    study_uid: str
    path: str
    size: int
    sha256: str


_KEPT = (
    sa.select(t.container.c.id, t.container.c.study_id, t.study.c.hospital, t.study.c.study_uid, t.container.c.path,
              t.container.c.size, t.container.c.sha256)
    .join(t.study, t.study.c.id == t.container.c.study_id).where(t.container.c.state == "current"))


def todo(unit: Unit, before: float) -> list[tuple[int, int]]:
    """Return (id, size) of the containers not read since this time, longest ago first, and of all that have damage."""
    query = (
        sa.select(t.container.c.id, t.container.c.size)
        .where(t.container.c.state == "current", sa.or_(t.container.c.verified_at <= before, _OPEN_DAMAGE))
        .order_by(t.container.c.verified_at, t.container.c.id))
    return [(row.id, row.size) for row in sql(unit).execute(query)]


def sample(unit: Unit, count: int) -> list[tuple[int, int]]:
    """Return (id, size) of so many containers by chance, or of all when there are fewer."""
    query = (
        sa.select(t.container.c.id, t.container.c.size).where(t.container.c.state == "current")
        .order_by(sa.func.random()).limit(count))
    return [(row.id, row.size) for row in sql(unit).execute(query)]


def of_study(unit: Unit, study_uid: str) -> list[tuple[int, int]]:
    """Return (id, size) of the current containers of all studies with this UID."""
    return [(row.id, row.size) for row in sql(unit).execute(
        _KEPT.where(t.study.c.study_uid == study_uid).order_by(t.container.c.id))]


def next_due(unit: Unit, before: float, without: Collection[str]) -> Kept | None:
    """Return the container longest not read, before this time; those of these paths are left out."""
    rows = sql(unit).execute(
        _KEPT.where(t.container.c.verified_at < before).order_by(t.container.c.verified_at, t.container.c.id)
        .limit(len(without) + 1))
    return next((Kept(*row) for row in rows if row.path not in without), None)


def get(unit: Unit, container_id: int) -> Kept | None:
    """Return a container by its row id; None when it is not the current one of its study any more."""
    row = sql(unit).execute(_KEPT.where(t.container.c.id == container_id)).one_or_none()
    return Kept(*row) if row else None


def of_part(unit: Unit, study_id: int) -> Kept | None:
    """Return the current container of a part of a study."""
    row = sql(unit).execute(_KEPT.where(t.study.c.id == study_id)).one_or_none()
    return Kept(*row) if row else None


def read(unit: Unit, container_id: int, now: float) -> None:
    """Note that a container was read through, whatever came of it."""
    sql(unit).execute(t.container.update().where(t.container.c.id == container_id).values(verified_at=now))
