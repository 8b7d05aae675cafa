"""Parts of a study by patient, what is kept aside as cases that an operator settles, whom a manifest was published for."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0005f"

_UNIQUE = "uq_study_study_uid_hospital_part"


def upgrade() -> None:
    """Add them; what was kept aside before becomes one open case for each study."""
    if op.get_bind().dialect.name == "sqlite":
        _make_study_anew()
    else:
        op.add_column("study", sa.Column("part", sa.Integer, nullable=False, server_default="0"))
        op.drop_constraint("uq_study_study_uid_hospital", "study", type_="unique")
        op.create_unique_constraint(_UNIQUE, "study", ["study_uid", "hospital", "part"])
    op.add_column("publication", sa.Column("entry_patient", sa.Text, nullable=False, server_default=""))
    op.add_column("publication", sa.Column("again", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_publication_entry_patient", "publication", ["entry_patient"])
    op.create_table(
        "conflict_case",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("patient_domain", sa.String(64), nullable=False),
        sa.Column("patient_value", sa.String(250), nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("catalogue", sa.LargeBinary),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("first_at", sa.Float, nullable=False),
        sa.Column("last_at", sa.Float, nullable=False),
        sa.Column("decided_at", sa.Float, nullable=False),
        sa.Column("decided_by", sa.Text, nullable=False),
        sa.Column("decision", sa.JSON, nullable=False),
    )
    op.create_index("ix_conflict_case_study_id", "conflict_case", ["study_id"])
    op.create_index("ix_conflict_case_state", "conflict_case", ["state", "kind"])
    op.add_column("conflict", sa.Column("case_id", sa.Integer))
    op.add_column("conflict", sa.Column("study_id", sa.Integer))
    op.add_column("conflict", sa.Column("role", sa.String(4), nullable=False, server_default="came"))
    for name in ("series_uid", "sop_class", "transfer_syntax"):
        op.add_column("conflict", sa.Column(name, sa.String(64), nullable=False, server_default=""))
    op.add_column("conflict", sa.Column("size", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_conflict_case_id", "conflict", ["case_id"])
    op.create_index("ix_conflict_sop_uid", "conflict", ["sop_uid"])
    _give_cases()
    _publish_again()


def _make_study_anew() -> None:
    """Replace the table, as SQLite cannot change a constraint; its rows come again before the deferred references are checked."""
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE study_before AS SELECT * FROM study")
    op.drop_table("study")
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
        sa.Column("part", sa.Integer, nullable=False, server_default="0"),
        sa.UniqueConstraint("study_uid", "hospital", "part", name=_UNIQUE),
    )
    op.create_index("ix_study_state_last_at", "study", ["state", "last_at"])
    op.create_index("ix_study_patient", "study", ["patient_domain", "patient_value"])
    op.create_index("ix_study_due", "study", ["tier", "state", "objects", "study_date"])
    op.execute("INSERT INTO study SELECT *, 0 FROM study_before")
    op.drop_table("study_before")


def _give_cases() -> None:
    op.execute(
        "INSERT INTO conflict_case (study_id, kind, patient_domain, patient_value, facts, state, first_at, last_at, decided_at,"
        " decided_by, decision) SELECT s.id, 'bytes', s.patient_domain, s.patient_value, '{}', 'open', MIN(c.at), MAX(c.at), 0,"
        " '', '{}' FROM study s JOIN conflict c ON c.hospital = s.hospital AND c.study_uid = s.study_uid"
        " GROUP BY s.id, s.patient_domain, s.patient_value")
    op.execute(
        "UPDATE conflict SET case_id = (SELECT k.id FROM conflict_case k JOIN study s ON s.id = k.study_id"
        " WHERE s.hospital = conflict.hospital AND s.study_uid = conflict.study_uid)")


def _publish_again() -> None:
    """Let studies whose UID another hospital used first name a Retrieve Location UID of their own."""
    op.execute(
        "UPDATE publication SET state = 'due', next_at = 0, attempts = 0, digest = '' WHERE state = 'published' AND study_id IN"
        " (SELECT s.id FROM study s WHERE EXISTS (SELECT 1 FROM study o WHERE o.study_uid = s.study_uid AND o.id < s.id))")
