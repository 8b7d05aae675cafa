"""What was decided of two ids for good, events found by every id they tell of, and what a merge moved: it can be taken back."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_AT_ONCE = 1000
_event = sa.table(
    "patient_event", sa.column("id", sa.Integer), sa.column("kind", sa.String), sa.column("domain", sa.String),
    sa.column("body", sa.JSON), sa.column("about", sa.String))


def upgrade() -> None:
    """Create the table and the column, and fill it for what has happened already."""
    op.create_table(
        "patient_decision",
        sa.Column("a_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
        sa.Column("b_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
        sa.Column("kind", sa.String(5), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_patient_decision_b_id", "patient_decision", ["b_id"])
    op.create_table(
        "registry_moved",
        sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
        sa.Column("retired", sa.Text, primary_key=True),
    )
    op.create_index("ix_registry_moved_retired", "registry_moved", ["retired"])
    op.add_column("patient_alias", sa.Column("last_object", sa.Integer))
    op.add_column("patient_event", sa.Column("about", sa.String(320)))
    _fill(op.get_bind())
    op.create_index("ix_patient_event_about", "patient_event", ["about"])


def _fill(connection: sa.Connection) -> None:
    last = 0
    telling = _event.c.kind.in_(("grouped", "joined", "merged"))
    change = sa.update(_event).where(_event.c.id == sa.bindparam("number")).values(about=sa.bindparam("name"))
    while rows := connection.execute(
            sa.select(_event).where(_event.c.id > last, telling).order_by(_event.c.id).limit(_AT_ONCE)).all():
        connection.execute(change, [{"number": row.id, "name": _about(row)} for row in rows])
        last = rows[-1].id


def _about(row: sa.Row[tuple[int, str, str, object, str]]) -> str:
    body = json.loads(row.body) if isinstance(row.body, str) else row.body
    assert isinstance(body, dict)
    if row.kind == "merged":
        return f"{row.domain} {body['survivor']}"
    return str(body["affinity"] if row.kind == "grouped" else body["survivor"])
