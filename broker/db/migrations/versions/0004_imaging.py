"""Studies, instances, containers, publications, fetches."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables of the imaging actor."""
    op.create_table(
        "study",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("hospital", sa.String(64), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("tier", sa.String(8), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("patient_domain", sa.String(64), nullable=False),
        sa.Column("patient_value", sa.String(250), nullable=False),
        sa.Column("study_date", sa.String(8), nullable=False),
        sa.Column("accession", sa.String(64), nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("objects", sa.Integer, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.Float, nullable=False),
        sa.Column("last_at", sa.Float, nullable=False),
        sa.Column("used_at", sa.Float, nullable=False),
        sa.UniqueConstraint("study_uid", "hospital", name="uq_study_study_uid_hospital"),
    )
    op.create_index("ix_study_state_last_at", "study", ["state", "last_at"])
    op.create_index("ix_study_patient", "study", ["patient_domain", "patient_value"])
    op.create_index("ix_study_due", "study", ["tier", "state", "objects", "study_date"])
    op.create_table(
        "series",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
        sa.Column("series_uid", sa.String(64), primary_key=True),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("body_part", sa.String(64), nullable=False),
        sa.Column("description", sa.String(250), nullable=False),
    )
    op.create_table(
        "instance",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("sop_class", sa.String(64), nullable=False),
        sa.Column("transfer_syntax", sa.String(64), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_instance_sop_uid", "instance", ["sop_uid"])
    op.create_table(
        "conflict",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("hospital", sa.String(64), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "catalogue",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "container",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_container_study_id", "container", ["study_id"])
    op.create_table(
        "publication",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("patient_domain", sa.String(64), nullable=False),
        sa.Column("patient_value", sa.String(250), nullable=False),
        sa.Column("manifest_uid", sa.String(64), nullable=False),
        sa.Column("entry_uuid", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("document", sa.LargeBinary),
        sa.Column("submission", sa.LargeBinary),
    )
    op.create_index("ix_publication_state_next_at", "publication", ["state", "next_at"])
    op.create_index("ix_publication_patient", "publication", ["patient_domain", "patient_value"])
    op.create_table(
        "fetch_job",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("hospital", sa.String(64), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("beat_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("ix_fetch_job_state", "fetch_job", ["state"])
    op.create_index("ix_fetch_job_study_uid", "fetch_job", ["study_uid"])
    op.create_table(
        "fetch_want",
        sa.Column("job_id", sa.Integer, sa.ForeignKey("fetch_job.id"), primary_key=True),
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("landed", sa.Boolean, nullable=False),
    )
