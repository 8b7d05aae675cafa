"""Facts of studies in few bytes, and series in one tree, their key, instead of two."""

import sqlalchemy as sa
from alembic import op

from broker.db.compact import Compact

revision = "0008"
down_revision = "0007f"

_ROWS = 500


def upgrade() -> None:
    """Change the columns and what is in them."""
    op.add_column("study", sa.Column("facts_packed", sa.LargeBinary, nullable=False, server_default=""))
    _pack()
    op.drop_column("study", "facts")
    op.execute("ALTER TABLE study RENAME COLUMN facts_packed TO facts")
    if op.get_context().dialect.name == "sqlite":
        _without_rowid()


def _pack() -> None:
    study = sa.table("study", sa.column("id", sa.Integer), sa.column("facts", sa.JSON), sa.column("facts_packed", Compact))
    change = sa.update(study).where(study.c.id == sa.bindparam("row")).values(facts_packed=sa.bindparam("packed", type_=Compact))
    connection, last = op.get_bind(), -1
    page = sa.select(study.c.id, study.c.facts).order_by(study.c.id).limit(_ROWS)
    while rows := connection.execute(page.where(study.c.id > last)).all():
        connection.execute(change, [{"row": row.id, "packed": row.facts} for row in rows])
        last = rows[-1].id


def _without_rowid() -> None:
    op.rename_table("series", "series_before")
    op.create_table(
        "series",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
        sa.Column("series_uid", sa.String(64), primary_key=True),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("body_part", sa.String(64), nullable=False),
        sa.Column("description", sa.String(250), nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO series SELECT study_id, series_uid, modality, body_part, description FROM series_before")
    op.drop_table("series_before")
