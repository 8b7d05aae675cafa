"""When and by whom what is known of a patient was said: an older message of the same sender does not set it back."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; of what is known already nobody knows."""
    op.add_column("patient_identity", sa.Column("said_at", sa.Float))
    op.add_column("patient_identity", sa.Column("said_by", sa.Text, nullable=False, server_default=""))
