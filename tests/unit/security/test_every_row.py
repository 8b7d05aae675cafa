"""Every transaction of every wire under rules that allow nothing, and under rules that allow the call and show nothing.

The rows are found in the program, so that one without a case here fails.
"""

import importlib
import json
import pkgutil
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from lxml import etree

import broker
from broker.app import imaging, patients
from broker.app.whole import App
from broker.audit.spool import AuditLog
from broker.client.messages import retrieve_images
from broker.config import profile as profiles
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.db import sql
from broker.edge.dimse import c_store
from broker.edge.dimse.c_store import StoreRequest
from broker.edge.dimse.session import Session
from broker.imaging.archiving.keep import HOLD_ROW, PIN_ROW, RECALL_ROW, RELEASE_ROW, KeepRow, Kept, Wish
from broker.imaging.conflicts import ASSIGN, REJECT, UNDO, Conflict, ConflictRow, Decision
from broker.imaging.damage import FOUND, MENDED, ROTTEN, DamageRow, Finding
from broker.imaging.store import studies
from broker.imaging.store.damages import Holder
from broker.model.caller import Caller
from broker.model.errors import Rejected
from broker.model.ids import PatientId, new_oid
from broker.model.imaging import InstanceRef
from broker.model.message_id import MessageId
from broker.model.metadata import APND, APPROVED, HAS_MEMBER
from broker.model.people import Demographics, PersonName
from broker.model.transaction import (
    NOBODY,
    NOTHING_TO_FILTER,
    AnyTransaction,
    Disclosure,
    InternalTransaction,
    Message,
    Transaction,
    TransactionRow,
)
from broker.patients.files import Entry, of_row, sender
from broker.patients.steward import Steward
from broker.registry import iti42_register
from broker.registry.queries import QUERIES
from broker.security.gate import Gate
from broker.security.rules import Policy
from broker.wire import ebxml, hl7v3, hl7v3_pdq, xml
from broker.wire.ebxml_query import write_query_request
from broker.wire.hl7v2 import Header, parse
from broker.wire.hl7v2_pdq import write_pdq_cancel, write_pdq_query
from broker.wire.hl7v2_pix import write_adt, write_pix_query
from broker.wire.rest import RestReply, RestRequest
from broker.wire.soap import SoapReply, SoapRequest
from tests.helpers import manifests, stores
from tests.helpers.conflicts import DOMAINS, Picture, sop, store
from tests.helpers.fetch import read
from tests.helpers.fhir import patient as fhir_patient
from tests.helpers.registry import bundle, document, folder, link, submission

CALLER = Caller(node="stranger", address="127.0.0.1", local_node="http://broker")
DEVICE_B, OURS = "2.999.3.9", "2.999.1.4"
LOCAL, OTHER, NAMESAKE, GONE = (PatientId(DOMAINS["a"], f"LOCAL-7{n}") for n in range(1, 5))
FAMILY = ("livingSubjectName", "<value><family>欧阳</family></value>")
ASKED = MessageId("20260301101500+0800", "of-which-more-is-asked")
B_ONE, B_TWO = PatientId(DOMAINS["b"], "LOCAL-81"), PatientId(DOMAINS["b"], "LOCAL-82")
PERSON = Demographics(names=(PersonName("欧阳", "静"),), birth_date="19790214", sex="F")
FHIR_LOCAL = f"urn:oid:{LOCAL.domain}|{LOCAL.value}"
WHO = {"name": [{"family": "欧阳", "given": ["静"]}], "gender": "female", "birthDate": "1979-02-14"}
ACCESSION = "ACC-7171^^^^urn:ihe:iti:xds:2013:accession"
INTERNAL = {"ITI-57", "CONFLICT-ASSIGN", "CONFLICT-REJECT", "CONFLICT-UNDO", "ARCHIVE-DAMAGE", "ARCHIVE-MEND", "ARCHIVE-HOLD",
            "ARCHIVE-PIN", "ARCHIVE-RELEASE", "ARCHIVE-RECALL", "PATIENT-LOAD", "PATIENT-EXPORT"}

# Rows that cannot say whom a call is about before they look, and why.
NAMES_NOBODY = {
    "C-ECHO": "it asks whether we are there",
    "C-STORE": "the request names the object, its data set the patient: the sender is what is known",
    "ITI-43": "the request names documents; each is asked about when it is found",
    "RAD-69": "the request names images; each is asked about when it is found",
    "PATIENT-EXPORT": "the request is for everybody; each is asked about when it is written",
}
# Rows whose results say how it went and nothing of what is kept here.
TELLS_NOTHING = {"C-ECHO", "C-STORE", "ITI-8", "ITI-30", "ITI-41", "ITI-42", "ITI-44", "ITI-57", "ARCHIVE-DAMAGE", "ARCHIVE-MEND",
                 "ARCHIVE-RECALL", "PATIENT-LOAD"}


@dataclass
class Rules:
    """Notes what it is asked; allows calls but those of `denied` (None: of all rows), shows nothing."""

    denied: frozenset[str] | None = frozenset()
    asked: list[tuple[str, tuple[PatientId, ...]]] = field(default_factory=list)

    def authorise(self, row: TransactionRow, caller: Caller, subjects: tuple[PatientId, ...]) -> None:
        self.asked.append((row.code, subjects))
        if self.denied is None or row.code in self.denied:
            raise Rejected("AccessDenied", "no")

    def may_see(self, caller: Caller, item: Disclosure) -> bool:
        return False


class Strict:
    """Allows and shows everything, one by one: what it lets pass is what the rows say of it."""

    def authorise(self, row: TransactionRow, caller: Caller, subjects: tuple[PatientId, ...]) -> None:
        """Allow."""

    def may_see(self, caller: Caller, item: Disclosure) -> bool:
        return True


class World:
    """A broker that holds something of everything, under the rules of a test."""

    def __init__(self, data: Path, profile: Profile, policy: Policy) -> None:
        self.app = App(Settings(data=data), profile)
        self.app.gate = Gate(policy, AuditLog(self.app.settings.audit_folder, "broker", "demo"))
        self.data = data

    def served(self, code: str) -> AnyTransaction:
        return next(one for one in self.app.served if one.row.code == code)

    def perform(self, code: str, raw: Any) -> Any:
        return self.app.gate.perform(self.served(code), raw, CALLER)

    @property
    def affinity(self) -> PatientId:
        with self.app.database.read() as unit:
            found = self.app.patients.affinity_id(unit, LOCAL)
        return found or PatientId(self.app.profile.region.affinity_domain, "NOBODY")

    def objects(self, kind: str = "") -> list[tuple[str, str]]:
        """Return (uuid, uniqueId) of what is registered, the first one first."""
        table = sa.table("registry_object", sa.column("id"), sa.column("uuid"), sa.column("unique_id"), sa.column("kind"))
        query = sa.select(table.c.uuid, table.c.unique_id).order_by(table.c.id)
        with self.app.database.read() as unit:
            return [(row[0], row[1] or "") for row in sql(unit).execute(query.where(table.c.kind == kind) if kind else query)]

    def content(self) -> tuple[object, ...]:
        """Return every row of every table, and every file but logs of calls."""
        inspected = sa.inspect(self.app.database.engine)
        with self.app.database.read() as unit:
            rows = {name: sorted(map(repr, sql(unit).execute(sa.text(f'SELECT * FROM "{name}"'))))
                    for name in inspected.get_table_names()}
        files = {str(file.relative_to(self.data)): file.read_bytes() for part in ("documents", "online", "archive")
                 for file in (self.data / part).rglob("*") if file.is_file()}
        return rows, files

    def secrets(self) -> set[str]:
        """Return what only somebody who may see it may be told: ids of persons, objects and images, and names."""
        ids = {text for pair in self.objects() for text in pair if text}
        return {*ids, self.affinity.value, LOCAL.value, OTHER.value, NAMESAKE.value, B_ONE.value, B_TWO.value, "欧阳", "Li^Ming",
                "1.2.3", sop(1), sop(2), "A-1", "A-2", "A-3"}

    def fill(self) -> None:
        for event, patient in (("A04", LOCAL), ("A04", OTHER), ("A04", GONE)):
            assert b"MSA|AA" in self.perform("ITI-8", _adt(event, patient))
        assert b"MSA|AA" in self.perform("ITI-8", _adt("A40", OTHER, GONE))
        for patient in (B_ONE, B_TWO):
            assert b'code="CA"' in told(self.perform("ITI-44", _v3(hl7v3.write_add_patient(
                patient, PERSON, sender=DEVICE_B, receiver=OURS))))
        assert b"MSA|AA" in self.perform("ITI-8", _adt("A04", NAMESAKE, person=replace(PERSON, birth_date="19850612")))
        assert b'resultRemainingQuantity value="1"' in told(self.perform("ITI-47", _pdq(*FAMILY, quantity=1)))
        who = self.affinity
        first = bundle([document("Doc1", who, reference_id_list=(ACCESSION,))], [folder("Fol1", who)],
                       [link("Fol1", "Doc1")], patient=who)
        self.register(first)
        entry = self.objects("document")[0][0]
        self.register(bundle([document("Add", who)], links=[link("Add", entry, APND)], patient=who))
        assert "Success" in told(self.perform("ITI-41", _provide(self))).decode()
        receiver = self.app.receiver
        receiver.start()
        for picture in (Picture("A-1", 1), Picture("A-2", 2), Picture("A-3", 3)):
            store(receiver, picture)
        receiver.stop()
        first_case, second = self.app.conflicts.listed()
        self.app.decide(REJECT, Decision(conflict=second.id), "operator")
        assert first_case.id != second.id
        assert len(_wish(self, HOLD_ROW).rows) == 1

    def register(self, objects: Any) -> None:
        self.app.gate.inside(iti42_register.ROW, self.app.registry, submission(objects), CALLER)

    def close(self) -> None:
        self.app.close()


def told(reply: Any) -> bytes:
    """Return all that a reply tells, whatever its wire."""
    if isinstance(reply, SoapReply):
        return b"".join(reply.fragments) + b"".join(read(part.source) for part in reply.parts)
    if isinstance(reply, RestReply):
        return repr(reply.headers).encode() + reply.body
    return reply if isinstance(reply, bytes) else repr(reply).encode()


def spoken(message: Any) -> bytes:
    """Return all that a request says, whatever its wire."""
    if isinstance(message, SoapRequest):
        return etree.tostring(message.body, encoding="UTF-8")
    return message.line.encode() + message.body if isinstance(message, RestRequest) else bytes(message.raw)


def _header() -> Header:
    return Header(sender=("HIS-A", "HOSPA"), receiver=("BROKER", "REGION"), charset="UNICODE UTF-8", version="2.3.1",
                  message_id=MessageId.now())


def _adt(event: str, patient: PatientId, retired: PatientId | None = None, person: Demographics = PERSON) -> Any:
    return parse(write_adt(_header(), event, patient, person, namespace="HOSPA", retired=retired))


def _v3(message: bytes) -> SoapRequest:
    return _soap("", message)


def _soap(_world: Any, body: bytes) -> SoapRequest:
    element = xml.parse(body)
    return SoapRequest(body=element, message=Message(name=str(element.tag)))


def _rest(method: str, rest: str, body: dict[str, Any] | None = None) -> RestRequest:
    query = tuple(tuple(pair.split("=", 1)) for pair in rest.partition("?")[2].split("&") if pair)
    return RestRequest(
        line=f"{method} /fhir/Patient{rest}", query=query, body=json.dumps(body).encode() if body else b"",  # type: ignore[arg-type]
        body_format="json" if body else "", answer_format="json")


def _pdq(name: str, value: str, quantity: int | None = None) -> SoapRequest:
    return _v3(hl7v3_pdq.write_pdq_query(
        [(name, value)], sender=DEVICE_B, receiver=OURS, quantity=quantity, message_id=ASKED if quantity else None))


def _provide(world: World) -> SoapRequest:
    manifest = manifests.kos(manifests.study(), sop_uid=new_oid())
    objects = manifests.metadata(world.app.profile, manifest, patient=world.affinity)
    return manifests.provide_one(objects, manifest, world.data / "incoming")


def _value(world: World, name: str) -> list[str]:
    """Return values with which a parameter finds something."""
    kinds = {"DocumentEntry": "document", "SubmissionSet": "submission", "Folder": "folder"}
    kind = next((kind for word, kind in kinds.items() if word in name), "")
    by_end: dict[str, Callable[[], list[str]]] = {
        "atientId": lambda: [str(world.affinity)], "Status": lambda: [APPROVED], "ReferenceIdList": lambda: [ACCESSION],
        "EntryUUID": lambda: [pair[0] for pair in world.objects(kind)][:1], "$uuid": lambda: [p[0] for p in world.objects()],
        "AssociationTypes": lambda: [HAS_MEMBER, APND]}
    return next(found() for end, found in by_end.items() if name.endswith(end))


def _query(world: World, uuid: str, return_type: str) -> SoapRequest:
    query = QUERIES[uuid]
    wanted = [one for one in query.parameters if one.required or one.name in query.one_of[:1]]
    values = {one.name: _value(world, one.name) for one in wanted}
    return _soap(world, write_query_request(
        uuid, {one.name: values[one.name] if one.many else values[one.name][0] for one in wanted if values[one.name]},
        return_type))


def _documents(world: World) -> SoapRequest:
    ours = world.app.profile.region.repository_uid
    return manifests.retrieve(*((ours, unique_id) for _, unique_id in world.objects("document")), (ours, "2.25.404"))


def _images(world: World) -> SoapRequest:
    source = world.app.profile.region.source_uid
    refs = [InstanceRef("1.2.3", "1.2.3.1", uid, source_uid=source) for uid in (sop(1), sop(9), sop(2))]
    return _soap(world, retrieve_images(refs))


def _session(world: World) -> Session:
    profile = world.app.profile
    return Session(world.app.receiver, world.app.gate, profile, Caller(node="PACSA", address="10.9.9.9"), 1 << 20,
                   frozenset((manifests.CT,)))


def _store(world: World) -> int:
    session = _session(world)
    reception = session.receive(StoreRequest(manifests.CT, sop(40), "1.2.840.10008.1.2.1"))
    reception.write(b"\0" * 100)
    status = session.done(reception)
    session.end()
    return status


def _withdraw(world: World) -> None:
    with world.app.database.write() as unit:
        world.app.withdraw(unit, world.objects("document")[0][0], CALLER)


def _decide(world: World, row: ConflictRow) -> Conflict:
    wanted = "rejected" if row is UNDO else "open"
    found = next(one for one in world.app.conflicts.listed(settled=True) if one.state == wanted)
    patient = PatientId(DOMAINS["a"], "A-2") if row is ASSIGN else None
    return world.app.decide(row, Decision(conflict=found.id, patient=patient), "stranger")


def _wish(world: World, row: KeepRow) -> Kept:
    keeper = imaging.keeper(world.app, world.app.migrator)
    return imaging.ask(world.app, keeper, row, Wish(study_uid="1.2.3", reason="a trial"), "stranger")


def _recall(world: World) -> int:
    keeper = imaging.keeper(world.app, world.app.migrator)
    return imaging.ask(world.app, keeper, RECALL_ROW, Wish(study_uid="1.2.3", days=1), "stranger")


def _damage(world: World, row: DamageRow) -> None:
    with world.app.database.write() as unit:
        study = next(one for one in studies.find_studies(unit, study_uid="1.2.3") if one.patient.value == "A-1")
        holder = Holder(study.id, study.hospital, study.study_uid, study.patient)
        finding = Finding(unit=unit, holder=holder, container="aa/1.2.3-0.seq", sop_uids=(sop(1),), reason=ROTTEN)
        world.app.gate.inside(row, imaging.quarantine(world.app, world.app.sdfo), finding, CALLER, unit)


@dataclass(frozen=True)
class Case:
    """How to make a call: its message for a wire's row, else the call itself."""

    message: Callable[[World], Any] | None = None
    call: Callable[[World], Any] | None = None


HL7, XDS, RAD = (f"{{{name}}}" for name in (xml.HL7, xml.XDS, xml.RAD))
def _two(event: str) -> Any:
    """A message of hospital A about two of its patients."""
    head = f"MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20260301101500||ADT^{event}|m-{event}|P|2.5\r"
    return parse((head + "EVN||20260301101500\r" + "".join(
        f"PID|||{one.value}^^^&{one.domain}&ISO||X^Y\r" for one in (LOCAL, OTHER))).encode())


def _steward(name: str) -> RestRequest:
    """A steward decides something of ids of hospital A that can be decided."""
    ids = {"patient": str(GONE if name == "unmerge" else LOCAL)}
    if name in {"merge", "link", "unlink"}:
        ids["other"] = str(OTHER)
    return RestRequest(line=f"POST /patients/{name}", body=json.dumps({**ids, "force": True}).encode(), body_format="json")


def _looked(more: str = "") -> RestRequest:
    return RestRequest(line=f"GET /patients/{LOCAL}{more}", arguments={"id": str(LOCAL)})


def _load_row(world: World) -> None:
    """A row of a file feeds an id of hospital A anew."""
    cells = {"domain": LOCAL.domain, "id": LOCAL.value, "family": "欧阳", "birth_date": "1979-02-14"}
    patients.load(world.app, world.app.patients, Entry(of_row(cells, sender("HIS-A|HOSPA"), "file:2")), "stranger")


CASES: Mapping[tuple[str, str], list[Case]] = {
    **{("ITI-8", f"ADT^{event}"): [Case(partial(lambda event, _world: _adt(event, LOCAL), event))]
       for event in ("A01", "A04", "A05", "A28", "A08", "A31")},
    ("ITI-8", "ADT^A40"): [Case(lambda _world: _adt("A40", LOCAL, OTHER))],
    ("ITI-8", "ADT^A47"): [Case(lambda _world: _adt("A47", LOCAL, OTHER))],
    **{("ITI-30", f"ADT^{event}"): [Case(partial(lambda event, _world: _two(event), event))] for event in ("A24", "A37")},
    ("ITI-9", "QBP^Q23"): [Case(lambda _world: parse(write_pix_query(_header(), LOCAL)))],
    ("ITI-21", "QBP^Q22"): [
        Case(partial(lambda asked, _world: parse(write_pdq_query(_header(), asked)), asked))
        for asked in ([("PID.3.1", LOCAL.value), ("PID.3.4.2", LOCAL.domain)], [("PID.5.1", "欧阳"), ("PID.7", "1979")])],
    ("ITI-21", "QCN^J01"): [Case(lambda _world: parse(write_pdq_cancel(_header(), "tag")))],
    ("ITI-44", HL7 + hl7v3.ADD): [Case(
        lambda _world: _v3(hl7v3.write_add_patient(B_ONE, PERSON, sender=DEVICE_B, receiver=OURS)))],
    ("ITI-44", HL7 + hl7v3.REVISE): [Case(
        lambda _world: _v3(hl7v3.write_add_patient(B_ONE, PERSON, sender=DEVICE_B, receiver=OURS, revise=True)))],
    ("ITI-44", HL7 + hl7v3.MERGE): [Case(
        lambda _world: _v3(hl7v3.write_merge_patient(B_ONE, B_TWO, PERSON.names, sender=DEVICE_B, receiver=OURS)))],
    ("ITI-45", HL7 + hl7v3.QUERY): [Case(lambda _world: _v3(hl7v3.write_pix_query(LOCAL, sender=DEVICE_B, receiver=OURS)))],
    ("ITI-83", "GET /Patient/$ihe-pix"): [Case(lambda _world: _rest("GET", f"/$ihe-pix?sourceIdentifier={FHIR_LOCAL}"))],
    ("ITI-83", "POST /Patient/$ihe-pix"): [Case(lambda _world: _rest("POST", "/$ihe-pix", {
        "resourceType": "Parameters", "parameter": [{"name": "sourceIdentifier", "valueString": FHIR_LOCAL}]}))],
    ("ITI-78", "GET /Patient"): [
        Case(lambda _world: _rest("GET", f"?identifier={FHIR_LOCAL}")), Case(lambda _world: _rest("GET", "?birthdate=1979"))],
    ("ITI-78", "POST /Patient/_search"): [Case(lambda world: _rest("POST", f"/_search?_id={world.affinity.value}"))],
    ("ITI-78", "GET /Patient/<id>"): [Case(lambda world: replace(
        _rest("GET", f"/{world.affinity.value}"), arguments={"id": world.affinity.value}))],
    ("ITI-119", "POST /Patient/$match"): [Case(lambda _world: _rest("POST", "/$match", fhir_patient(FHIR_LOCAL, **WHO)))],
    ("ITI-104", "PUT /Patient"): [
        Case(lambda _world: _rest("PUT", f"?identifier={FHIR_LOCAL}-B", fhir_patient(f"{FHIR_LOCAL}-B", FHIR_LOCAL, **WHO)))],
    ("ITI-104", "DELETE /Patient"): [Case(lambda _world: _rest("DELETE", f"?identifier={FHIR_LOCAL}"))],
    ("ITI-47", HL7 + hl7v3_pdq.QUERY): [
        Case(partial(lambda asked, _world: _pdq(*asked), asked))
        for asked in (("livingSubjectId", f'<value root="{LOCAL.domain}" extension="{LOCAL.value}"/>'), FAMILY)],
    ("ITI-47", HL7 + hl7v3_pdq.CONTINUE): [Case(lambda _world: _v3(hl7v3_pdq.write_continuation(
        hl7v3.Ii(DEVICE_B, ASKED.control_id), sender=DEVICE_B, receiver=OURS)))],
    ("ITI-47", HL7 + hl7v3_pdq.CANCEL): [Case(lambda _world: _v3(hl7v3_pdq.write_continuation(
        hl7v3.Ii(DEVICE_B, ASKED.control_id), sender=DEVICE_B, receiver=OURS, end=True)))],
    ("ITI-18", f"{{{xml.QUERY}}}AdhocQueryRequest"): [
        Case(partial(lambda uuid, kind, world: _query(world, uuid, kind), uuid, kind))
        for uuid in QUERIES for kind in ("LeafClass", "ObjectRef") if kind == "LeafClass" or QUERIES[uuid].name == "GetAll"],
    ("ITI-42", f"{{{xml.LCM}}}SubmitObjectsRequest"): [Case(lambda world: _soap(world, ebxml.submit_request(
        bundle([document(patient=world.affinity)], patient=world.affinity))))],
    ("ITI-41", XDS + "ProvideAndRegisterDocumentSetRequest"): [Case(_provide)],
    ("ITI-43", XDS + "RetrieveDocumentSetRequest"): [Case(_documents)],
    ("RAD-69", RAD + "RetrieveImagingDocumentSetRequest"): [Case(_images)],
    ("C-ECHO", "C-ECHO"): [Case(call=lambda world: _session(world).echo())],
    ("C-STORE", "C-STORE"): [Case(call=_store)],
    ("ITI-57", ""): [Case(call=_withdraw)],
    ("CONFLICT-ASSIGN", ""): [Case(call=lambda world: _decide(world, ASSIGN))],
    ("CONFLICT-REJECT", ""): [Case(call=lambda world: _decide(world, REJECT))],
    ("CONFLICT-UNDO", ""): [Case(call=lambda world: _decide(world, UNDO))],
    ("ARCHIVE-DAMAGE", ""): [Case(call=lambda world: _damage(world, FOUND))],
    ("ARCHIVE-MEND", ""): [Case(call=lambda world: _damage(world, MENDED))],
    ("ARCHIVE-HOLD", ""): [Case(call=lambda world: _wish(world, HOLD_ROW))],
    ("ARCHIVE-PIN", ""): [Case(call=lambda world: _wish(world, PIN_ROW))],
    ("ARCHIVE-RELEASE", ""): [Case(call=lambda world: _wish(world, RELEASE_ROW))],
    ("ARCHIVE-RECALL", ""): [Case(call=_recall)],
    **{(f"PATIENT-{name.upper()}", f"POST /{name}"): [Case(partial(lambda name, _world: _steward(name), name))]
       for name in ("merge", "unmerge", "link", "unlink", "split")},
    ("PATIENT-SHOW", "GET /<id>"): [Case(lambda _world: _looked())],
    ("PATIENT-HISTORY", "GET /<id>/history"): [Case(lambda _world: _looked("/history"))],
    ("PATIENT-LOAD", ""): [Case(call=_load_row)],
    ("PATIENT-EXPORT", ""): [Case(call=lambda world: [*patients.export(
        world.app, Steward(world.app.database, world.affinity.domain), "stranger")])],
}
EVERY = [pytest.param(code, case, id=f"{code}-{name.rpartition('}')[2]}-{n}")
         for (code, name), cases in CASES.items() for n, case in enumerate(cases)]
# Ends of a query or patient: acknowledged or refused, no more.
ENDING = {"ITI-21-QCN^J01-0", "ITI-47-QUQI_IN000003UV01_Cancel-0", "ITI-104-DELETE /Patient-0"}
READING = [one for one in EVERY if one.values[0] not in TELLS_NOTHING and one.id not in ENDING]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with something of everything."""
    data = tmp_path_factory.mktemp("filled") / "data"
    data.mkdir()
    stores.sqlite(data / "broker.db").close()
    world = World(data, profiles.load("demo"), Strict())
    world.fill()
    world.close()
    return data


Enter = Callable[..., World]


@pytest.fixture
def enter(filled: Path, tmp_path: Path, profile: Profile) -> Iterator[Enter]:
    """Return a way into a copy of that folder, or into an empty one, under some rules."""
    worlds: list[World] = []

    def make(policy: Policy, *, empty: bool = False) -> World:
        data = tmp_path / f"data{len(worlds)}"
        if empty:
            data.mkdir()
            stores.sqlite(data / "broker.db").close()
        else:
            shutil.copytree(filled, data, ignore=shutil.ignore_patterns("audit", "run"))
        worlds.append(World(data, profile, policy))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def run(world: World, code: str, case: Case) -> tuple[bytes, bytes]:
    """Return what the caller said and what the caller is told."""
    if case.message is None:
        assert case.call is not None
        return b"", told(case.call(world))
    raw = case.message(world)
    return spoken(raw), told(world.perform(code, raw))


def leaks(world: World, said: bytes, reply: bytes) -> set[str]:
    return {text for text in world.secrets() if text.encode() in reply and text.encode() not in said}


def rows() -> dict[str, InternalTransaction[Any, Any, Any]]:
    """Return every row that stands in a module of the program, by its code; calls that we begin have none of this kind."""
    names = [module.name for module in pkgutil.walk_packages(broker.__path__, "broker.")]
    modules = [importlib.import_module(name) for name in names if "__main__" not in name and ".migrations" not in name]
    return {one.code: one for module in modules for one in vars(module).values() if isinstance(one, InternalTransaction)}


def test_every_row_has_a_case(enter: Enter) -> None:
    app = enter(Strict(), empty=True).app
    every = {**rows(), **{one.row.code: one.row for one in app.served}}
    keys = {(row.code, message.name) for row in every.values() for message in row.messages}
    keys |= {(row.code, "") for row in every.values() if not row.messages}
    assert keys == set(CASES)
    assert {code for code, row in every.items() if row.subject is NOBODY} == set(NAMES_NOBODY)
    assert {code for code, row in every.items() if row.filtered is NOTHING_TO_FILTER} == TELLS_NOTHING
    served = {one.row.code for one in app.served} | {"C-ECHO"}
    assert {code for code, row in every.items() if isinstance(row, Transaction)} == served


@pytest.mark.parametrize(("code", "case"), READING)
def test_who_may_see_everything_is_told_something(enter: Enter, code: str, case: Case) -> None:
    world = enter(Strict())
    said, reply = run(world, code, case)
    assert leaks(world, said, reply) or len(reply) > 1000 or b"ObjectRef id=" in reply, reply


@pytest.mark.parametrize(("code", "case"), EVERY)
def test_rules_that_allow_nothing_are_asked_first_and_let_nothing_out_or_in(enter: Enter, code: str, case: Case) -> None:
    rules = Rules(denied=None)
    world = enter(rules)
    before = world.content()
    said, reply = b"", b""
    if code in INTERNAL:
        with pytest.raises(Rejected, match="AccessDenied"):
            run(world, code, case)
    else:
        said, reply = run(world, code, case)
    ((asked, subjects),) = rules.asked
    ids = (LOCAL, B_ONE, GONE, world.affinity)
    assert asked == code
    names_somebody = code in INTERNAL - NAMES_NOBODY.keys()
    assert bool(subjects) is (names_somebody or any(patient.value.encode() in said for patient in ids))
    assert leaks(world, said, reply) == set()
    assert world.content() == before
    lines = [line for file in world.app.settings.audit_folder.glob("*") for line in file.read_text("utf-8").splitlines()]
    assert lines
    assert all('EventOutcomeIndicator="4"' in line and "AccessDenied" in line for line in lines)


@pytest.mark.parametrize(("code", "case"), EVERY)
def test_rules_that_show_nothing_let_nothing_out(enter: Enter, code: str, case: Case) -> None:
    rules = Rules()
    world = enter(rules)
    world.app.receiver.start()
    try:
        said, reply = run(world, code, case)
    finally:
        world.app.receiver.stop()
    assert code in {asked for asked, _ in rules.asked}
    assert leaks(world, said, reply) == set()


@pytest.mark.parametrize(("code", "case"), [one for one in EVERY if one.values[0] in {"ITI-18", "ITI-43", "RAD-69"}])
def test_what_may_not_be_seen_is_answered_as_what_is_not_there(enter: Enter, code: str, case: Case) -> None:
    hiding, empty = enter(Rules()), enter(Strict(), empty=True)
    assert case.message is not None
    raw = case.message(hiding)
    assert told(hiding.perform(code, raw)) == told(empty.perform(code, raw))


@pytest.mark.parametrize("asked", [
    [("PID.3.1", LOCAL.value), ("PID.3.4.2", LOCAL.domain)], [("PID.5.1", "欧阳"), ("PID.7", "1979")]])
def test_demographics_that_may_not_be_seen_find_nobody(enter: Enter, asked: list[tuple[str, str]]) -> None:
    world = enter(Rules())
    assert b"|NF||0|0|0" in world.perform("ITI-21", parse(write_pdq_query(_header(), asked, quantity=1)))
    audited = "".join(file.read_text("utf-8") for file in world.app.settings.audit_folder.glob("*"))
    assert 'csd-code="ITI-21"' in audited
    assert world.affinity.value not in audited


@pytest.mark.parametrize("code", ["ITI-18", "RAD-69"])
def test_the_audit_of_an_answer_does_not_name_whom_it_hides(enter: Enter, code: str) -> None:
    case = next(cases for (key, _), cases in CASES.items() if key == code)[-1]
    lines: list[str] = []
    for policy in (Strict(), Rules()):
        world = enter(policy)
        run(world, code, case)
        files = world.app.settings.audit_folder.glob("*")
        lines.append("".join(file.read_text("utf-8") for file in files))
    who = world.affinity.value if code == "ITI-18" else "A-1^^^"
    assert [who in line for line in lines] == [True, False]


@pytest.mark.parametrize("code", ["ITI-9", "ITI-45"])
def test_a_cross_reference_that_may_not_be_seen_does_not_come_out(enter: Enter, code: str) -> None:
    (case,) = next(cases for (key, _), cases in CASES.items() if key == code)
    world = enter(Rules())
    _, reply = run(world, code, case)
    assert b"|NF" in reply or b'"NF"' in reply


def test_a_repository_that_may_not_register_keeps_nothing(enter: Enter) -> None:
    rules = Rules(denied=frozenset(("ITI-42",)))
    world = enter(rules)
    before = world.content()
    assert b"AccessDenied" in told(world.perform("ITI-41", _provide(world)))
    assert [code for code, _ in rules.asked] == ["ITI-41", "ITI-42"]
    assert world.content() == before


def test_the_row_of_c_store_is_the_one_that_sessions_use() -> None:
    assert rows()["C-STORE"] is c_store.ROW
