"""Lists of persons that were found, kept for their further pages: in SQL, so that any process of any broker can go on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from broker.db import sql
from broker.model.ports import Unit
from broker.patients.store.tables import hits

KEPT_LISTS = 1_000
_TIDIED = 64        # those beyond KEPT_LISTS are removed so many at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A list: its persons and what belongs to it, and how many of them were answered, the last page included."""

    body: Mapping[str, Any]
    given: int


def keep(unit: Unit, asker: str, token: str, kept: Kept, *, at: float, expires_at: float) -> None:
    """Keep a list under a token; what has expired goes."""
    connection = sql(unit)
    connection.execute(sa.delete(hits).where(hits.c.expires_at <= at))
    row = {"asker": asker, "token": token, "body": kept.body, "given": kept.given, "expires_at": expires_at}
    number = connection.execute(sa.insert(hits).values(row).returning(hits.c.id)).scalar_one()
    if number % _TIDIED == 0:
        connection.execute(sa.delete(hits).where(hits.c.id <= number - KEPT_LISTS))


def find(unit: Unit, asker: str, token: str, at: float) -> Kept | None:
    """Return the list kept last under a token, or None when there is none or it has expired."""
    its = (hits.c.asker == asker) & (hits.c.token == token) & (hits.c.expires_at > at)
    row = sql(unit).execute(sa.select(hits.c.body, hits.c.given).where(its).order_by(hits.c.id.desc()).limit(1)).first()
    return Kept(body=row.body, given=row.given) if row else None


def note_given(unit: Unit, asker: str, token: str, given: int) -> None:
    """Note how many persons of a list were answered."""
    sql(unit).execute(sa.update(hits).where((hits.c.asker == asker) & (hits.c.token == token)).values(given=given))


def forget(unit: Unit, asker: str) -> None:
    """Remove all lists of an asker."""
    sql(unit).execute(sa.delete(hits).where(hits.c.asker == asker))
