"""Containers by their last reading alone: by state first, a join on the current one of a study read them all."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the index anew."""
    op.drop_index("ix_container_verified_at", "container")
    op.create_index("ix_container_verified_at", "container", ["verified_at"])
