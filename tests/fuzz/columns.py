"""Whether what was stored fits its columns: SQLite takes text of any length, PostgreSQL raises an error nobody expects."""

import sqlalchemy as sa

from broker.db import Database, metadata, sql

_WORST: dict[type, int] = {sa.Integer: 1 << 31, sa.BigInteger: 1 << 63}


def misfits(database: Database) -> list[str]:
    """Return every column that holds a text longer than it may be, a NUL, or a number beyond its type."""
    found: list[str] = []
    with database.read() as unit:
        for table in metadata.sorted_tables:
            for column in table.columns:
                kind, length = type(column.type), getattr(column.type, "length", None)
                if isinstance(column.type, sa.String):
                    longest, nul = sql(unit).execute(sa.select(
                        sa.func.max(sa.func.length(column)), sa.func.max(sa.func.instr(column, sa.func.char(0))))).one()
                    wrong = bool(nul) or (length is not None and (longest or 0) > length)
                else:
                    worst = sql(unit).scalar(sa.select(sa.func.max(sa.func.abs(column)))) if kind in _WORST else 0
                    wrong = (worst or 0) >= _WORST.get(kind, 1)
                if wrong:
                    found.append(f"{table.name}.{column.name}")
    return found
