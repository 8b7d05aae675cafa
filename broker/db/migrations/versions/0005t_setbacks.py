"""What background work could not do, and when it tries again."""

import sqlalchemy as sa
from alembic import op

revision = "0005t"
down_revision = "0005s"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "setback",
        sa.Column("work", sa.String(16), primary_key=True),
        sa.Column("subject", sa.String(400), primary_key=True),
        sa.Column("hospital", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_at", sa.Float, nullable=False),
        sa.Column("last_at", sa.Float, nullable=False),
        sa.Column("next_at", sa.Float, nullable=False),
    )
