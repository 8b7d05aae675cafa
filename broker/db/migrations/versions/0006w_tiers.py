"""Studies that are held or pinned, copies that were recalled, and how often packed studies are read."""

import sqlalchemy as sa
from alembic import op

revision = "0006w"
down_revision = "0006v"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "retain",
        sa.Column("hospital", sa.String(64), primary_key=True),
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(4), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "recall",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("why", sa.String(8), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_index("ix_recall_state_until", "recall", ["state", "until"])
    op.create_table(
        "study_use",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("times", sa.Integer, nullable=False),
    )
    op.create_index("ix_study_use_day", "study_use", ["day"])
