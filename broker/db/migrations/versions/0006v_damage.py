"""Damage of the archive: which pictures are not what was packed, and when each container was last read through."""

import sqlalchemy as sa
from alembic import op

revision = "0006v"
down_revision = "0005t"


def upgrade() -> None:
    """Add the table and the column."""
    op.create_table(
        "damage",
        sa.Column("container", sa.String(200), primary_key=True),
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("found_at", sa.Float, nullable=False),
        sa.Column("mended_at", sa.Float, nullable=False),
    )
    op.create_index("ix_damage_study_id", "damage", ["study_id"])
    op.add_column("container", sa.Column("verified_at", sa.Float, nullable=False, server_default="0"))
    op.create_index("ix_container_verified_at", "container", ["state", "verified_at"])
