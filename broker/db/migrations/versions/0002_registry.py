"""Registry objects."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _object_id() -> sa.Column[int]:
    return sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True)


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "registry_object",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("patient", sa.Text, nullable=False),
        sa.Column("submitted_as", sa.Text, nullable=False),
        sa.Column("status", sa.String(64), nullable=False),
        sa.Column("unique_id", sa.String(256), nullable=False),
        sa.Column("confidentiality", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("uuid", name="uq_registry_object_uuid"),
    )
    op.create_index("ix_registry_object_patient_kind", "registry_object", ["patient", "kind", "status"])
    op.create_index("ix_registry_object_unique_id", "registry_object", ["unique_id"])
    op.create_table(
        "registry_entry",
        _object_id(),
        sa.Column("object_type", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(40), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("creation_time", sa.String(14), nullable=False),
        sa.Column("service_start_time", sa.String(14), nullable=False),
        sa.Column("service_stop_time", sa.String(14), nullable=False),
    )
    op.create_table(
        "registry_submission",
        _object_id(),
        sa.Column("source_id", sa.String(64), nullable=False),
        sa.Column("submission_time", sa.String(14), nullable=False),
    )
    op.create_table(
        "registry_folder",
        _object_id(),
        sa.Column("last_update_time", sa.String(14), nullable=False),
    )
    op.create_table(
        "registry_association",
        _object_id(),
        sa.Column("type", sa.String(256), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
    )
    op.create_index("ix_registry_association_source", "registry_association", ["source"])
    op.create_index("ix_registry_association_target", "registry_association", ["target"])
    op.create_table(
        "registry_code",
        _object_id(),
        sa.Column("attribute", sa.String(32), primary_key=True),
        sa.Column("code", sa.Text, primary_key=True),
    )
    op.create_table("registry_author", _object_id(), sa.Column("person", sa.Text, primary_key=True))
    op.create_table("registry_reference", _object_id(), sa.Column("reference", sa.Text, primary_key=True))
    op.create_table(
        "patient_alias",
        sa.Column("retired", sa.Text, primary_key=True),
        sa.Column("survivor", sa.Text, nullable=False),
    )
