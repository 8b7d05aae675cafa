"""Search terms of patients' records, and lists of persons of which further pages may be asked for.

Blocking keys: a birth date stands with a name, no longer alone.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_ROWS = 500
_PART, _LONGEST, _TAIL = "\x1f", 40, 7
_HAN = re.compile("[\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_DROPPED = re.compile(r"[\s·•・‧∙⋅'’`,.()-]+")


def upgrade() -> None:
    """Make the tables; fill the terms of the records that there are."""
    op.create_table(
        "patient_term",
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("value", sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql"), primary_key=True),
        sa.Column("identity_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "patient_hits",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("asker", sa.String(64), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("given", sa.Integer, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
    )
    op.create_index("ix_patient_hits_asker_token", "patient_hits", ["asker", "token"])
    op.create_index("ix_patient_hits_expires_at", "patient_hits", ["expires_at"])
    _fill()
    _name_keys()


def _fill() -> None:
    identity = sa.table(
        "patient_identity", sa.column("id", sa.Integer), sa.column("state", sa.String), sa.column("demographics", sa.JSON))
    term = sa.table("patient_term", *(sa.column(name) for name in ("kind", "value", "identity_id")))
    connection, last = op.get_bind(), -1
    page = sa.select(identity.c.id, identity.c.demographics).order_by(identity.c.id).limit(_ROWS)
    while rows := connection.execute(page.where(identity.c.state == "active", identity.c.id > last)).all():
        found = [{"kind": kind, "value": value, "identity_id": row.id}
                 for row in rows for kind, value in sorted(set(_terms(row.demographics))) if value.strip(_PART)]
        if found:
            connection.execute(sa.insert(term), found)
        last = rows[-1].id


def _name_keys() -> None:
    """Put keys of name and birth date in place of those of a birth date: a record has one where its date tells people apart."""
    identity = sa.table("patient_identity", sa.column("id", sa.Integer), sa.column("demographics", sa.JSON))
    key = sa.table("patient_key", *(sa.column(name) for name in ("kind", "value", "identity_id")))
    connection, last = op.get_bind(), -1
    page = sa.select(identity.c.id, identity.c.demographics, key.c.value.label("born")).join(
        key, (key.c.identity_id == identity.c.id) & (key.c.kind == "birth")).order_by(identity.c.id).limit(_ROWS)
    while rows := connection.execute(page.where(identity.c.id > last)).all():
        found = [{"kind": "name", "value": row.born + digest, "identity_id": row.id}
                 for row in rows for digest in sorted(_digests(row.demographics))]
        if found:
            connection.execute(sa.insert(key), found)
        last = rows[-1].id
    connection.execute(sa.delete(key).where(key.c.kind == "birth"))


def _digests(person: Mapping[str, Any]) -> set[str]:
    """Return the digests of names as `broker.matching.block` made them at this revision."""
    texts = {_DROPPED.sub("", _folded(name["family"] + name["given"] + name["middle"])) for name in person.get("names", ())}
    keys = (f"{'han' if _HAN.search(text) else 'letters'}:{text}" for text in texts if text)
    return {hashlib.blake2b(key.encode(), digest_size=12).hexdigest() for key in keys}


def _terms(person: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the terms as `broker.patients.terms` made them at this revision."""
    born = person.get("birth_date", "")
    for name in person.get("names", ()):
        yield from _names(name, born)
    for family in {_plain(name["family"]) for name in person.get("names", ())} or {""}:
        yield "birth", born + _PART + _cut(family) if born else ""
    if person.get("mother"):
        yield "mother", f"{_cut(_plain(person['mother']['family']))}{_PART}"
    for address in person.get("addresses", ()):
        yield "street", _cut(_plain(address["street"]))
        yield "postcode", _cut(_plain(address["postcode"]))
    for phone in person.get("phones", ()):
        yield "phone", "".join(letter for letter in _plain(phone) if letter.isdecimal())[-_TAIL:]
    for _, value in person.get("other_ids", ()):
        yield "other", _cut(value)


def _names(name: Mapping[str, str], born: str) -> Iterator[tuple[str, str]]:
    family, given, middle = name["family"], name["given"], name["middle"]
    both = f"{given} {middle}" if given and middle else ""
    parts = [text for text in (given, middle, both) if text]
    if family:
        yield "family", f"{_cut(_plain(family))}{_PART}{born}"
    for part in parts or [""]:
        if family or part:
            yield "whole", f"{_cut(_plain(family + part))}{_PART}{born}"
    for part in parts:
        yield "given", f"{_cut(_plain(part))}{_PART}{born}"


def _plain(text: str) -> str:
    return "".join(_folded(text).split())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _cut(text: str) -> str:
    return text[:_LONGEST]
