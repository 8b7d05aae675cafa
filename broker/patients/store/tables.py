"""Tables of the patient index. Times are seconds since the epoch; a group's value is the person's id in the affinity domain.

`patient_event` is the truth: it holds everything needed to rebuild records, links and groups as they were at any moment
(`projection`). `patient_message` keeps the answers to the last feeds, so that a feed sent again is not worked off again.
"""

import sqlalchemy as sa

from broker.db import metadata

ACTIVE, RETIRED = "active", "retired"

group = sa.Table(
    "patient_group", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("value", sa.String(32), nullable=False),          # the id in the affinity domain
    sa.Column("state", sa.String(8), nullable=False),           # active | retired
    sa.Column("survivor_id", sa.Integer, sa.ForeignKey("patient_group.id")),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("value"),
)

identity = sa.Table(
    "patient_identity", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("domain", sa.String(64), nullable=False),
    sa.Column("value", sa.String(250), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),           # active | retired
    sa.Column("survivor_id", sa.Integer, sa.ForeignKey("patient_identity.id")),
    sa.Column("group_id", sa.Integer, sa.ForeignKey("patient_group.id")),   # of an active one
    sa.Column("demographics", sa.JSON, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False),           # of the last feed
    sa.Column("said_at", sa.Float),                             # when its sender knew it; null = it did not say
    sa.Column("said_by", sa.Text, nullable=False, server_default=""),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.UniqueConstraint("domain", "value"),
    sa.Index("ix_patient_identity_group_id", "group_id"),
    sa.Index("ix_patient_identity_survivor_id", "survivor_id"),
)

key = sa.Table(                                                 # blocking keys of active identities
    "patient_key", metadata,
    sa.Column("identity_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("value", sa.String(32), primary_key=True),
    sa.Index("ix_patient_key_kind_value", "kind", "value"),
)

term = sa.Table(                                                # search terms of active identities (`patients.terms`)
    "patient_term", metadata,
    sa.Column("kind", sa.String(8), primary_key=True),
    # Compared byte by byte, so that what begins with a text is one range of the index.
    sa.Column("value", sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql"), primary_key=True),
    sa.Column("identity_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
    sqlite_with_rowid=False,
)

hits = sa.Table(                                                # persons found, of whom further pages may be asked for
    "patient_hits", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("asker", sa.String(64), nullable=False),          # digest of who asked, and of the query's tag or id
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("given", sa.Integer, nullable=False),             # how many were answered, the last page included
    sa.Column("body", sa.JSON, nullable=False),
    sa.Index("ix_patient_hits_asker_token", "asker", "token"),
    sa.Index("ix_patient_hits_expires_at", "expires_at"),
)

link = sa.Table(                                                # positive links; a_id < b_id
    "patient_link", metadata,
    sa.Column("a_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
    sa.Column("b_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
    sa.Column("kind", sa.String(10), nullable=False),           # automatic | explicit
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("ix_patient_link_b_id", "b_id"),
)

decision = sa.Table(                                            # what somebody decided for good; a_id < b_id
    "patient_decision", metadata,
    sa.Column("a_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
    sa.Column("b_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
    sa.Column("kind", sa.String(5), nullable=False),            # same | apart
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("ix_patient_decision_b_id", "b_id"),
)

event = sa.Table(
    "patient_event", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),           # `patients.events`
    sa.Column("domain", sa.String(64), nullable=False),
    sa.Column("value", sa.String(250), nullable=False),
    sa.Column("sender", sa.Text, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("about", sa.String(320)),                         # another id it tells of, by which it is found, too
    sa.Index("ix_patient_event_domain_value", "domain", "value"),
    sa.Index("ix_patient_event_about", "about"),
)

message = sa.Table(
    "patient_message", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sender", sa.Text, nullable=False),
    sa.Column("control_id", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("reply", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.UniqueConstraint("sender", "control_id"),
)

notification = sa.Table(                                        # what consumers are told
    "patient_notification", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("consumer", sa.String(64), nullable=False),       # its key in the profile
    sa.Column("transaction", sa.String(8), nullable=False),     # ITI-8 | ITI-10 | ITI-46 | ITI-64
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("control_id", sa.String(20), nullable=False),
    sa.Column("state", sa.String(10), nullable=False),          # waiting | delivered | refused
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("done_at", sa.Float),
    sa.Index("ix_patient_notification_consumer", "consumer", "state", "id"),
)
