"""A PIX manager of the demonstration region with its edges, and messages as hospitals send them."""

import base64
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxml import etree

from broker.audit.spool import AuditLog
from broker.config.profile import Domain, Feeder, Profile
from broker.config.settings import Settings
from broker.db import Database
from broker.edge.mllp.server import MllpServer
from broker.edge.soap import schema
from broker.model.caller import Caller
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.people import Demographics, PersonName
from broker.model.ports import Unit
from broker.model.transaction import AnyTransaction, ServedTransaction, Transaction
from broker.patients import (
    iti8_feed,
    iti9_query,
    iti21_query,
    iti30_link,
    iti44_feed,
    iti45_query,
    iti47_query,
    iti78_search,
    iti83_query,
    iti104_feed,
    iti119_match,
)
from broker.patients.actor import PixManager
from broker.patients.demographics import DemographicsSupplier
from broker.patients.events import Happened
from broker.patients.settle import Followers, Settler
from broker.patients.store import log, records
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire import hl7v3
from broker.wire.hl7v2 import Header
from broker.wire.hl7v2_pix import write_adt
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import Element, parse
from tests.helpers.fhir import Fhir
from tests.helpers.manifests import FakeCoord

XAD, HOSPA, HOSPB, HOSPC, CLINIC = "2.999.1.1", "2.999.2.1", "2.999.3.1", "2.999.4.1", "2.999.6.1"
OURS, DEVICE_B, DEVICE_C = "2.999.1.4", "2.999.3.9", "2.999.4.9"
NS = {"h": "urn:hl7-org:v3"}
WEI = Demographics(names=(PersonName("张", "伟"), PersonName("ZHANG", "WEI")), birth_date="19790214", sex="M")
DOMAINS = {HOSPA: "HOSPA", HOSPB: "HOSPB", HOSPC: "HOSPC"}

V3Row = Transaction[Any, SoapRequest, Any, Any, SoapReply]


def region(profile: Profile, **changes: Any) -> Profile:
    """Return the demonstration region with a third hospital that feeds by V3, and a domain that hospitals A and B both feed.

    `changes` are keys of region.toml.
    """
    third = Domain(oid=HOSPC, namespace="HOSPC", feeders=(Feeder(device_oid=DEVICE_C),))
    clinic = Domain(oid=CLINIC, namespace="CLINIC", feeders=(
        Feeder(application="HIS-A", facility="HOSPA"), Feeder(device_oid=DEVICE_B)))
    return profile.model_copy(update={
        "domains": (*profile.domains, third, clinic), "region": profile.region.model_copy(update=changes)})


@dataclass
class Ports:
    """Remembers what the manager told the other actors; `failing` makes the registry refuse a merge."""

    arrived: list[PatientId] = field(default_factory=list)
    merged: list[tuple[PatientId, PatientId]] = field(default_factory=list)
    moved: list[tuple[set[PatientId], PatientId, PatientId]] = field(default_factory=list)
    parted: list[tuple[set[PatientId], PatientId, PatientId]] = field(default_factory=list)
    failing: bool = False

    def on_parted(
        self, unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId, kept: Collection[PatientId],
    ) -> list[str]:
        self.parted.append((set(local), before, now))
        return []

    def on_moved(self, unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId) -> None:
        self.moved.append((set(local), before, now))

    def on_arrived(self, unit: Unit, local: PatientId) -> None:
        self.arrived.append(local)

    def on_merged(self, unit: Unit, retired: PatientId, survivor: PatientId) -> None:
        if self.failing:
            raise ZeroDivisionError
        self.merged.append((retired, survivor))


def ids_of(manager: PixManager, unit: Unit, patient: PatientId) -> list[PatientId]:
    """Return every active id of the person with this id, the affinity-domain id first; nothing when unknown."""
    affinity = manager.affinity_id(unit, patient)
    group = records.find_group(unit, affinity.value) if affinity else None
    return [affinity, *sorted(member.patient for member in records.members(unit, [group.id]))] if affinity and group else []


def events(unit: Unit, patient: PatientId) -> list[Happened]:
    """Return what happened to this id (local or of the affinity domain), in order."""
    return log.of(unit, patient)


class Bench:
    """The manager, what it told others, and the doors to it without a socket."""

    def __init__(self, database: Database, profile: Profile, folder: Path) -> None:
        self.database, self.ports, self.folder, self.coord = database, Ports(), folder, FakeCoord()
        followers = Followers(
            arrived=self.ports.on_arrived, merged=self.ports.on_merged, moved=self.ports.on_moved, parted=self.ports.on_parted)
        self.settler = Settler(profile, self.coord, followers)
        self.manager = PixManager(database, self.settler)
        self.gate = Gate(Open(), AuditLog(folder / "audit", "broker", "demo"))
        self.supplier = DemographicsSupplier(database, profile, lambda: self.now)
        self.now = 1_000_000.0
        self.served: list[AnyTransaction] = [
            *(ServedTransaction(row, self.manager) for row in (iti8_feed.ROW, iti9_query.ROW, iti30_link.ROW)),
            ServedTransaction(iti21_query.ROW, self.supplier)]
        self.mllp = MllpServer(self.served, self.gate, Settings(), (profile.region.application, profile.region.facility))
        self.fhir = Fhir([
            ServedTransaction(iti83_query.row(XAD), self.manager), ServedTransaction(iti104_feed.ROW, self.manager),
            ServedTransaction(iti78_search.row(XAD), self.supplier), ServedTransaction(iti119_match.ROW, self.supplier),
        ], self.gate)

    def v2(self, message: str, encoding: str = "utf-8") -> list[list[str]]:
        """Send an HL7 v2 message; return the answer as fields per segment."""
        reply = self.mllp.answer(message.strip().replace("\n", "\r").encode(encoding), "10.0.0.7")
        return [line.split("|") for line in reply.decode(encoding).split("\r") if line]

    def feed(self, event: str, value: str, person: Demographics = WEI, retired: str = "", control: str = "") -> str:
        """Let hospital A feed one of its ids by ITI-8; return MSA-1."""
        header = Header(
            sender=("HIS-A", "HOSPA"), receiver=("BROKER", "REGION"), charset="GB 18030-2000", version="2.3.1",
            message_id=MessageId("20260301101500+0800", control) if control else MessageId.now())
        data = write_adt(header, event, PatientId(HOSPA, value), person, namespace="HOSPA",
                         retired=PatientId(HOSPA, retired) if retired else None)
        return self.mllp.answer(data, "10.0.0.7").decode("gb18030").split("\r")[1].split("|")[1]

    def v3(self, message: bytes) -> Element:
        """Send a V3 message that is valid by its schema; return the answer, valid as well."""
        name = parse(message).tag
        rows: tuple[V3Row, ...] = (iti44_feed.row(OURS), iti45_query.row(OURS), iti47_query.row(OURS))
        row = next(row for row in rows for m in row.messages if m.name == name)
        return self.perform(row, message)

    def perform(self, row: V3Row, message: bytes) -> Element:
        body = parse(message)
        schema.check(row.schema, body)
        request = SoapRequest(body=body, message=next(m for m in row.messages if m.name == body.tag))
        caller = Caller(node="http://his.example", address="10.0.0.8", local_node="http://broker/pix")
        actor = self.supplier if row.code == "ITI-47" else self.manager
        reply = self.gate.perform(ServedTransaction(row, actor), request, caller)
        assert isinstance(reply, SoapReply)
        answer = parse(b"".join(reply.fragments))
        schema.check(row.schema, answer)
        assert answer.prefix is None
        return answer

    def add(self, value: str, person: Demographics = WEI, *, domain: str = HOSPB, revise: bool = False) -> str:
        """Let hospital B or C feed one of its ids by ITI-44; return the acknowledgement's code."""
        sender = DEVICE_C if domain == HOSPC else DEVICE_B
        return ack(self.v3(hl7v3.write_add_patient(
            PatientId(domain, value), person, sender=sender, receiver=OURS, revise=revise)))

    def merge(self, value: str, retired: str, *, domain: str = HOSPB) -> str:
        sender = DEVICE_C if domain == HOSPC else DEVICE_B
        return ack(self.v3(hl7v3.write_merge_patient(
            PatientId(domain, value), PatientId(domain, retired), WEI.names, sender=sender, receiver=OURS)))

    def who(self, value: str, domain: str = HOSPA) -> set[str]:
        """Return the local ids of the person with this local id."""
        with self.database.read() as unit:
            return {patient.value for patient in ids_of(self.manager, unit, PatientId(domain, value)) if patient.domain != XAD}

    def affinity(self, value: str, domain: str = HOSPA) -> str:
        """Return the affinity-domain id of the person with this local id; empty when there is none."""
        with self.database.read() as unit:
            found = self.manager.affinity_id(unit, PatientId(domain, value))
        return found.value if found else ""

    def is_active(self, value: str) -> bool:
        with self.database.read() as unit:
            return self.manager.is_active(unit, PatientId(XAD, value))

    def audited(self) -> list[dict[str, Any]]:
        """Return the audit records in order: code, action, outcome, patient, nodes, details, query."""
        lines = [line for file in sorted((self.folder / "audit").glob("*")) for line in file.read_text("utf-8").splitlines()]
        return [_record(etree.fromstring(line)) for line in lines]


def _record(message: Element) -> dict[str, Any]:
    def one(path: str) -> str:
        found = message.xpath(path)
        return str(found[0]) if isinstance(found, list) and found else ""

    query = one("//ParticipantObjectQuery/text()")
    detail = one("//ParticipantObjectIdentification[@ParticipantObjectTypeCode='1']/ParticipantObjectDetail/@value")
    return {
        "event": one("//EventID/@csd-code"), "type": one("//EventTypeCode/@csd-code"), "action": one("//@EventActionCode"),
        "outcome": one("//@EventOutcomeIndicator"), "nodes": message.xpath("//ActiveParticipant/@UserID"),
        "patient": one("//ParticipantObjectIdentification[@ParticipantObjectTypeCode='1']/@ParticipantObjectID"),
        "message": base64.b64decode(detail).decode(), "query": base64.b64decode(query),
    }


def ack(answer: Element) -> str:
    """Return the type code of an acknowledgement."""
    return attribute(answer, "h:acknowledgement/h:typeCode", "code")


def attribute(answer: Element, path: str, name: str) -> str:
    found = answer.find(path, NS)
    return "" if found is None else found.get(name) or ""


def details(answer: Element) -> list[list[str]]:
    """Return (code, location) of the acknowledgement's details."""
    return [
        [attribute(detail, "h:code", "code"), detail.findtext("h:location", "", NS)]
        for detail in answer.iterfind("h:acknowledgement/h:acknowledgementDetail", NS)]


def plain(text: str) -> str:
    """Return text with random affinity-domain ids replaced by XAD."""
    return re.sub(r"[0-9A-HJKMNP-TV-Z]{15}(?=\^\^\^)", "XAD", text)
