"""What the archive holds, counted in SQL. Times are seconds since the epoch."""

from dataclasses import dataclass

import sqlalchemy as sa

from broker.db import sql
from broker.imaging.store import tables as t
from broker.model.ports import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What the archive holds of a hospital, `new_*` what was packed of it lately; containers are as many as studies."""

    hospital: str
    containers: int
    images: int
    bytes: int
    new_containers: int
    new_images: int
    new_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How the archive is: damage that counts, damage that was mended, when the container longest not read was (0 = never).

    `since` is when the oldest container was packed, 0 when there is none.
    """

    damaged_images: int
    damaged_containers: int
    mended: int
    oldest_verified: float
    since: float


_CURRENT = t.container.c.state == "current"


def stock(unit: Unit, since: float) -> list[Stock]:
    """Return what there is of each hospital, by its key; `new_*` counts what was packed since this time."""
    new = t.container.c.at >= since

    def total(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
        return sa.cast(sa.func.coalesce(sa.func.sum(column), 0), sa.BigInteger)

    query = (
        sa.select(
            t.study.c.hospital, sa.func.count().label("containers"), total(t.container.c.images).label("images"),
            total(t.container.c.size).label("bytes"), total(sa.case((new, 1), else_=0)).label("new_containers"),
            total(sa.case((new, t.container.c.images), else_=0)).label("new_images"),
            total(sa.case((new, t.container.c.size), else_=0)).label("new_bytes"))
        .join(t.study, t.study.c.id == t.container.c.study_id).where(_CURRENT)
        .group_by(t.study.c.hospital).order_by(t.study.c.hospital))
    return [Stock(**row._mapping) for row in sql(unit).execute(query)]


def condition(unit: Unit) -> Condition:
    """Return how the archive is."""
    connection, damage = sql(unit), t.damage.c
    counts = (damage.mended_at == 0) & sa.exists().where(
        t.container.c.study_id == damage.study_id, t.container.c.path == damage.container, _CURRENT)
    damaged = connection.execute(
        sa.select(sa.func.count(sa.case((damage.sop_uid != "", 1))), sa.func.count(damage.container.distinct()))
        .where(counts)).one()
    oldest = connection.execute(
        sa.select(sa.func.min(t.container.c.verified_at), sa.func.min(t.container.c.at)).where(_CURRENT)).one()
    mended = connection.scalar(sa.select(sa.func.count()).select_from(t.damage).where(damage.mended_at > 0)) or 0
    return Condition(damaged_images=damaged[0], damaged_containers=damaged[1], mended=mended, oldest_verified=oldest[0] or 0.0,
                     since=oldest[1] or 0.0)
