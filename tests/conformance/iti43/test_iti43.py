import hashlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker.audit.spool import AuditLog
from broker.config.profile import Profile
from broker.db import Database
from broker.files.sources import FileSlice
from broker.model.caller import Caller
from broker.model.ids import PatientId
from broker.model.transaction import Disclosure, ServedTransaction, TransactionRow
from broker.repository import iti43_retrieve
from broker.repository.actor import Repository
from broker.repository.documents import IncomingDocument
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire.ebxml import read_registry_response
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import RS, XDS, Element, parse
from tests.helpers.manifests import FakeRegistrar, retrieve, spooled

OURS = "2.999.1.2"
CALLER = Caller(node="http://consumer", address="10.0.0.8", local_node="http://broker/xds/repository")
STORED = {
    "2.25.1": (b"first\r\n\0", "application/dicom"), "2.25.2": (b"", 'text/x-nonsense;v="1"'), "2.25.3": (b"third", "no type")}


@dataclass
class Answered:
    """What came back: status, problems, documents as (element texts, bytes)."""

    reply: SoapReply
    element: Element
    status: str = field(init=False)

    def __post_init__(self) -> None:
        response = self.element.find(f"{{{RS}}}RegistryResponse")
        assert response is not None
        self.said = read_registry_response(response)
        self.status = self.said.status

    @property
    def problems(self) -> list[tuple[str, str]]:
        return [(problem.code, problem.location) for problem in self.said.problems]

    @property
    def documents(self) -> list[dict[str, Any]]:
        parts = {f"cid:{part.content_id}": part for part in self.reply.parts}
        found = []
        for response in self.element.iterfind(f"{{{XDS}}}DocumentResponse"):
            texts: dict[str, Any] = {str(child.tag).rpartition("}")[2]: child.text for child in response}
            part = parts.pop(response[-1][0].get("href", ""))
            assert isinstance(part.source, FileSlice), "documents are streamed from their files"
            texts["Document"] = b"".join(part.source.chunks())
            texts["type"] = part.media_type
            found.append(texts)
        assert parts == {}
        return found


@dataclass
class Bench:
    repository: Repository
    folder: Path

    def perform(self, request: SoapRequest, policy: Any = None) -> Answered:
        gate = Gate(policy or Open(), AuditLog(self.folder / "audit", "broker", "demo"))
        reply = gate.perform(ServedTransaction(iti43_retrieve.ROW, self.repository), request, CALLER)
        element = parse(b"".join(reply.fragments))
        assert element.tag == f"{{{XDS}}}RetrieveDocumentSetResponse"
        return Answered(reply, element)

    def audited(self) -> ET.Element:
        lines = [line for file in (self.folder / "audit").glob("*") for line in file.read_text().splitlines()]
        return ET.fromstring(lines[-1])


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    repository = Repository(database, tmp_path / "documents", profile, FakeRegistrar())
    repository.documents.commit(repository.documents.stage([
        IncomingDocument(unique_id=unique_id, mime_type=mime_type, spooled=spooled(data, tmp_path / "spool", unique_id))
        for unique_id, (data, mime_type) in STORED.items()]))
    return Bench(repository, tmp_path)


def test_documents_come_back_as_they_were_provided(bench: Bench) -> None:
    answer = bench.perform(retrieve(*((OURS, unique_id) for unique_id in STORED)))
    assert answer.status == "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success"
    assert answer.problems == []
    found = {one["DocumentUniqueId"]: one for one in answer.documents}
    assert {key: (one["Document"], one["mimeType"]) for key, one in found.items()} == STORED
    assert {one["RepositoryUniqueId"] for one in found.values()} == {OURS}
    assert [one["type"] for one in found.values()] == ["application/dicom", *["application/octet-stream"] * 2]


def test_the_home_community_comes_back_only_where_it_was_asked(bench: Bench) -> None:
    assert "HomeCommunityId" not in bench.perform(retrieve((OURS, "2.25.1"))).documents[0]
    answer = bench.perform(retrieve((OURS, "2.25.1"), home="urn:oid:2.999.1"))
    assert answer.documents[0]["HomeCommunityId"] == "urn:oid:2.999.1"


def test_each_request_is_answered_also_a_repeated_one(bench: Bench) -> None:
    answer = bench.perform(retrieve((OURS, "2.25.1"), (OURS, "2.25.1")))
    assert [one["Document"] for one in answer.documents] == [b"first\r\n\0"] * 2
    assert len({part.content_id for part in answer.reply.parts}) == 2


CASES: tuple[tuple[str, list[tuple[str, str]], str, list[tuple[str, str]]], ...] = (
    ("unknown document", [(OURS, "2.25.9")], "Failure", [("XDSDocumentUniqueIdError", "2.25.9")]),
    ("unknown repository", [("2.999.9", "2.25.1")], "Failure", [("XDSUnknownRepositoryId", "2.25.1")]),
    ("both", [("2.999.9", "2.25.1"), (OURS, "2.25.9")], "Failure",
     [("XDSUnknownRepositoryId", "2.25.1"), ("XDSDocumentUniqueIdError", "2.25.9")]),
    ("one of two", [(OURS, "2.25.9"), (OURS, "2.25.1")], "PartialSuccess", [("XDSDocumentUniqueIdError", "2.25.9")]),
    ("one and a foreign one", [(OURS, "2.25.1"), ("2.999.9", "2.25.1")], "PartialSuccess",
     [("XDSUnknownRepositoryId", "2.25.1")]),
    ("nothing asked", [], "Failure", [("XDSRepositoryError", "")]),
    ("markup in an id", [(OURS, "&lt;a&gt;")], "Failure", [("XDSDocumentUniqueIdError", "<a>")]),
)


@pytest.mark.parametrize(("wanted", "status", "problems"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_cannot_be_given_is_named_one_by_one(
    bench: Bench, wanted: list[tuple[str, str]], status: str, problems: list[tuple[str, str]],
) -> None:
    answer = bench.perform(retrieve(*wanted))
    prefix = "urn:ihe:iti:2007:" if status == "PartialSuccess" else "urn:oasis:names:tc:ebxml-regrep:"
    assert answer.status == f"{prefix}ResponseStatusType:{status}"
    assert answer.problems == problems
    assert len(answer.documents) == len(wanted) - len(problems) if wanted else answer.documents == []
    event = bench.audited().find("EventIdentification")
    assert event is not None
    assert event.get("EventOutcomeIndicator") == ("0" if status == "PartialSuccess" else "4")


@pytest.mark.parametrize("data", [None, b"fir"])
def test_a_lost_or_damaged_file_is_not_given(bench: Bench, data: bytes | None) -> None:
    found = bench.repository.documents.find("2.25.1")
    assert found is not None
    path = Path(found[1].path)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    answer = bench.perform(retrieve((OURS, "2.25.1"), (OURS, "2.25.3")))
    assert answer.problems == [("XDSDocumentUniqueIdError", "2.25.1")]
    assert [one["DocumentUniqueId"] for one in answer.documents] == ["2.25.3"]


class OnlyTheThird:
    """A policy under which one document may be seen."""

    def authorise(self, row: TransactionRow, caller: Caller, subjects: tuple[PatientId, ...]) -> None:
        """Allow."""

    def may_see(self, caller: Caller, item: Disclosure) -> bool:
        return item.unique_id == "2.25.3"


def test_what_may_not_be_seen_is_as_if_it_were_not_there(bench: Bench) -> None:
    answer = bench.perform(retrieve((OURS, "2.25.1"), (OURS, "2.25.3"), (OURS, "2.25.9")), OnlyTheThird())
    assert [one["DocumentUniqueId"] for one in answer.documents] == ["2.25.3"]
    assert answer.problems == [("XDSDocumentUniqueIdError", "2.25.1"), ("XDSDocumentUniqueIdError", "2.25.9")]
    hidden = bench.perform(retrieve((OURS, "2.25.1")), OnlyTheThird())
    assert hidden.status.endswith("Failure")


def test_the_export_is_audited_with_us_as_its_source(bench: Bench) -> None:
    bench.perform(retrieve((OURS, "2.25.1")))
    message = bench.audited()
    event = message.find("EventIdentification")
    assert event is not None
    assert event.get("EventActionCode") == "R"
    assert [(code.get("csd-code"), code.tag) for code in event] == [("110106", "EventID"), ("ITI-43", "EventTypeCode")]
    roles = {one.get("UserID"): code.get("csd-code") for one in message.iter("ActiveParticipant") for code in one}
    assert roles == {"http://consumer": "110152", "http://broker/xds/repository": "110153"}
    assert [thing.get("ParticipantObjectID") for thing in message.iter("ParticipantObjectIdentification")] == ["2.25.1"]


def test_the_stored_file_is_named_by_its_hash(bench: Bench) -> None:
    found = bench.repository.documents.find("2.25.1")
    assert found is not None
    assert Path(found[1].path).parent.name == hashlib.sha1(b"first\r\n\0").hexdigest()[:2]


def test_many_documents_cost_few_statements(bench: Bench, database: Database) -> None:
    seen: list[str] = []
    with database.read() as unit:
        unit.driver.set_trace_callback(seen.append)     # the connection used last is the one used next
    answer = bench.perform(retrieve((OURS, "2.25.1"), *((OURS, f"2.26.{number}") for number in range(1000)), (OURS, "2.25.3")))
    assert [one["DocumentUniqueId"] for one in answer.documents] == ["2.25.1", "2.25.3"]
    assert len(answer.problems) == 1000
    assert 0 < len(seen) < 10
