"""Tables of the imaging actor. Times are seconds since the epoch; text is decoded."""

import sqlalchemy as sa

from broker.db import metadata
from broker.db.compact import Compact

study = sa.Table(
    "study", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("hospital", sa.String(64), nullable=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("tier", sa.String(8), nullable=False),        # online | archive | origin: where its owner copy is
    sa.Column("state", sa.String(12), nullable=False),      # receiving | complete | packing | dropping
    sa.Column("patient_domain", sa.String(64), nullable=False),
    sa.Column("patient_value", sa.String(250), nullable=False),
    sa.Column("study_date", sa.String(8), nullable=False),
    sa.Column("accession", sa.String(64), nullable=False),
    sa.Column("objects", sa.Integer, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("first_at", sa.Float, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False),         # last object
    sa.Column("used_at", sa.Float, nullable=False),         # last retrieve
    sa.Column("part", sa.Integer, nullable=False, server_default="0"),  # 0; others hold what was settled for another patient
    sa.Column("facts", Compact, nullable=False, server_default=""),     # decoded study-level tags by DICOM keyword
    sa.UniqueConstraint("study_uid", "hospital", "part", name="uq_study_study_uid_hospital_part"),
    sa.Index("ix_study_state_last_at", "state", "last_at"),
    sa.Index("ix_study_patient", "patient_domain", "patient_value"),
    sa.Index("ix_study_due", "tier", "state", "objects", "study_date"),
)

series = sa.Table(
    "series", metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("series_uid", sa.String(64), primary_key=True),
    sa.Column("modality", sa.String(16), nullable=False),
    sa.Column("body_part", sa.String(64), nullable=False),
    sa.Column("description", sa.String(250), nullable=False),
    sqlite_with_rowid=False,    # one tree, its key, instead of a table and an index with the UIDs once more
)

instance = sa.Table(
    "instance", metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("sop_uid", sa.String(64), primary_key=True),
    sa.Column("series_uid", sa.String(64), nullable=False),
    sa.Column("sop_class", sa.String(64), nullable=False),
    sa.Column("transfer_syntax", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),             # relative to the online folder
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("ix_instance_sop_uid", "sop_uid"),
)

conflict_case = sa.Table(                                   # what does not agree with its study, until somebody settles it
    "conflict_case", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False),   # the study it came for, part 0
    sa.Column("kind", sa.String(12), nullable=False),       # patient | correction | bytes
    sa.Column("patient_domain", sa.String(64), nullable=False),     # whom the objects name
    sa.Column("patient_value", sa.String(250), nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),            # what the objects say of their study, by DICOM keyword
    sa.Column("catalogue", sa.LargeBinary),                 # an origin's answer that was not believed, as in `catalogue`
    sa.Column("state", sa.String(8), nullable=False),       # open | assigned | rejected
    sa.Column("first_at", sa.Float, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False),
    sa.Column("decided_at", sa.Float, nullable=False),
    sa.Column("decided_by", sa.Text, nullable=False),
    sa.Column("decision", sa.JSON, nullable=False),         # what `undo` needs
    sa.Index("ix_conflict_case_study_id", "study_id"),
    sa.Index("ix_conflict_case_state", "state", "kind"),
)

conflict = sa.Table(                                        # an object kept aside
    "conflict", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("hospital", sa.String(64), nullable=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("sop_uid", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("case_id", sa.Integer),
    sa.Column("study_id", sa.Integer),                      # where it is or was shown
    sa.Column("role", sa.String(4), nullable=False, server_default="came"),     # came | was: what a decision replaced
    sa.Column("series_uid", sa.String(64), nullable=False, server_default=""),
    sa.Column("sop_class", sa.String(64), nullable=False, server_default=""),
    sa.Column("transfer_syntax", sa.String(64), nullable=False, server_default=""),
    sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_conflict_case_id", "case_id"),
    sa.Index("ix_conflict_sop_uid", "sop_uid"),
)

catalogue = sa.Table(                                       # what an origin says its study holds
    "catalogue", metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),      # zlib JSON: [[series uid, sop uid, sop class], ...]
    sa.Column("at", sa.Float, nullable=False),
)

container = sa.Table(
    "container", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False),
    sa.Column("path", sa.Text, nullable=False),             # relative to the archive
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("images", sa.Integer, nullable=False),
    sa.Column("state", sa.String(12), nullable=False),      # current | retired
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("verified_at", sa.Float, nullable=False, server_default="0"),     # last read through, first when it was packed
    sa.Index("ix_container_study_id", "study_id"),
    sa.Index("ix_container_verified_at", "verified_at"),
)

damage = sa.Table(                                          # what is not what was packed
    "damage", metadata,
    sa.Column("container", sa.String(200), primary_key=True),   # its path
    sa.Column("sop_uid", sa.String(64), primary_key=True),  # a picture of it; empty = the container itself
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("found_at", sa.Float, nullable=False),
    sa.Column("mended_at", sa.Float, nullable=False),       # 0 = not yet
    sa.Index("ix_damage_study_id", "study_id"),
)

retain = sa.Table(                                          # what an operator keeps: every part of the study of one hospital
    "retain", metadata,
    sa.Column("hospital", sa.String(64), primary_key=True),
    sa.Column("study_uid", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(4), primary_key=True),      # hold: no copy is removed | pin: it is kept online
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("set_by", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

recall = sa.Table(                                          # a packed study of which a copy is, or is to be, near
    "recall", metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("state", sa.String(8), nullable=False),       # wanted | near
    sa.Column("path", sa.Text, nullable=False),             # the container that was copied; empty = none yet
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("why", sa.String(8), nullable=False),         # asked | reads | pin
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),           # it may go when this is over and nobody retrieved it lately
    sa.Index("ix_recall_state_until", "state", "until"),
)

study_use = sa.Table(                                       # retrieves of packed studies, by day, where a rule counts them
    "study_use", metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),         # days since the epoch
    sa.Column("times", sa.Integer, nullable=False),
    sa.Index("ix_study_use_day", "day"),
)

publication = sa.Table(
    "publication", metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),      # see store/publications.py
    sa.Column("patient_domain", sa.String(64), nullable=False),
    sa.Column("patient_value", sa.String(250), nullable=False),
    sa.Column("manifest_uid", sa.String(64), nullable=False),
    sa.Column("entry_uuid", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),     # of the instance list that was published
    sa.Column("entry_patient", sa.Text, nullable=False, server_default=""),     # whom it is registered for (CX)
    sa.Column("again", sa.Integer, nullable=False, server_default="0"),     # 1: what was settled since is not in a draft yet
    sa.Column("restored", sa.Integer, nullable=False, server_default="0"),  # 1: from a container; to be registered as it was
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary),                  # a manifest whose fate is not known yet, as it was sent
    sa.Column("submission", sa.LargeBinary),                # and the SubmitObjectsRequest it went with
    sa.Index("ix_publication_state_next_at", "state", "next_at"),
    sa.Index("ix_publication_patient", "patient_domain", "patient_value"),
    sa.Index("ix_publication_entry_patient", "entry_patient"),
)

fetch_job = sa.Table(
    "fetch_job", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("hospital", sa.String(64), nullable=False),
    sa.Column("study_uid", sa.String(64), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),       # queued | running | done | failed
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("beat_at", sa.Float, nullable=False),         # the owner lives
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("ix_fetch_job_state", "state"),
    sa.Index("ix_fetch_job_study_uid", "study_uid"),
)

fetch_want = sa.Table(
    "fetch_want", metadata,
    sa.Column("job_id", sa.Integer, sa.ForeignKey("fetch_job.id"), primary_key=True),
    sa.Column("sop_uid", sa.String(64), primary_key=True),
    sa.Column("series_uid", sa.String(64), nullable=False),
    sa.Column("landed", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),    # why this one will not come; empty = it may
)

setback = sa.Table(                                         # what background work could not do
    "setback", metadata,
    sa.Column("work", sa.String(16), primary_key=True),     # complete | pack | evict | sweep | index | verify | mend
    sa.Column("subject", sa.String(400), primary_key=True), # a study's id, or a path
    sa.Column("hospital", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("first_at", sa.Float, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
)
