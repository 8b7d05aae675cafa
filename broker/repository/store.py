"""Rows of documents. What their states mean is told in `documents`."""

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from broker.db import batches, metadata, sql
from broker.db.machine import GONE, NEW, Machine
from broker.model.ports import Unit

PENDING, KEPT, STORED = "pending", "kept", "stored"

document = sa.Table(
    "document", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("unique_id", sa.String(256), nullable=False),
    sa.Column("sha1", sa.String(40), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("mime_type", sa.String(256), nullable=False),
    sa.Column("path", sa.Text, nullable=False),             # relative to the documents folder
    sa.Column("state", sa.String(8), nullable=False),       # pending | kept | stored
    sa.Column("at", sa.Float, nullable=False),              # seconds since the epoch
    sa.Index("ix_document_unique_id", "unique_id"),
    sa.Index("ix_document_state_at", "state", "at"),
)

DOCUMENT = Machine("document", document.c.state, [
    (NEW, "brought", PENDING),
    (PENDING, "registered", STORED),
    (PENDING, "undecided", KEPT),           # the registry did not answer, or the call died
    (KEPT, "registered", STORED),
    (PENDING, "dropped", GONE),             # the registry said no, or the file never was whole
    (KEPT, "dropped", GONE),                # a repetition brought the same document
])

_BEST_FIRST = sa.case({STORED: 0, KEPT: 1}, value=document.c.state, else_=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One row; `path` is relative to the documents folder, `sha1` lower-case hex."""

    id: int = 0
    unique_id: str
    sha1: str
    size: int
    mime_type: str
    path: str
    state: str = DOCUMENT.first("brought")
    at: float


def find(unit: Unit, unique_id: str) -> list[Document]:
    """Return the rows of this DocumentEntry.uniqueId, registered ones first."""
    return find_all(unit, [unique_id]).get(unique_id, [])


def find_all(unit: Unit, unique_ids: Iterable[str]) -> dict[str, list[Document]]:
    """Return the rows of each of these DocumentEntry.uniqueIds that has any, registered ones first."""
    found: dict[str, list[Document]] = {}
    for batch in batches(unique_ids):
        query = sa.select(document).where(document.c.unique_id.in_(batch)).order_by(_BEST_FIRST, document.c.id)
        for row in sql(unit).execute(query).mappings():
            found.setdefault(row["unique_id"], []).append(Document(**row))
    return found


def pending_before(unit: Unit, at: float) -> list[Document]:
    """Return the rows that have been pending since before `at`."""
    rows = sql(unit).execute(sa.select(document).where(document.c.state == PENDING, document.c.at < at))
    return [Document(**row) for row in rows.mappings()]


def add(unit: Unit, row: Document) -> int:
    """Enter a row and return its id."""
    values = {name: getattr(row, name) for name in ("unique_id", "sha1", "size", "mime_type", "path", "state", "at")}
    key = sql(unit).execute(sa.insert(document).values(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def mark(unit: Unit, ids: Iterable[int], event: str) -> None:
    """Note an event of `DOCUMENT`; rows in whose state it must not come stay as they are."""
    DOCUMENT.move(unit, event, document.c.id.in_(list(ids)))


def confirm(unit: Unit, unique_ids: Iterable[str]) -> None:
    """Make stored what was kept of these documents: their registration is now known."""
    DOCUMENT.move(unit, "registered", document.c.unique_id.in_(list(unique_ids)), document.c.state == KEPT)


def remove(unit: Unit, ids: Iterable[int]) -> None:
    """Drop these rows, unless they are registered."""
    DOCUMENT.remove(unit, "dropped", document.c.id.in_(list(ids)))
