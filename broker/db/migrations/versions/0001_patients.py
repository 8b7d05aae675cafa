"""Patients: source records, links, groups, events, answered messages."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Add the tables of the PIX manager."""
    _people()
    op.create_table(
        "patient_event",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("domain", sa.String(64), nullable=False),
        sa.Column("value", sa.String(250), nullable=False),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
    )
    op.create_index("ix_patient_event_domain_value", "patient_event", ["domain", "value"])
    op.create_table(
        "patient_message",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("control_id", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("reply", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("sender", "control_id", name="uq_patient_message_sender_control_id"),
    )


def _people() -> None:
    op.create_table(
        "patient_group",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", sa.String(32), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("survivor_id", sa.Integer, sa.ForeignKey("patient_group.id")),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("value", name="uq_patient_group_value"),
    )
    op.create_table(
        "patient_identity",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("domain", sa.String(64), nullable=False),
        sa.Column("value", sa.String(250), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("survivor_id", sa.Integer, sa.ForeignKey("patient_identity.id")),
        sa.Column("group_id", sa.Integer, sa.ForeignKey("patient_group.id")),
        sa.Column("demographics", sa.JSON, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.UniqueConstraint("domain", "value", name="uq_patient_identity_domain_value"),
    )
    op.create_index("ix_patient_identity_group_id", "patient_identity", ["group_id"])
    op.create_table(
        "patient_key",
        sa.Column("identity_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("value", sa.String(32), primary_key=True),
    )
    op.create_index("ix_patient_key_kind_value", "patient_key", ["kind", "value"])
    op.create_table(
        "patient_link",
        sa.Column("a_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
        sa.Column("b_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_patient_link_b_id", "patient_link", ["b_id"])
