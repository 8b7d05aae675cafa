"""Patients in SQL: what happened (events), the source records with their demographics, links, groups, answered messages.

The event log holds everything needed to rebuild the other tables as they were at any moment; they are its present state:
`fed` demographics, `linked` all that is linked to a record by comparison from then on, `stated` all that is linked to it
explicitly, because a source named both ids in one feed, `merged` a retired id (its explicit links move on), `grouped` the
affinity-domain id of a record, `joined` an affinity-domain id that lives on as another.
Times are seconds since the epoch. A group's value is the person's id in the affinity domain; `patient_message` keeps the
answers to the last `KEPT_MESSAGES` feeds, so that a feed sent again is not worked off again.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from broker.db import Prepared, metadata, sql
from broker.model.ids import PatientId
from broker.model.people import Address, Demographics, PersonName
from broker.model.ports import Unit

ACTIVE, RETIRED = "active", "retired"
AUTOMATIC, EXPLICIT = "automatic", "explicit"
KEPT_MESSAGES = 10_000
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: nothing that is read as something else

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

link = sa.Table(                                                # positive links; a_id < b_id
    "patient_link", metadata,
    sa.Column("a_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
    sa.Column("b_id", sa.Integer, sa.ForeignKey("patient_identity.id"), primary_key=True),
    sa.Column("kind", sa.String(10), nullable=False),           # automatic | explicit
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("ix_patient_link_b_id", "b_id"),
)

event = sa.Table(
    "patient_event", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),           # fed | linked | stated | merged | grouped | joined
    sa.Column("domain", sa.String(64), nullable=False),
    sa.Column("value", sa.String(250), nullable=False),
    sa.Column("sender", sa.Text, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Index("ix_patient_event_domain_value", "domain", "value"),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One source record: an id of a domain and what its source last said of the person."""

    id: int
    patient: PatientId
    active: bool
    survivor: int | None
    group: int | None
    person: Demographics
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One person as the index sees it; `value` is the affinity-domain id."""

    id: int
    value: str
    active: bool
    survivor: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, told of `patient`."""

    at: float
    kind: str
    patient: PatientId
    sender: str = ""
    message_id: str = ""
    body: dict[str, Any]


def find(unit: Unit, patient: PatientId) -> Identity | None:
    """Return the source record of a local id, retired or not."""
    where = (identity.c.domain == patient.domain) & (identity.c.value == patient.value)
    row = sql(unit).execute(sa.select(identity).where(where)).first()
    return _identity(row) if row else None


def get(unit: Unit, identity_id: int) -> Identity:
    """Return a source record by its key."""
    return _identity(sql(unit).execute(sa.select(identity).where(identity.c.id == identity_id)).one())


def survivor(unit: Unit, found: Identity) -> Identity:
    """Return the active record at the end of the merges, `found` itself when it is active."""
    while not found.active and found.survivor is not None:
        found = get(unit, found.survivor)
    return found


def members(unit: Unit, groups: Iterable[int]) -> list[Identity]:
    """Return the active records of these groups, oldest first."""
    query = sa.select(identity).where(identity.c.group_id.in_(list(groups)), identity.c.state == ACTIVE)
    return [_identity(row) for row in sql(unit).execute(query.order_by(identity.c.id))]


def candidates(unit: Unit, keys: Iterable[tuple[str, str]]) -> list[Identity]:
    """Return the active records that have one of these blocking keys, oldest first."""
    wanted = [(key.c.kind == kind) & (key.c.value == value) for kind, value in keys]
    if not wanted:
        return []
    ids = sa.select(key.c.identity_id).where(sa.or_(*wanted))
    query = sa.select(identity).where(identity.c.id.in_(ids), identity.c.state == ACTIVE).order_by(identity.c.id)
    return [_identity(row) for row in sql(unit).execute(query)]


def save(unit: Unit, patient: PatientId, person: Demographics, keys: Iterable[tuple[str, str]], message_id: str) -> Identity:
    """Write a source record, new or known, with its blocking keys; return it."""
    connection, now = sql(unit), time.time()
    values = {"demographics": asdict(person), "message_id": message_id, "updated_at": now}
    known = find(unit, patient)
    if known is None:
        row = {"domain": patient.domain, "value": patient.value, "state": ACTIVE, "created_at": now, **values}
        number = connection.execute(sa.insert(identity).values(row).returning(identity.c.id)).scalar_one()
    else:
        number = known.id
        connection.execute(sa.update(identity).where(identity.c.id == number).values(values))
    connection.execute(sa.delete(key).where(key.c.identity_id == number))
    rows = [{"identity_id": number, "kind": kind, "value": value} for kind, value in sorted(keys)]
    if rows:
        connection.execute(sa.insert(key), rows)
    return get(unit, number)


def retired_into(unit: Unit, number: int) -> list[PatientId]:
    """Return the ids merged into this record, one after the other and through each other."""
    found: list[PatientId] = []
    wave = [number]
    while wave:
        columns = sa.select(identity.c.id, identity.c.domain, identity.c.value).where(identity.c.survivor_id.in_(wave))
        rows = sql(unit).execute(columns).all()
        found += [PatientId(row.domain, row.value) for row in rows]
        wave = [row.id for row in rows]
    return found


def retire(unit: Unit, retired: Identity, into: Identity) -> None:
    """Retire a record in favour of another; its keys end, its explicit links move to the survivor.

    What comparison found of the retired one is no evidence about the survivor, whose own record is compared.
    """
    connection = sql(unit)
    values = {"state": RETIRED, "survivor_id": into.id, "group_id": None, "updated_at": time.time()}
    connection.execute(sa.update(identity).where(identity.c.id == retired.id).values(values))
    connection.execute(sa.delete(key).where(key.c.identity_id == retired.id))
    inherited = explicit_links(unit, retired.id) - {into.id}
    connection.execute(sa.delete(link).where(_touches(retired.id)))
    for other in inherited:
        set_link(unit, into.id, other, EXPLICIT)


def _touches(number: int) -> sa.ColumnElement[bool]:
    return (link.c.a_id == number) | (link.c.b_id == number)


def explicit_links(unit: Unit, number: int) -> set[int]:
    """Return the records to which this one is linked explicitly."""
    rows = sql(unit).execute(sa.select(link.c.a_id, link.c.b_id).where(_touches(number), link.c.kind == EXPLICIT))
    return {row.a_id + row.b_id - number for row in rows}


def drop_automatic_links(unit: Unit, number: int) -> set[int]:
    """Take back what was linked to this record by comparison; return the records at the other ends."""
    where = sa.and_(_touches(number), link.c.kind == AUTOMATIC)
    rows = sql(unit).execute(sa.select(link.c.a_id, link.c.b_id).where(where)).all()
    sql(unit).execute(sa.delete(link).where(where))
    return {row.a_id + row.b_id - number for row in rows}


def drop_link(unit: Unit, one: int, other: int) -> None:
    """Take back the link of two records, of whatever kind."""
    sql(unit).execute(sa.delete(link).where(link.c.a_id == min(one, other), link.c.b_id == max(one, other)))


def set_link(unit: Unit, one: int, other: int, kind: str) -> str:
    """Link two records and return the kind of their link: an explicit one stays explicit."""
    connection, pair = sql(unit), {"a_id": min(one, other), "b_id": max(one, other)}
    where = (link.c.a_id == pair["a_id"]) & (link.c.b_id == pair["b_id"])
    known = connection.execute(sa.select(link.c.kind).where(where)).scalar()
    if known is None:
        connection.execute(sa.insert(link).values(**pair, kind=kind, at=time.time()))
    elif kind == EXPLICIT != known:
        connection.execute(sa.update(link).where(where).values(kind=kind, at=time.time()))
    return EXPLICIT if known == EXPLICIT else kind


def links_between(unit: Unit, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the links whose both ends are among these records."""
    query = sa.select(link.c.a_id, link.c.b_id).where(link.c.a_id.in_(numbers), link.c.b_id.in_(numbers))
    return [(row.a_id, row.b_id) for row in sql(unit).execute(query)]


_FIND_GROUP = Prepared(sa.select(group.c.id, group.c.value, group.c.state, group.c.survivor_id).where(
    group.c.value == sa.bindparam("value", type_=sa.String())))


def new_group(unit: Unit) -> Group:
    """Return a new person with a new affinity-domain id: 75 random bits in 15 characters, as many as a v2.5 CX.1 holds."""
    value = "".join(secrets.choice(_LETTERS) for _ in range(15))
    row = {"value": value, "state": ACTIVE, "created_at": time.time()}
    number = sql(unit).execute(sa.insert(group).values(row).returning(group.c.id)).scalar_one()
    return Group(id=number, value=value, active=True, survivor=None)


def get_group(unit: Unit, number: int) -> Group:
    """Return a group by its key."""
    return _group(sql(unit).execute(sa.select(group).where(group.c.id == number)).one())


def find_group(unit: Unit, value: str) -> Group | None:
    """Return the group with this affinity-domain id, retired or not."""
    for number, name, state, survivor in _FIND_GROUP.rows(unit, {"value": value}):
        return Group(id=number, value=name, active=state == ACTIVE, survivor=survivor)
    return None


def group_survivor(unit: Unit, found: Group) -> Group:
    """Return the active group at the end of the joins, `found` itself when it is active."""
    while not found.active and found.survivor is not None:
        found = get_group(unit, found.survivor)
    return found


def retire_group(unit: Unit, number: int, into: int) -> None:
    """Retire an affinity-domain id in favour of another."""
    sql(unit).execute(sa.update(group).where(group.c.id == number).values(state=RETIRED, survivor_id=into))


def put_in_group(unit: Unit, identities: Sequence[int], number: int) -> None:
    """Let these records belong to a group."""
    sql(unit).execute(sa.update(identity).where(identity.c.id.in_(identities)).values(group_id=number))


def tell(unit: Unit, happened: Event) -> None:
    """Append to the event log."""
    sql(unit).execute(sa.insert(event).values(
        at=happened.at, kind=happened.kind, domain=happened.patient.domain, value=happened.patient.value,
        sender=happened.sender, message_id=happened.message_id, body=happened.body))


def answered(unit: Unit, sender: str, control_id: str, digest: str) -> bytes | None:
    """Return the answer to this message of this sender, when the very same bytes were answered before."""
    where = (message.c.sender == sender) & (message.c.control_id == control_id) & (message.c.digest == digest)
    return sql(unit).execute(sa.select(message.c.reply).where(where)).scalar()


def keep_answer(unit: Unit, sender: str, control_id: str, digest: str, reply: bytes) -> None:
    """Keep an answer; an older one to the same control id, and answers beyond `KEPT_MESSAGES`, go."""
    connection = sql(unit)
    connection.execute(sa.delete(message).where(message.c.sender == sender, message.c.control_id == control_id))
    row = {"sender": sender, "control_id": control_id, "digest": digest, "reply": reply, "at": time.time()}
    number = connection.execute(sa.insert(message).values(row).returning(message.c.id)).scalar_one()
    connection.execute(sa.delete(message).where(message.c.id <= number - KEPT_MESSAGES))


def _group(row: sa.Row[Any]) -> Group:
    return Group(id=row.id, value=row.value, active=row.state == ACTIVE, survivor=row.survivor_id)


def _identity(row: sa.Row[Any]) -> Identity:
    return Identity(
        id=row.id, patient=PatientId(row.domain, row.value), active=row.state == ACTIVE, survivor=row.survivor_id,
        group=row.group_id, person=person_of(row.demographics), created_at=row.created_at)


def person_of(body: dict[str, Any]) -> Demographics:
    """Return demographics from their stored form."""
    return Demographics(
        names=tuple(PersonName(**name) for name in body["names"]),
        birth_date=body["birth_date"],
        sex=body["sex"],
        mother=PersonName(**body["mother"]) if body["mother"] else None,
        addresses=tuple(Address(**address) for address in body["addresses"]),
        phones=tuple(body["phones"]),
        other_ids=tuple((domain, value) for domain, value in body["other_ids"]),
    )
