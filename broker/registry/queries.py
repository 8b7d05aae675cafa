"""The stored queries of ITI-18 as rows (ITI TF-2 3.18.4.1.2.3.7) and the SQL behind them.

A filter is a row, too: parameter name -> condition. A statement is built once per kind of object and set of conditions,
then reused with other values.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from broker.db import Prepared
from broker.model.errors import Rejected, TooLarge, XdsCode
from broker.model.ids import PatientId
from broker.model.metadata import HAS_MEMBER, STABLE
from broker.model.ports import Unit
from broker.model.transaction import Disclosure, Keep
from broker.registry.parameters import Form, Groups, Parameter, Values
from broker.registry.store import (
    ASSOCIATION,
    DOCUMENT,
    FOLDER,
    SUBMISSION,
    registry_association,
    registry_author,
    registry_code,
    registry_entry,
    registry_folder,
    registry_object,
    registry_reference,
    registry_submission,
)

_CONDITIONS = 200                                           # in one statement; SQLite nests 1000 deep
_BATCH = 5000                                               # ids in one statement; SQLite takes 32 766 values
_SIDE = {DOCUMENT: registry_entry, SUBMISSION: registry_submission, FOLDER: registry_folder, ASSOCIATION: registry_association}

Clause = sa.ColumnElement[bool]


class Item(NamedTuple):
    """One object of an answer. `body` is its stored XML, empty when only references are wanted."""

    uuid: str
    kind: str
    patient: str
    unique_id: str
    confidentiality: str
    body: bytes
    source: str = ""
    target: str = ""

    @property
    def patient_id(self) -> PatientId:
        """Whose it is."""
        return PatientId.parse(self.patient)

    @property
    def disclosure(self) -> Disclosure:
        """What the region's rules are asked about."""
        return Disclosure(
            patient=self.patient_id, unique_id=self.unique_id if self.kind == DOCUMENT else "",
            confidentiality=tuple(self.confidentiality.splitlines()))


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A condition on objects of one kind. `single` takes one value, `like` a pattern for each, else a list is ORed."""

    clause: Callable[[Sequence[sa.BindParameter[str]], bool], Clause]
    single: bool = False
    like: bool = False


def _within(column: sa.ColumnElement[str]) -> Filter:
    return Filter(clause=lambda binds, _sqlite: column.in_(binds[0]))


def _coded(attribute: str) -> Filter:
    table = registry_code
    return Filter(clause=lambda binds, _sqlite: sa.exists().where(
        table.c.object_id == registry_object.c.id, table.c.attribute == attribute, table.c.code.in_(binds[0])))


def _referenced() -> Filter:
    table = registry_reference
    return Filter(clause=lambda binds, _sqlite: sa.exists().where(
        table.c.object_id == registry_object.c.id, table.c.reference.in_(binds[0])))


def _from(column: sa.ColumnElement[str]) -> Filter:
    """A time of lower precision than the bound meets it where the bound is in it: the end of a day is its last second.

    An object without the time, whose empty text any bound begins with, is not filtered out.
    """
    return Filter(single=True, clause=lambda binds, _sqlite: sa.or_(
        column >= binds[0], sa.func.substr(binds[0], 1, sa.func.length(column)) == column))


def _to(column: sa.ColumnElement[str]) -> Filter:
    """The bound, in its shortest form, is outside. An object without the time is not filtered out."""
    return Filter(single=True, clause=lambda binds, _sqlite: column < binds[0])


def _author() -> Filter:
    person = registry_author.c.person

    def clause(binds: Sequence[sa.BindParameter[str]], sqlite: bool) -> Clause:
        patterns = [person.op("GLOB")(bind) if sqlite else person.like(bind, escape="") for bind in binds]
        return sa.exists().where(registry_author.c.object_id == registry_object.c.id, sa.or_(*patterns))

    return Filter(like=True, clause=clause)


def _touching() -> Filter:
    table = registry_association
    return Filter(clause=lambda binds, _sqlite: sa.or_(table.c.source.in_(binds[0]), table.c.target.in_(binds[0])))


_UUID, _SOURCE, _TARGET, _TYPE = "uuid", "source", "target", "type"
_entry, _folder, _set = registry_entry.c, registry_folder.c, registry_submission.c

FILTERS: dict[str, dict[str, Filter]] = {
    DOCUMENT: {
        _UUID: _within(registry_object.c.uuid),
        "$patientId": _within(registry_object.c.patient),
        "$XDSDocumentEntryPatientId": _within(registry_object.c.patient),
        "$XDSDocumentEntryStatus": _within(registry_object.c.status),
        "$XDSDocumentEntryEntryUUID": _within(registry_object.c.uuid),
        "$XDSDocumentEntryUniqueId": _within(registry_object.c.unique_id),
        "$XDSDocumentEntryType": _within(_entry.object_type),
        "$XDSDocumentEntryClassCode": _coded("classCode"),
        "$XDSDocumentEntryTypeCode": _coded("typeCode"),
        "$XDSDocumentEntryPracticeSettingCode": _coded("practiceSettingCode"),
        "$XDSDocumentEntryHealthcareFacilityTypeCode": _coded("healthcareFacilityTypeCode"),
        "$XDSDocumentEntryEventCodeList": _coded("eventCodeList"),
        "$XDSDocumentEntryConfidentialityCode": _coded("confidentialityCode"),
        "$XDSDocumentEntryFormatCode": _coded("formatCode"),
        "$XDSDocumentEntryAuthorPerson": _author(),
        "$XDSDocumentEntryReferenceIdList": _referenced(),
        "$XDSDocumentEntryCreationTimeFrom": _from(_entry.creation_time),
        "$XDSDocumentEntryCreationTimeTo": _to(_entry.creation_time),
        "$XDSDocumentEntryServiceStartTimeFrom": _from(_entry.service_start_time),
        "$XDSDocumentEntryServiceStartTimeTo": _to(_entry.service_start_time),
        "$XDSDocumentEntryServiceStopTimeFrom": _from(_entry.service_stop_time),
        "$XDSDocumentEntryServiceStopTimeTo": _to(_entry.service_stop_time),
    },
    SUBMISSION: {
        _UUID: _within(registry_object.c.uuid),
        "$patientId": _within(registry_object.c.patient),
        "$XDSSubmissionSetPatientId": _within(registry_object.c.patient),
        "$XDSSubmissionSetStatus": _within(registry_object.c.status),
        "$XDSSubmissionSetEntryUUID": _within(registry_object.c.uuid),
        "$XDSSubmissionSetUniqueId": _within(registry_object.c.unique_id),
        "$XDSSubmissionSetSourceId": _within(_set.source_id),
        "$XDSSubmissionSetSubmissionTimeFrom": _from(_set.submission_time),
        "$XDSSubmissionSetSubmissionTimeTo": _to(_set.submission_time),
        "$XDSSubmissionSetAuthorPerson": _author(),
        "$XDSSubmissionSetContentType": _coded("contentTypeCode"),
    },
    FOLDER: {
        _UUID: _within(registry_object.c.uuid),
        "$patientId": _within(registry_object.c.patient),
        "$XDSFolderPatientId": _within(registry_object.c.patient),
        "$XDSFolderStatus": _within(registry_object.c.status),
        "$XDSFolderEntryUUID": _within(registry_object.c.uuid),
        "$XDSFolderUniqueId": _within(registry_object.c.unique_id),
        "$XDSFolderLastUpdateTimeFrom": _from(_folder.last_update_time),
        "$XDSFolderLastUpdateTimeTo": _to(_folder.last_update_time),
        "$XDSFolderCodeList": _coded("codeList"),
    },
    ASSOCIATION: {
        _UUID: _within(registry_object.c.uuid),
        _SOURCE: _within(registry_association.c.source),
        _TARGET: _within(registry_association.c.target),
        _TYPE: _within(registry_association.c.type),
        "$uuid": _touching(),
        "$AssociationTypes": _within(registry_association.c.type),
    },
}

Shape = tuple[tuple[str, int], ...]                         # (filter, number of values where each is a condition of its own)


@functools.lru_cache(maxsize=512)
def _statement(kind: str, shape: Shape, *, bodies: bool, sqlite: bool) -> Prepared:
    """Return the statement for these conditions; values are bound as v0, v1, … in the order of `shape`."""
    table, side = registry_object.c, _SIDE[kind]
    columns: list[sa.ColumnElement[Any]] = [
        table.uuid, table.kind, table.patient, table.unique_id, table.confidentiality,
        table.body if bodies else sa.literal(b"", sa.LargeBinary())]
    ends = registry_association.c
    nothing: list[sa.ColumnElement[Any]] = [sa.literal_column("''").label(end) for end in (_SOURCE, _TARGET)]
    columns += [ends.source, ends.target] if kind == ASSOCIATION else nothing
    statement = sa.select(*columns).join_from(registry_object, side, side.c.object_id == table.id).where(table.kind == kind)
    for position, (name, width) in enumerate(shape):
        row = FILTERS[kind][name]
        keys = [f"v{position}_{number}" for number in range(width)] if row.like else [f"v{position}"]
        binds = [sa.bindparam(key, expanding=not (row.single or row.like), type_=sa.String()) for key in keys]
        statement = statement.where(row.clause(binds, sqlite))
    return Prepared(statement.order_by(table.id).limit(sa.bindparam("most", type_=sa.Integer())))


def _glob(pattern: str) -> str:
    """Return a LIKE pattern as SQLite's GLOB, which minds case as LIKE does elsewhere."""
    return "".join({"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}.get(c, c) for c in pattern)


class Search:
    """One query at work: selects objects of the unit, and stops at `most` of them (XDSTooManyResults).

    With `keep`, every selection goes on as if what may not be seen were not registered, nor any association with an end that
    may not: what can be reached only by way of it is not found.
    """

    def __init__(self, unit: Unit, *, bodies: bool, most: int, sqlite: bool, keep: Keep | None = None) -> None:
        self._unit, self._bodies, self._most, self._sqlite, self._keep = unit, bodies, most, sqlite, keep

    def select(self, kind: str, wanted: Mapping[str, Groups]) -> list[Item]:
        """Return the objects of this kind that meet all conditions for which `FILTERS` has a row, in order of registration."""
        shape: list[tuple[str, int]] = []
        binds: dict[str, object] = {"most": self._most + 1}
        conditions, filters = 0, FILTERS[kind]
        for name, groups in wanted.items():
            row = filters[name]
            for group in groups:
                key = f"v{len(shape)}"
                shape.append((name, len(group) if row.like else 0))
                conditions += len(group) if row.like else 1
                if row.like:
                    binds |= {f"{key}_{n}": _glob(text) if self._sqlite else text for n, text in enumerate(group)}
                else:
                    binds[key] = group[0] if row.single else group
        if conditions > _CONDITIONS:
            raise TooLarge(f"{_CONDITIONS} conditions in one stored query")
        statement = _statement(kind, tuple(shape), bodies=self._bodies, sqlite=self._sqlite)
        found = self.bounded([Item._make(row) for row in statement.rows(self._unit, binds)])
        return found if self._keep is None else self._visible(found, self._keep)

    def among(self, kind: str, name: str, texts: Iterable[str], wanted: Mapping[str, Groups] | None = None) -> list[Item]:
        """Return the objects of this kind for which condition `name` meets any of `texts`, each object once."""
        listed = list(dict.fromkeys(texts))
        found: dict[str, Item] = {}
        for start in range(0, len(listed), _BATCH):
            group = (tuple(listed[start:start + _BATCH]),)
            found |= {item.uuid: item for item in self.select(kind, {name: group, **(wanted or {})})}
        return self.bounded(list(found.values()))

    def bounded(self, items: list[Item]) -> list[Item]:
        """Return the items, or raise `Rejected` when they are too many for one answer."""
        if len(items) > self._most:
            raise Rejected(XdsCode.TOO_MANY_RESULTS, f"more than {self._most} objects")
        return items


    def _visible(self, items: list[Item], keep: Keep) -> list[Item]:
        known = self._with_ends(items)
        hidden = {uuid for uuid, item in known.items() if not keep(item.disclosure)}
        joined: dict[str, list[str]] = {}
        for item in known.values():
            for end in (item.source, item.target):
                joined.setdefault(end, []).append(item.uuid)
        ends = [*hidden]
        while ends:
            further = [uuid for uuid in joined.get(ends.pop(), ()) if uuid not in hidden]
            hidden.update(further)
            ends += further
        return [item for item in items if item.uuid not in hidden]

    def _with_ends(self, items: Iterable[Item]) -> dict[str, Item]:
        """Return the items and what they join, which may be associations themselves, by UUID."""
        known = {item.uuid: item for item in items}
        fresh = list(known.values())
        while wanted := {end for item in fresh for end in (item.source, item.target) if end} - known.keys():
            search = Search(self._unit, bodies=False, most=len(wanted), sqlite=self._sqlite)
            fresh = [item for kind in FILTERS for item in search.among(kind, _UUID, wanted)]
            known |= {item.uuid: item for item in fresh}
        return known


Run = Callable[[Search, Values], list[Item]]


@dataclass(frozen=True, kw_only=True)
class StoredQuery:
    """One stored query: its parameters, of which `one_of` exclude each other, and what it gives."""

    name: str
    uuid: str
    parameters: tuple[Parameter, ...]
    one_of: tuple[str, ...] = ()
    run: Run

    @functools.cached_property
    def patients(self) -> tuple[str, ...]:
        """The names of the parameters that name a patient."""
        return self._of(Form.PATIENT)

    @functools.cached_property
    def codes(self) -> tuple[str, ...]:
        """The names of the parameters that hold codes."""
        return self._of(Form.CODE)

    def _of(self, form: Form) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters if parameter.form is form)


def _ids(items: Iterable[Item]) -> set[str]:
    return {item.uuid for item in items}


def _entry_filters(values: Values) -> Values:
    """Return the conditions on entries; without a type only stable ones are meant (ITI TF-2 3.18.4.1.2.3.6)."""
    return {"$XDSDocumentEntryType": ((STABLE,),), **{name: groups for name, groups in values.items() if name in _ENTRY_NAMES}}


def _direct(kind: str) -> Run:
    return lambda search, values: search.select(kind, values)


def _find_documents(search: Search, values: Values) -> list[Item]:
    return search.select(DOCUMENT, {"$XDSDocumentEntryType": ((STABLE,),), **values})


def _get_all(search: Search, values: Values) -> list[Item]:
    patient = {"$patientId": values["$patientId"]}
    found = [
        *search.select(SUBMISSION, {**patient, "$XDSSubmissionSetStatus": values["$XDSSubmissionSetStatus"]}),
        *search.select(DOCUMENT, {**patient, **_entry_filters(values)}),
        *search.select(FOLDER, {**patient, "$XDSFolderStatus": values["$XDSFolderStatus"]}),
    ]
    return [*found, *search.among(ASSOCIATION, "$uuid", _ids(found))]


def _documents_and_associations(search: Search, values: Values) -> list[Item]:
    found = search.select(DOCUMENT, values)
    return [*found, *search.among(ASSOCIATION, "$uuid", _ids(found))]


def _submission_sets(search: Search, values: Values) -> list[Item]:
    links = search.among(ASSOCIATION, _TARGET, values["$uuid"][0], _MEMBERS)
    found = search.among(SUBMISSION, _UUID, (link.source for link in links))
    sets = _ids(found)
    return [*found, *(link for link in links if link.source in sets)]


def _submission_set_and_contents(search: Search, values: Values) -> list[Item]:
    chosen = {name: groups for name, groups in values.items() if name in _SET_CHOICE}
    sets = search.select(SUBMISSION, chosen)
    links = search.among(ASSOCIATION, _SOURCE, _ids(sets), _MEMBERS)
    targets = [link.target for link in links]
    found = [
        *sets,
        *search.among(DOCUMENT, _UUID, targets, _entry_filters(values)),
        *search.among(FOLDER, _UUID, targets),
    ]
    placed = _joined(search.among(ASSOCIATION, _UUID, targets), _ids(found))
    return [*found, *_joined(links, _ids(found) | _ids(placed)), *placed]


def _folder_and_contents(search: Search, values: Values) -> list[Item]:
    folders = search.select(FOLDER, {name: groups for name, groups in values.items() if name in _FOLDER_CHOICE})
    links = search.among(ASSOCIATION, _SOURCE, _ids(folders), _MEMBERS)
    found = [*folders, *search.among(DOCUMENT, _UUID, (link.target for link in links), _entry_filters(values))]
    return [*found, *_joined(links, _ids(found))]


def _folders_for_document(search: Search, values: Values) -> list[Item]:
    links = search.among(ASSOCIATION, _TARGET, _ids(search.select(DOCUMENT, values)), _MEMBERS)
    return search.among(FOLDER, _UUID, (link.source for link in links))


def _related_documents(search: Search, values: Values) -> list[Item]:
    chosen = {name: groups for name, groups in values.items() if name in _ENTRY_CHOICE}
    links = search.among(
        ASSOCIATION, "$uuid", _ids(search.select(DOCUMENT, chosen)), {"$AssociationTypes": values["$AssociationTypes"]})
    ends = [end for link in links for end in (link.source, link.target)]
    found = search.among(DOCUMENT, _UUID, ends, _entry_filters({n: g for n, g in values.items() if n not in chosen}))
    kept = _joined(links, _ids(found))
    used = {end for link in kept for end in (link.source, link.target)}
    return [*(item for item in found if item.uuid in used), *kept]


def _joined(links: Iterable[Item], ends: set[str]) -> list[Item]:
    """Return the associations both ends of which are among `ends`."""
    return [link for link in links if link.source in ends and link.target in ends]


def _text(name: str, *, required: bool = False, many: bool = True, repeats: bool = False) -> Parameter:
    return Parameter(name=name, required=required, many=many, repeats=repeats)


def _code(name: str, *, repeats: bool = False) -> Parameter:
    return Parameter(name=name, form=Form.CODE, many=True, repeats=repeats)


def _status(name: str) -> Parameter:
    return Parameter(name=name, form=Form.STATUS, required=True, many=True)


def _patient(name: str) -> Parameter:
    return Parameter(name=name, form=Form.PATIENT, required=True)


def _times(*names: str) -> tuple[Parameter, ...]:
    bounds = (("From", Form.SINCE), ("To", Form.UNTIL))
    return tuple(Parameter(name=f"{name}{bound}", form=form) for name in names for bound, form in bounds)


_MEMBERS: Values = {_TYPE: ((HAS_MEMBER,),)}
_ENTRY_CHOICE = ("$XDSDocumentEntryEntryUUID", "$XDSDocumentEntryUniqueId")
_SET_CHOICE = ("$XDSSubmissionSetEntryUUID", "$XDSSubmissionSetUniqueId")
_FOLDER_CHOICE = ("$XDSFolderEntryUUID", "$XDSFolderUniqueId")
_DE = "$XDSDocumentEntry"

_FIND = (
    _patient(f"{_DE}PatientId"),
    _status(f"{_DE}Status"),
    _code(f"{_DE}ClassCode"),
    _code(f"{_DE}TypeCode"),
    _code(f"{_DE}PracticeSettingCode"),
    _code(f"{_DE}HealthcareFacilityTypeCode"),
    _code(f"{_DE}EventCodeList", repeats=True),
    _code(f"{_DE}ConfidentialityCode", repeats=True),
    _code(f"{_DE}FormatCode"),
    _text(f"{_DE}AuthorPerson"),
    *_times(f"{_DE}CreationTime", f"{_DE}ServiceStartTime", f"{_DE}ServiceStopTime"),
    _text(f"{_DE}Type"),
)
_CONTENT = (_code(f"{_DE}FormatCode"), _code(f"{_DE}ConfidentialityCode", repeats=True), _text(f"{_DE}Type"))
_ENTRY_NAMES = frozenset({f"{_DE}Status", *(parameter.name for parameter in _CONTENT)})


def _choice(names: Sequence[str], *, many: bool) -> tuple[Parameter, ...]:
    return tuple(_text(name, many=many) for name in names)


QUERIES = {query.uuid: query for query in (
    StoredQuery(
        name="FindDocuments", uuid="urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d",
        parameters=_FIND, run=_find_documents),
    StoredQuery(
        name="FindDocumentsByReferenceId", uuid="urn:uuid:12941a89-e02e-4be5-967c-ce4bfc8fe492",
        parameters=(*_FIND, _text(f"{_DE}ReferenceIdList", required=True, repeats=True)), run=_find_documents),
    StoredQuery(
        name="FindSubmissionSets", uuid="urn:uuid:f26abbcb-ac74-4422-8a30-edb644bbc1a9", run=_direct(SUBMISSION),
        parameters=(
            _patient("$XDSSubmissionSetPatientId"), _status("$XDSSubmissionSetStatus"), _text("$XDSSubmissionSetSourceId"),
            *_times("$XDSSubmissionSetSubmissionTime"), _text("$XDSSubmissionSetAuthorPerson", many=False),
            _code("$XDSSubmissionSetContentType"))),
    StoredQuery(
        name="FindFolders", uuid="urn:uuid:958f3006-baad-4929-a4de-ff1114824431", run=_direct(FOLDER),
        parameters=(
            _patient("$XDSFolderPatientId"), _status("$XDSFolderStatus"), *_times("$XDSFolderLastUpdateTime"),
            _code("$XDSFolderCodeList", repeats=True))),
    StoredQuery(
        name="GetAll", uuid="urn:uuid:10b545ea-725c-446d-9b95-8aeb444eddf3", run=_get_all,
        parameters=(
            _patient("$patientId"), _status(f"{_DE}Status"), _status("$XDSSubmissionSetStatus"), _status("$XDSFolderStatus"),
            *_CONTENT)),
    StoredQuery(
        name="GetDocuments", uuid="urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4", run=_direct(DOCUMENT),
        parameters=_choice(_ENTRY_CHOICE, many=True), one_of=_ENTRY_CHOICE),
    StoredQuery(
        name="GetFolders", uuid="urn:uuid:5737b14c-8a1a-4539-b659-e03a34a5e1e4", run=_direct(FOLDER),
        parameters=_choice(_FOLDER_CHOICE, many=True), one_of=_FOLDER_CHOICE),
    StoredQuery(
        name="GetAssociations", uuid="urn:uuid:a7ae438b-4bc2-4642-93e9-be891f7bb155", run=_direct(ASSOCIATION),
        parameters=(_text("$uuid", required=True),)),
    StoredQuery(
        name="GetDocumentsAndAssociations", uuid="urn:uuid:bab9529a-4a10-40b3-a01f-f68a615d247a",
        parameters=_choice(_ENTRY_CHOICE, many=True), one_of=_ENTRY_CHOICE, run=_documents_and_associations),
    StoredQuery(
        name="GetSubmissionSets", uuid="urn:uuid:51224314-5390-4169-9b91-b1980040715a", run=_submission_sets,
        parameters=(_text("$uuid", required=True),)),
    StoredQuery(
        name="GetSubmissionSetAndContents", uuid="urn:uuid:e8e3cb2c-e39c-46b9-99e4-c12f57260b83",
        parameters=(*_choice(_SET_CHOICE, many=False), *_CONTENT), one_of=_SET_CHOICE, run=_submission_set_and_contents),
    StoredQuery(
        name="GetFolderAndContents", uuid="urn:uuid:b909a503-523d-4517-8acf-8e5834dfc4c7",
        parameters=(*_choice(_FOLDER_CHOICE, many=False), *_CONTENT), one_of=_FOLDER_CHOICE, run=_folder_and_contents),
    StoredQuery(
        name="GetFoldersForDocument", uuid="urn:uuid:10cae35a-c7f9-4cf5-b61e-fc3278ffb578",
        parameters=_choice(_ENTRY_CHOICE, many=False), one_of=_ENTRY_CHOICE, run=_folders_for_document),
    StoredQuery(
        name="GetRelatedDocuments", uuid="urn:uuid:d90e5407-b356-4d91-a89f-873917b4b0e6", run=_related_documents,
        parameters=(*_choice(_ENTRY_CHOICE, many=False), _text("$AssociationTypes", required=True), _text(f"{_DE}Type")),
        one_of=_ENTRY_CHOICE),
)}
