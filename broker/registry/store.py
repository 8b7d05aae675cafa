"""Registry objects in SQL: each object's canonical XML as bytes, beside the columns stored queries search.

Search columns: codes are `code^^scheme`, times are as submitted, at any precision, a patient is the CX text
of `PatientId`, text that people wrote is in Unicode NFC. Callers of a writing function hold
the locks of the patient and of the uniqueIds and entryUUIDs they bring (`broker.db.Lock`).
"""

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from broker.db import Prepared, batches, metadata, sql, unanswered
from broker.model.ids import PatientId
from broker.model.metadata import (
    APND,
    APPROVED,
    HAS_MEMBER,
    XFRM,
    Association,
    Code,
    DocumentEntry,
    Folder,
    SubmissionSet,
)
from broker.model.ports import Unit
from broker.wire import ebxml_stored
from broker.wire.ebxml_stored import RegisteredObjects

DOCUMENT, SUBMISSION, FOLDER, ASSOCIATION = "document", "submission", "folder", "association"

registry_object = sa.Table(
    "registry_object", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("uuid", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),       # document | submission | folder | association
    sa.Column("patient", sa.Text, nullable=False),          # an association's is that of its submission
    sa.Column("submitted_as", sa.Text, nullable=False),     # the patient before any merge
    sa.Column("status", sa.String(64), nullable=False),
    sa.Column("unique_id", sa.String(256), nullable=False),
    sa.Column("confidentiality", sa.Text, nullable=False),  # codes, one a line
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("uuid"),
    sa.Index("ix_registry_object_patient_kind", "patient", "kind", "status"),
    sa.Index("ix_registry_object_unique_id", "unique_id"),
)

registry_entry = sa.Table(
    "registry_entry", metadata,
    sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
    sa.Column("object_type", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(40), nullable=False),       # lower case
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("creation_time", sa.String(14), nullable=False),
    sa.Column("service_start_time", sa.String(14), nullable=False),
    sa.Column("service_stop_time", sa.String(14), nullable=False),
)

registry_submission = sa.Table(
    "registry_submission", metadata,
    sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
    sa.Column("source_id", sa.String(64), nullable=False),
    sa.Column("submission_time", sa.String(14), nullable=False),
)

registry_folder = sa.Table(
    "registry_folder", metadata,
    sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
    sa.Column("last_update_time", sa.String(14), nullable=False),
)

registry_association = sa.Table(
    "registry_association", metadata,
    sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
    sa.Column("type", sa.String(256), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("target", sa.String(64), nullable=False),
    sa.Index("ix_registry_association_source", "source"),
    sa.Index("ix_registry_association_target", "target"),
)

registry_code = sa.Table(
    "registry_code", metadata,
    sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
    sa.Column("attribute", sa.String(32), primary_key=True),
    sa.Column("code", sa.Text, primary_key=True),
)

registry_author = sa.Table(
    "registry_author", metadata,
    sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
    sa.Column("person", sa.Text, primary_key=True),
)

registry_reference = sa.Table(
    "registry_reference", metadata,
    sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
    sa.Column("reference", sa.Text, primary_key=True),
)

patient_alias = sa.Table(                                   # ids merged away, each with the id that took its place
    "patient_alias", metadata,
    sa.Column("retired", sa.Text, primary_key=True),
    sa.Column("survivor", sa.Text, nullable=False),
    sa.Column("last_object", sa.Integer),                   # newest registry_object at that time; null = not known
)

registry_moved = sa.Table(                                  # what was registered for an id when it was merged away
    "registry_moved", metadata,
    sa.Column("object_id", sa.Integer, sa.ForeignKey("registry_object.id"), primary_key=True),
    sa.Column("retired", sa.Text, primary_key=True),
    sa.Index("ix_registry_moved_retired", "retired"),
)


_object, _link = registry_object.c, registry_association.c
_keys = sa.bindparam("keys", expanding=True, type_=sa.String())
_tables = (registry_entry, registry_submission, registry_folder, registry_association, registry_code, registry_author,
           registry_reference)

# What every registration runs.
_SUMMARIES = Prepared(sa.select(
    _object.uuid, _object.kind, _object.status, _object.patient, sa.func.coalesce(registry_entry.c.object_type, ""),
).select_from(registry_object.outerjoin(registry_entry)).where(_object.uuid.in_(_keys)))
_USES = Prepared(sa.select(_object.unique_id, registry_entry.c.hash, registry_entry.c.size).select_from(
    registry_object.outerjoin(registry_entry)).where(_object.unique_id.in_(_keys)))
_RELATIONS = Prepared(sa.select(_link.source, _link.type).where(_link.type != HAS_MEMBER, _link.source.in_(_keys)))
_ATTACHED = Prepared(sa.select(_link.source).where(_link.type.in_((XFRM, APND)), _link.target.in_(_keys)))
_HOLDING = Prepared(sa.select(_link.source, _link.target).where(_link.type == HAS_MEMBER, _link.target.in_(_keys)))
_RETIRED = Prepared(sa.select(patient_alias.c.retired).where(
    patient_alias.c.retired == sa.bindparam("patient", type_=sa.Text())))
_INSERT = Prepared(sa.insert(registry_object).returning(_object.uuid, _object.id))
_INSERT_SIDE = {table.name: Prepared(sa.insert(table)) for table in _tables}


class ObjectSummary(NamedTuple):
    """What is known of a registered object without reading it. `object_type` is the entry type, else empty."""

    uuid: str
    kind: str
    status: str
    patient: str
    object_type: str


def nfc(text: str) -> str:
    """Return the text in the normal form in which search columns and query parameters are compared (ITI TF-3 4.2.3.1)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def summaries(unit: Unit, uuids: Iterable[str]) -> dict[str, ObjectSummary]:
    """Return what is known of those objects that are registered."""
    return {row[0]: ObjectSummary(*row) for row in _SUMMARIES.rows_of(unit, "keys", uuids)}


def uses(unit: Unit, unique_ids: Iterable[str]) -> list[tuple[str, str | None, int | None]]:
    """Return (uniqueId, hash, size) of every registered object with one of these uniqueIds; only an entry has the latter two."""
    return [(row[0], row[1], row[2]) for row in _USES.rows_of(unit, "keys", unique_ids)]


def entry(unit: Unit, uuid: str) -> DocumentEntry | None:
    """Return a registered DocumentEntry as it is shown now, or None when there is none of this entryUUID."""
    wanted = sa.select(_object.body).where(_object.uuid == uuid, _object.kind == DOCUMENT)
    body = sql(unit).scalar(wanted)
    return None if body is None else ebxml_stored.read_entry(body)


def relations_of(unit: Unit, uuids: Iterable[str]) -> list[tuple[str, str]]:
    """Return (entryUUID, associationType) for every relationship that leads from one of these entries."""
    return [(row[0], row[1]) for row in _RELATIONS.rows_of(unit, "keys", uuids)]


def attached(unit: Unit, uuids: Iterable[str]) -> set[str]:
    """Return the entries attached to these by XFRM or APND, and what is attached to those, and so on."""
    found: set[str] = set()
    wave = set(uuids)
    while wave:
        wave = {row[0] for row in _ATTACHED.rows_of(unit, "keys", wave)} - found
        found |= wave
    return found


def folders_holding(unit: Unit, uuids: Iterable[str]) -> list[tuple[ObjectSummary, str]]:
    """Return (folder, member) for every Approved folder that holds one of these entries."""
    pairs = [(row[0], row[1]) for row in _HOLDING.rows_of(unit, "keys", uuids)]
    sources = summaries(unit, (source for source, _ in pairs))
    return [
        (sources[source], member) for source, member in dict.fromkeys(pairs)
        if source in sources and sources[source].kind == FOLDER and sources[source].status == APPROVED
    ]


def retired(unit: Unit, patient: PatientId) -> bool:
    """Say whether this id was merged away."""
    return bool(_RETIRED.rows(unit, {"patient": str(patient)}))


def retire(unit: Unit, patient: PatientId, survivor: PatientId) -> None:
    """Remember that `patient` lives on as `survivor`."""
    sql(unit).execute(sa.delete(patient_alias).where(patient_alias.c.retired == str(patient)))
    sql(unit).execute(sa.insert(patient_alias).values(
        retired=str(patient), survivor=str(survivor), last_object=sa.select(sa.func.max(_object.id)).scalar_subquery()))


def change(unit: Unit, uuids: Iterable[str], *, status: str = "", last_update_time: str = "") -> None:
    """Change an attribute of registered objects: the search columns and the stored bytes alike."""
    table = registry_object
    for batch in batches(uuids):
        for row in sql(unit).execute(sa.select(table.c.id, table.c.body).where(table.c.uuid.in_(batch))).all():
            body = ebxml_stored.with_attributes(row.body, status=status, last_update_time=last_update_time)
            columns = {"body": body, **({"status": status} if status else {})}
            sql(unit).execute(sa.update(table).where(table.c.id == row.id).values(columns))
            if last_update_time:
                sql(unit).execute(sa.update(registry_folder).where(registry_folder.c.object_id == row.id).values(
                    last_update_time=last_update_time))


def move(unit: Unit, patient: PatientId, survivor: PatientId) -> None:
    """Return everything of `patient` to `survivor`, who is then shown in every patientId (ITI TF-2 3.18.4.1.3)."""
    table = registry_object
    sql(unit).execute(sa.delete(registry_moved).where(registry_moved.c.retired == str(patient)))
    sql(unit).execute(sa.insert(registry_moved).from_select(
        ["object_id", "retired"], sa.select(table.c.id, sa.literal(str(patient))).where(table.c.patient == str(patient))))
    columns = sa.select(table.c.id, table.c.body).where(table.c.patient == str(patient))
    for row in sql(unit).execute(columns.where(table.c.kind != ASSOCIATION)).all():
        body = ebxml_stored.with_attributes(row.body, patient_id=str(survivor))
        sql(unit).execute(sa.update(table).where(table.c.id == row.id).values(body=body))
    sql(unit).execute(sa.update(table).where(table.c.patient == str(patient)).values(patient=str(survivor)))


def move_back(unit: Unit, patient: PatientId, survivor: PatientId) -> set[str]:
    """Return to an id what was registered for it when it was merged away and is `survivor`'s now; the entryUUIDs of documents."""
    its = sa.select(registry_moved.c.object_id).where(registry_moved.c.retired == str(patient))
    rows = sql(unit).execute(sa.select(_object.id, _object.uuid, _object.kind).where(
        _object.id.in_(its), _object.patient == str(survivor))).all()
    give(unit, [row.uuid for row in rows], patient)
    for batch in batches(row.id for row in rows):
        sql(unit).execute(sa.delete(registry_moved).where(registry_moved.c.object_id.in_(batch)))
    return {row.uuid for row in rows if row.kind == DOCUMENT}


def revive(unit: Unit, patient: PatientId) -> int:
    """Forget that an id lives on as another one; return the number of the newest object when that began, 0 when unknown."""
    number = sql(unit).scalar(sa.select(patient_alias.c.last_object).where(patient_alias.c.retired == str(patient)))
    sql(unit).execute(sa.delete(patient_alias).where(patient_alias.c.retired == str(patient)))
    return number or 0


def unsourced(unit: Unit, patient: PatientId, since: int, sources: Collection[PatientId]) -> tuple[str, ...]:
    """Return the entryUUIDs of a patient's documents that are newer than object `since` and of none of these source patients."""
    known = set(map(str, sources))
    wanted = sa.select(_object.body).where(_object.patient == str(patient), _object.kind == DOCUMENT, _object.id > since)
    entries = map(ebxml_stored.read_entry, sql(unit).scalars(wanted))
    return tuple(entry.id for entry in entries if entry.source_patient_id not in known)


def documents_of(unit: Unit, patient: PatientId) -> list[DocumentEntry]:
    """Return every DocumentEntry of a patient, whatever its status."""
    wanted = sa.select(_object.body).where(_object.patient == str(patient), _object.kind == DOCUMENT)
    return [ebxml_stored.read_entry(body) for body in sql(unit).scalars(wanted)]


def submission_set(unit: Unit, uuid: str) -> SubmissionSet:
    """Return a registered SubmissionSet."""
    return ebxml_stored.read_submission_set(sql(unit).execute(sa.select(_object.body).where(_object.uuid == uuid)).scalar_one())


def links_of(unit: Unit, uuids: Iterable[str]) -> list[Association]:
    """Return the associations that have one of these objects as an end: id, type and ends."""
    found: dict[str, Association] = {}
    for batch in batches(uuids):
        ends = _link.source.in_(batch) | _link.target.in_(batch)
        columns = sa.select(_object.uuid, _link.type, _link.source, _link.target)
        rows = sql(unit).execute(columns.join_from(registry_association, registry_object).where(ends))
        found |= {row.uuid: Association(id=row.uuid, type=row.type, source=row.source, target=row.target) for row in rows}
    return list(found.values())


def give(unit: Unit, uuids: Iterable[str], patient: PatientId) -> None:
    """Move objects to another patient, whom they then show as theirs; an association shows nobody."""
    for batch in batches(uuids):
        here = _object.uuid.in_(batch)
        for row in sql(unit).execute(sa.select(_object.id, _object.body).where(here, _object.kind != ASSOCIATION)).all():
            body = ebxml_stored.with_attributes(row.body, patient_id=str(patient))
            sql(unit).execute(sa.update(registry_object).where(_object.id == row.id).values(body=body))
        sql(unit).execute(sa.update(registry_object).where(here).values(patient=str(patient)))


def remove_links(unit: Unit, uuids: Iterable[str]) -> None:
    """Take associations out of the registry."""
    for batch in batches(uuids):
        keys = sa.select(_object.id).where(_object.uuid.in_(batch), _object.kind == ASSOCIATION)
        sql(unit).execute(sa.delete(registry_association).where(_link.object_id.in_(keys)))
        sql(unit).execute(sa.delete(registry_moved).where(registry_moved.c.object_id.in_(keys)))
        sql(unit).execute(sa.delete(registry_object).where(_object.uuid.in_(batch), _object.kind == ASSOCIATION))


def insert(unit: Unit, registered: RegisteredObjects, patient: PatientId, aliases: Mapping[str, str]) -> None:
    """Add registered objects, all of one patient. `aliases` maps designators of coding schemes to their OIDs."""
    rows = _Rows(registered, str(patient), aliases)
    for submission_set in registered.objects.submission_sets:
        rows.submission_set(submission_set)
    for document in registered.objects.documents:
        rows.document(document)
    for folder in registered.objects.folders:
        rows.folder(folder)
    for association in registered.objects.associations:
        rows.association(association)
    rows.insert(unit)


class _Rows:
    """The rows of objects, and those beside them, which name their object by its UUID until it has a key."""

    def __init__(self, registered: RegisteredObjects, patient: str, aliases: Mapping[str, str]) -> None:
        self._registered, self._patient, self._aliases = registered, patient, aliases
        self._objects: list[dict[str, object]] = []
        self._beside: dict[str, list[dict[str, object]]] = {}

    def document(self, entry: DocumentEntry) -> None:
        confidentiality = "\n".join(self._text(code) for code in entry.codes.get("confidentialityCode", ()))
        key = self._object(entry.id, DOCUMENT, entry.unique_id, confidentiality)
        self._add(
            registry_entry, key, object_type=entry.object_type, hash=entry.hash.lower(), size=entry.size or 0,
            creation_time=entry.creation_time, service_start_time=entry.service_start_time,
            service_stop_time=entry.service_stop_time)
        for attribute, codes in entry.codes.items():
            self._codes(key, attribute, codes)
        self._authors(key, entry)
        for reference in dict.fromkeys(map(nfc, entry.reference_id_list)):
            self._add(registry_reference, key, reference=reference)

    def submission_set(self, ss: SubmissionSet) -> None:
        key = self._object(ss.id, SUBMISSION, ss.unique_id)
        self._add(registry_submission, key, source_id=ss.source_id, submission_time=ss.submission_time)
        self._codes(key, "contentTypeCode", (ss.content_type,) if ss.content_type else ())
        self._authors(key, ss)

    def folder(self, folder: Folder) -> None:
        key = self._object(folder.id, FOLDER, folder.unique_id)
        self._add(registry_folder, key, last_update_time=self._registered.now)
        self._codes(key, "codeList", folder.codes)

    def association(self, link: Association) -> None:
        key = self._object(link.id, ASSOCIATION, "")
        self._add(registry_association, key, type=link.type, source=self._registered.uuid(link.source),
                  target=self._registered.uuid(link.target))

    def insert(self, unit: Unit) -> None:
        keys = dict(_INSERT.returned(unit, self._objects))
        with unanswered(unit):
            for table, rows in self._beside.items():
                for row in rows:
                    row["object_id"] = keys[row["object_id"]]
                _INSERT_SIDE[table].insert(unit, rows)

    def _object(self, name: str, kind: str, unique_id: str, confidentiality: str = "") -> str:
        uuid = self._registered.uuid(name)
        self._objects.append({
            "uuid": uuid, "kind": kind, "patient": self._patient, "submitted_as": self._patient, "status": APPROVED,
            "unique_id": unique_id, "confidentiality": confidentiality, "body": self._registered.bodies[uuid]})
        return uuid

    def _codes(self, key: str, attribute: str, codes: Sequence[Code]) -> None:
        for text in dict.fromkeys(map(self._text, codes)):
            self._add(registry_code, key, attribute=attribute, code=text)

    def _authors(self, key: str, thing: DocumentEntry | SubmissionSet) -> None:
        for person in dict.fromkeys(nfc(author.person) for author in thing.authors if author.person):
            self._add(registry_author, key, person=person)

    def _text(self, code: Code) -> str:
        return nfc(f"{code.code}^^{self._aliases.get(code.scheme, code.scheme)}")

    def _add(self, table: sa.Table, key: str, **values: object) -> None:
        self._beside.setdefault(table.name, []).append({"object_id": key, **values})
