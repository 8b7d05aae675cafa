"""Links that merges inherited are open to comparison again; who was merged into whom is found by an index."""

from alembic import op

revision = "0005p"
down_revision = "0005"


def upgrade() -> None:
    """Version 0.1.0 made every link of a merged record explicit, whatever had linked it; no source ever named one."""
    op.execute("UPDATE patient_link SET kind = 'automatic' WHERE kind = 'explicit'")
    op.create_index("ix_patient_identity_survivor_id", "patient_identity", ["survivor_id"])
