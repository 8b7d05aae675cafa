"""What PIX consumers and registries of others are told, on its way (ITI-10, ITI-46, ITI-64)."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create the outbox."""
    op.create_table(
        "patient_notification",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("consumer", sa.String(64), nullable=False),
        sa.Column("transaction", sa.String(8), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("control_id", sa.String(20), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("done_at", sa.Float),
    )
    op.create_index("ix_patient_notification_consumer", "patient_notification", ["consumer", "state", "id"])
