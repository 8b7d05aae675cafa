"""The part of the index that one feed is about: loaded from SQL in few statements, changed in memory, written back in few."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from broker.db import Prepared, sql
from broker.matching.block import block_keys
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.patients.events import Decided, Happened, person_of
from broker.patients.notices import Change, Person
from broker.patients.projection import Group, Index, Record
from broker.patients.store import log
from broker.patients.store.tables import ACTIVE, RETIRED, decision, group, identity, key, link, term
from broker.patients.terms import terms

_VERDICTS = frozenset((Decided.SAME, Decided.APART))
Pair = tuple[PatientId, PatientId]

_ADD_TERMS, _ADD_KEYS = Prepared(sa.insert(term)), Prepared(sa.insert(key))
_ADD_GROUP = Prepared(sa.insert(group).returning(group.c.id))
_ADD_IDENTITY = Prepared(sa.insert(identity).returning(identity.c.id))
_REMOVED = 200      # terms of one DELETE: SQLite takes no deeper condition than 1 000
_mine, _into = identity.alias("mine"), identity.alias("into")
_ROWS = sa.select(
    identity, group.c.value.label("affinity"), _into.c.domain.label("into_domain"), _into.c.value.label("into_value"),
    sa.or_(*(sa.exists().where(end == identity.c.id) for end in (decision.c.a_id, decision.c.b_id))).label("is_decided"),
).outerjoin(group, group.c.id == identity.c.group_id).outerjoin(
    _into, _into.c.id == identity.c.survivor_id).order_by(identity.c.id)


class Neighbourhood(Index):
    """What SQL has of the records that are looked at, their groups whole. Nothing is written before `save`.

    Made under `Lock.PATIENT_INDEX` where it is to be saved: nobody else changes it until the unit of work ends.
    """

    def __init__(self, unit: Unit, named: Iterable[PatientId]) -> None:
        super().__init__()
        self._unit = unit
        self._loaded: dict[PatientId, Record] = {}      # as they were
        self._numbers: dict[PatientId, int] = {}        # row ids
        self._group_numbers: dict[str, int] = {}
        self._looked: set[PatientId] = set()
        self._is_decided: set[int] = set()              # row ids of records with decisions
        self._whole: set[str] = set()                   # groups of which all records and links are here
        self._asked: set[tuple[str, str]] = set()       # blocking keys
        self._before: dict[Pair, str] = {}              # links as they were
        self._changed: dict[PatientId, None] = {}
        self._relinked: dict[Pair, None] = {}
        self._verdicts: dict[Pair, str] = {}            # decisions as they were
        self._redecided: dict[Pair, None] = {}
        self._regrouped: dict[str, None] = {}
        self._look(named)

    # -- reading

    def find(self, patient: PatientId) -> Record | None:
        """Return the record of a local id, retired or not."""
        if patient not in self._looked and patient not in self._records:
            self._look([patient])
        return super().find(patient)

    def members(self, groups: Iterable[str]) -> list[Record]:
        """Return the active records of these groups, oldest first."""
        wanted = list(groups)
        self._complete({group for group in wanted if group in self._group_numbers} - self._whole)
        return super().members(wanted)

    def candidates(self, keys: Iterable[tuple[str, str]]) -> list[Record]:
        """Return the active records that have one of these blocking keys, oldest first."""
        wanted = set(keys)
        if new := wanted - self._asked:
            self._asked |= new
            by_kind = {kind: sorted(value for other, value in new if other == kind) for kind, _ in sorted(new)}
            either = sa.or_(*((key.c.kind == kind) & key.c.value.in_(values) for kind, values in by_kind.items()))
            ids = sa.select(key.c.identity_id).where(either)
            self._take(_ROWS.where(identity.c.id.in_(ids), identity.c.state == ACTIVE))
        return super().candidates(wanted)

    def knows_group(self, value: str) -> bool:
        """Say whether an id of the affinity domain is known, retired or not."""
        if not super().knows_group(value):
            heir = group.alias("heir")
            found = sql(self._unit).execute(sa.select(group.c.id, heir.c.value).outerjoin(
                heir, heir.c.id == group.c.survivor_id).where(group.c.value == value)).first()
            if found is not None:
                self._group_numbers[value] = found.id
                super()._put_group(Group(value, found.id, found.value or ""))
        return super().knows_group(value)

    def group(self, value: str) -> Group:
        """Return a group that is known, retired or not."""
        self.knows_group(value)
        return super().group(value)

    def retired_into(self, patient: PatientId) -> list[PatientId]:
        """Return the ids merged into a record, one after the other and through each other."""
        if patient in self._numbers:
            self._take(_ROWS.where(identity.c.survivor_id == self._numbers[patient]))
        return super().retired_into(patient)

    def _look(self, named: Iterable[PatientId]) -> None:
        """Load records by their ids, with the groups they are in."""
        wanted = list(named)
        self._looked.update(wanted)
        its = sa.or_(*((_mine.c.domain == one.domain) & (_mine.c.value == one.value) for one in wanted))
        together = sa.select(identity.c.id).join(_mine, _mine.c.group_id == identity.c.group_id).where(its)
        rows = self._take(_ROWS.where(identity.c.id.in_(sa.union(sa.select(_mine.c.id).where(its), together))))
        self._link_up({row.affinity for row in rows if row.affinity})

    def _complete(self, groups: set[str]) -> None:
        """Load all records and links of groups."""
        if groups:
            numbers = [self._group_numbers[group] for group in groups]
            self._take(_ROWS.where(identity.c.group_id.in_(numbers), identity.c.state == ACTIVE))
            self._link_up(groups)

    def _link_up(self, groups: set[str]) -> None:
        """Load links and decisions of groups whose records are here."""
        self._whole |= groups
        numbers = [self._numbers[one] for one, record in self._loaded.items() if record.group in groups]
        if len(numbers) < 2 and not self._is_decided & set(numbers):    # one alone has no links inside
            return
        rows = sql(self._unit).execute(sa.union_all(*(_of_any(table, numbers) for table in (link, decision)))).all()
        ends = self._by_number({number for row in rows for number in (row.a_id, row.b_id)})
        for row in rows:
            pair = _pair(ends[row.a_id], ends[row.b_id])
            if row.kind in _VERDICTS:
                self._verdicts[pair] = row.kind
                if pair not in self._redecided:
                    super()._decide(*pair, row.kind)
            else:
                self._before[pair] = row.kind
                if pair not in self._relinked:
                    super()._link(*pair, row.kind)

    def _by_number(self, numbers: set[int]) -> dict[int, PatientId]:
        """Return records by the numbers of their rows; what was decided, or is linked in spite of it, may lie in other groups."""
        missing = numbers - set(self._numbers.values())
        if missing:
            self._take(_ROWS.where(identity.c.id.in_(missing)))
        return {number: one for one, number in self._numbers.items() if number in numbers}

    def _take(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Load the rows of a query that are not here yet; return all of them."""
        rows = sql(self._unit).execute(query).all()
        for row in rows:
            patient = PatientId(row.domain, row.value)
            if patient not in self._numbers:
                self._numbers[patient] = row.id
                if row.is_decided:
                    self._is_decided.add(row.id)
                if row.affinity:
                    self._group_numbers[row.affinity] = row.group_id
                    super()._put_group(Group(row.affinity, row.group_id))
                self._loaded[patient] = _record(patient, row)
                super()._put(self._loaded[patient])
        return rows

    # -- changing

    def _put(self, record: Record) -> None:
        self._changed[record.patient] = None
        super()._put(record)

    def _put_group(self, changed: Group) -> None:
        self._regrouped[changed.value] = None
        super()._put_group(changed)

    def _link(self, one: PatientId, other: PatientId, kind: str) -> None:
        self._relinked[_pair(one, other)] = None
        super()._link(one, other, kind)

    def change(self, named: Iterable[PatientId] = ()) -> Change:
        """Return the persons to whom something happened, as SQL has them and as they are now, the oldest first.

        Those with the ids `named` are among them in any case.
        """
        now = {one: self._records[one] for one in self._changed}
        before = {one: self._loaded[one] for one in now if one in self._loaded}
        moved = [one for one in now if now[one].group != (before[one].group if one in before else "")]
        retired = tuple(
            (one, record.survivor) for one, record in now.items()
            if record.survivor and (one not in before or before[one].active))
        touched = [*named, *moved, *(self.survivor(self.get(survivor)).patient for _, survivor in retired)]
        values = {record.group for one in touched for record in (now.get(one), before.get(one), self.find(one)) if record}
        groups = sorted(values - {""}, key=lambda value: self._groups[value].age)
        self.members(groups)        # all of them are here now
        was = list(self._loaded.values())
        return Change(
            before=self._persons(groups, was), after=self._persons(groups, self.members(groups)), retired=retired)

    def _persons(self, groups: Iterable[str], records: Iterable[Record]) -> tuple[Person, ...]:
        members: dict[str, set[PatientId]] = {}
        for record in records:
            members.setdefault(record.group, set()).add(record.patient)
        return tuple(Person(group, frozenset(members[group])) for group in groups if group in members)

    def _decide(self, one: PatientId, other: PatientId, verdict: str) -> None:
        self._redecided[_pair(one, other)] = None
        super()._decide(one, other, verdict)

    # -- writing

    def save(self, happened: Sequence[Happened], at: float) -> None:
        """Write what has changed, and what happened."""
        connection = sql(self._unit)
        new = [value for value in self._regrouped if value not in self._group_numbers]
        for value in new:
            row = {"value": value, "state": ACTIVE, "created_at": at}
            ((self._group_numbers[value],),) = _ADD_GROUP.returned(self._unit, [row])
        for changed in (self._groups[value] for value in self._regrouped if value not in new or self._groups[value].survivor):
            connection.execute(sa.update(group).where(group.c.id == self._group_numbers[changed.value]).values(
                state=RETIRED if changed.survivor else ACTIVE,
                survivor_id=self._group_numbers[changed.survivor] if changed.survivor else None))
        self._save_records(at)
        self._save_keys()
        self._save_terms()
        self._save_pairs(link, at, self._before, {pair: self._links.get(pair[0], {}).get(pair[1], "") for pair in self._relinked})
        self._save_pairs(decision, at, self._verdicts, {
            pair: self._decisions.get(pair[0], {}).get(pair[1], "") for pair in self._redecided})
        log.append(self._unit, happened)

    def _save_records(self, at: float) -> None:
        connection = sql(self._unit)
        changed = (self._records[patient] for patient in self._changed)
        for record in sorted(changed, key=lambda one: (not one.active, one.age)):       # survivors before who is retired
            values = {
                "state": ACTIVE if record.active else RETIRED, "group_id": self._group_numbers.get(record.group),
                "survivor_id": self._numbers[record.survivor] if record.survivor else None, "message_id": record.message_id,
                "demographics": asdict(record.person), "said_at": record.said_at, "said_by": record.said_by, "updated_at": at}
            if record.patient in self._numbers:
                number = self._numbers[record.patient]
                connection.execute(sa.update(identity).where(identity.c.id == number).values(values))
            else:
                new = {"domain": record.patient.domain, "value": record.patient.value, "created_at": at, **values}
                new["demographics"] = json.dumps(values["demographics"])       # as text: prepared
                ((self._numbers[record.patient],),) = _ADD_IDENTITY.returned(self._unit, [new])

    def _save_keys(self) -> None:
        gone, rows = list[int](), list[dict[str, Any]]()
        for patient in self._changed:
            before, now = _keys(self._loaded.get(patient)), _keys(self._records[patient])
            if before != now:
                gone += [self._numbers[patient]] if before else []
                rows += [{"identity_id": self._numbers[patient], "kind": kind, "value": value} for kind, value in sorted(now)]
        if gone:
            sql(self._unit).execute(sa.delete(key).where(key.c.identity_id.in_(gone)))
        _ADD_KEYS.insert(self._unit, rows)

    def _save_terms(self) -> None:
        gone, new = list[dict[str, Any]](), list[dict[str, Any]]()
        for patient in self._changed:
            before, now = _terms(self._loaded.get(patient)), _terms(self._records[patient])
            for rows, some in ((gone, before - now), (new, now - before)):
                rows += [{"kind": kind, "value": value, "identity_id": self._numbers[patient]} for kind, value in sorted(some)]
        for start in range(0, len(gone), _REMOVED):
            either = (sa.and_(*(term.c[name] == value for name, value in row.items())) for row in gone[start:start + _REMOVED])
            sql(self._unit).execute(sa.delete(term).where(sa.or_(*either)))
        _ADD_TERMS.insert(self._unit, new)

    def _save_pairs(self, table: sa.Table, at: float, before: Mapping[Pair, str], now: Mapping[Pair, str]) -> None:
        """Bring the rows of pairs of records from what they were to what they are; empty: there is none."""
        changed = {pair: kind for pair, kind in now.items() if kind != before.get(pair, "")}
        gone = [self._ends(pair) for pair in changed if pair in before]
        rows = [{"a_id": a, "b_id": b, "kind": kind, "at": at} for pair, kind in changed.items() if kind
                for a, b in (self._ends(pair),)]
        if gone:
            either = sa.or_(*((table.c.a_id == a) & (table.c.b_id == b) for a, b in gone))
            sql(self._unit).execute(sa.delete(table).where(either))
        if rows:
            sql(self._unit).execute(sa.insert(table), rows)

    def _ends(self, pair: Pair) -> tuple[int, int]:
        one, other = (self._numbers[patient] for patient in pair)
        return min(one, other), max(one, other)


def _pair(one: PatientId, other: PatientId) -> Pair:
    return (one, other) if one < other else (other, one)


def _of_any(table: sa.Table, numbers: Sequence[int]) -> sa.Select[Any]:
    columns = sa.select(table.c.a_id, table.c.b_id, table.c.kind)
    return columns.where(table.c.a_id.in_(numbers) | table.c.b_id.in_(numbers))


def _keys(record: Record | None) -> frozenset[tuple[str, str]]:
    return block_keys(record.person) if record is not None and record.active else frozenset()


def _terms(record: Record | None) -> frozenset[tuple[str, str]]:
    return terms(record.person) if record is not None and record.active else frozenset()


def _record(patient: PatientId, row: sa.Row[Any]) -> Record:
    return Record(
        patient=patient, age=row.id, person=person_of(row.demographics), group=row.affinity or "", message_id=row.message_id,
        survivor=PatientId(row.into_domain, row.into_value) if row.into_domain else None, said_at=row.said_at,
        said_by=row.said_by, at=row.updated_at)
