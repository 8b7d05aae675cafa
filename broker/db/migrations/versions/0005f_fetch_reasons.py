"""Why an instance that was asked for cannot be had, one reason for each."""

import sqlalchemy as sa
from alembic import op

revision = "0005f"
down_revision = "0004"


def upgrade() -> None:
    """Add the reason to what a fetch waits for."""
    op.add_column("fetch_want", sa.Column("reason", sa.Text, nullable=False, server_default=""))
