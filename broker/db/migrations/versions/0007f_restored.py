"""Publications that were filled in from containers: the registry may have to be told of them again."""

import sqlalchemy as sa
from alembic import op

revision = "0007f"
down_revision = "0006w"


def upgrade() -> None:
    """Add the column."""
    op.add_column("publication", sa.Column("restored", sa.Integer, nullable=False, server_default="0"))
