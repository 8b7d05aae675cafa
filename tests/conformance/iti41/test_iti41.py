import base64
import errno
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from broker.audit.spool import AuditLog
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.db import Database
from broker.edge.http import routes
from broker.edge.soap.application import validated
from broker.model.caller import Caller
from broker.model.errors import Problem, Rejected, TooLarge, Unavailable
from broker.model.metadata import Association, DocumentEntry, RegistryObjects
from broker.model.transaction import ServedTransaction
from broker.registry.actor import Registry
from broker.repository import iti41_provide, iti43_retrieve, store
from broker.repository.actor import Repository
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire.ebxml import RegistryResponse, read_registry_response, submit_request
from broker.wire.ebxml_rim import first, read_slots, tag
from broker.wire.soap import SoapReply, SoapRequest, SoapTransaction
from broker.wire.xml import RS, XDS, parse
from tests.helpers import soap
from tests.helpers.manifests import (
    PATIENT,
    FakeDirectory,
    FakeRegistrar,
    included,
    kos,
    metadata,
    provide,
    provide_one,
    spooled,
    study,
)

DOCUMENT = b"manifest\r\n\0--boundary"
SHA1 = hashlib.sha1(DOCUMENT).hexdigest()
CALLER = Caller(node="http://source", address="10.0.0.9", local_node="http://broker/xds/repository")


@dataclass
class Bench:
    """A repository beside a registry that answers as told."""

    database: Database
    profile: Profile
    folder: Path
    registrar: FakeRegistrar = field(default_factory=FakeRegistrar)

    @property
    def repository(self) -> Repository:
        return Repository(self.database, self.folder / "documents", self.profile, self.registrar)

    def perform(self, request: SoapRequest, served: SoapTransaction | None = None) -> RegistryResponse:
        gate = Gate(Open(), AuditLog(self.folder / "audit", "broker", "demo"))
        reply = gate.perform(served or ServedTransaction(iti41_provide.ROW, self.repository), request, CALLER)
        assert isinstance(reply, SoapReply)
        assert reply.parts == ()
        element = parse(b"".join(reply.fragments))
        assert element.tag == f"{{{RS}}}RegistryResponse"
        return read_registry_response(element)

    def objects(self, **changes: Any) -> RegistryObjects:
        made = metadata(self.profile, DOCUMENT, **changes)
        return replace(made, documents=(replace(made.documents[0], hash="", size=None),))

    def stored(self, unique_id: str) -> bytes | None:
        found = self.repository.documents.find(unique_id)
        return None if found is None else b"".join(found[1].chunks())

    def files(self) -> list[Path]:
        return [path for path in (self.folder / "documents").rglob("*") if path.is_file()]

    def rows(self, unique_id: str) -> list[str]:
        with self.database.read() as unit:
            return [row.state for row in store.find(unit, unique_id)]

    def audited(self) -> list[ET.Element]:
        return [ET.fromstring(line) for file in (self.folder / "audit").glob("*") for line in file.read_text().splitlines()]


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    return Bench(database, profile, tmp_path)


def one(objects: RegistryObjects, **changes: Any) -> RegistryObjects:
    return replace(objects, documents=(replace(objects.documents[0], **changes),))


def without_added(entry: DocumentEntry) -> DocumentEntry:
    return replace(entry, hash="", size=None, repository_unique_id="")


def status(response: RegistryResponse) -> str:
    return response.status.rpartition(":")[2]


# accept

def test_a_document_is_stored_then_registered_with_what_the_repository_adds(bench: Bench) -> None:
    objects = bench.objects()
    unique_id = objects.documents[0].unique_id
    bench.registrar.during = lambda: seen.append(bench.stored(unique_id))
    seen: list[bytes | None] = []
    assert status(bench.perform(provide_one(objects, DOCUMENT, bench.folder / "spool"))) == "Success"
    assert seen == [DOCUMENT], "ITI TF-2 3.41.4.1.3: retrievable before it is registered"
    assert bench.stored(unique_id) == DOCUMENT
    assert bench.rows(unique_id) == ["stored"]
    registered = bench.registrar.seen[0].objects
    entry = registered.documents[0]
    assert (entry.hash, entry.size, entry.repository_unique_id) == (SHA1, len(DOCUMENT), "2.999.1.2")
    assert without_added(entry) == without_added(objects.documents[0])
    assert replace(registered, documents=()) == replace(objects, documents=())


Change = Callable[[DocumentEntry], DocumentEntry]


@pytest.mark.parametrize(("change", "expected"), [
    (lambda e: replace(e, hash=SHA1.upper(), size=len(DOCUMENT)), (SHA1.upper(), len(DOCUMENT))),
    (lambda e: replace(e, repository_unique_id="1.2.3.4"), (SHA1, len(DOCUMENT))),
    (lambda e: replace(e, extra={"urn:example:wardNote": ("one", "two")}), (SHA1, len(DOCUMENT))),
    (lambda e: replace(e, mime_type="text/x-nonsense", title="標題", patient_id=""), (SHA1, len(DOCUMENT))),
], ids=["hash in upper case", "another repository's id", "extra slots", "metadata that is the registry's to judge"])
def test_metadata_that_is_not_the_repositorys_goes_through_untouched(
    bench: Bench, change: Change, expected: tuple[str, int],
) -> None:
    objects = bench.objects()
    sent = change(objects.documents[0])
    assert status(bench.perform(provide_one(replace(objects, documents=(sent,)), DOCUMENT, bench.folder / "spool"))) == "Success"
    entry = bench.registrar.seen[0].objects.documents[0]
    assert (entry.hash, entry.size, entry.repository_unique_id) == (*expected, "2.999.1.2")
    assert without_added(entry) == without_added(sent)


def test_an_inline_document_inside_the_multipart_is_taken(bench: Bench) -> None:
    objects = bench.objects()
    inline = f'<xds:Document id="{objects.documents[0].id}">{base64.b64encode(DOCUMENT).decode()}</xds:Document>'
    assert status(bench.perform(provide(submit_request(objects), [inline], {}))) == "Success"
    assert bench.stored(objects.documents[0].unique_id) == DOCUMENT
    assert len(bench.files()) == 1


def two(bench: Bench) -> RegistryObjects:
    """A submission of two documents."""
    objects, more = bench.objects(), bench.objects().documents[0]
    link = Association(
        id="member-2", type=objects.associations[0].type, source=objects.submission_sets[0].id, target=more.id,
        submission_set_status="Original")
    return replace(objects, documents=(*objects.documents, more), associations=(*objects.associations, link))


def test_several_documents_of_one_submission(bench: Bench) -> None:
    objects = two(bench)
    spool = bench.folder / "spool"
    attachments = {"a": spooled(b"first", spool, "a"), "b": spooled(b"second", spool, "b")}
    documents = [included(entry.id, f"cid:{name}") for entry, name in zip(objects.documents, "ab", strict=True)]
    assert status(bench.perform(provide(submit_request(objects), documents, attachments))) == "Success"
    assert [bench.stored(entry.unique_id) for entry in objects.documents] == [b"first", b"second"]
    sizes = [first(read_slots(entry), "size") for entry in bench.registrar.seen[0].element.iter(tag("ExtrinsicObject"))]
    assert sizes == ["5", "6"]


def test_a_submission_without_documents_goes_to_the_registry(bench: Bench) -> None:
    objects = replace(bench.objects(), documents=(), associations=())
    assert status(bench.perform(provide(submit_request(objects), [], {}))) == "Success"
    assert len(bench.registrar.seen) == 1


def test_an_attachment_of_a_header_is_no_document(bench: Bench) -> None:
    objects = bench.objects()
    spool = bench.folder / "spool"
    certificate = '<T><xop:Include xmlns:xop="http://www.w3.org/2004/08/xop/include" href="cid:certificate"/></T>'
    request = provide(
        submit_request(objects), [included(objects.documents[0].id, "cid:doc")],
        {"doc": spooled(DOCUMENT, spool, "doc"), "certificate": spooled(b"x509", spool, "c")}, certificate)
    assert status(bench.perform(request)) == "Success"


def test_the_registrys_warnings_are_relayed(bench: Bench) -> None:
    warning = Problem("XDSExtraMetadataNotSaved", "urn:example:wardNote")
    bench.registrar.answer = (warning,)
    response = bench.perform(provide_one(bench.objects(), DOCUMENT, bench.folder / "spool"))
    assert (status(response), response.warnings, response.problems) == ("Success", (warning,), ())


def test_the_same_document_again_is_one_file(bench: Bench) -> None:
    objects = bench.objects()
    for n in "ab":
        assert status(bench.perform(provide_one(objects, DOCUMENT, bench.folder / n))) == "Success"
    assert len(bench.files()) == 1
    assert len(bench.registrar.seen) == 2, "whether it may be registered again is the registry's to say"


# reject

@dataclass(frozen=True)
class Case:
    """A request that is refused: what is sent, and the problems of the answer as (code, what the context names)."""

    name: str
    expected: tuple[tuple[str, str], ...]
    change: Callable[[RegistryObjects], RegistryObjects] = lambda objects: objects
    documents: Callable[[str], list[str]] = lambda name: [included(name, "cid:doc")]
    attachments: tuple[str, ...] = ("doc",)
    registry: BaseException | None = None


REFUSED = Rejected.of([Problem("XDSUnknownPatientId", "Patient P-1 is not known", "line 7"),
                       Problem("XDSRegistryMetadataError", "practiceSettingCode")])
CASES = (
    Case("no document", (("XDSMissingDocument", "urn:uuid:"),), documents=lambda name: [], attachments=()),
    Case("document under another id", (("XDSMissingDocument", "urn:uuid:"), ("XDSMissingDocumentMetadata", "Doc9")),
         documents=lambda name: [included("Doc9", "cid:doc")]),
    Case("document without entry", (("XDSMissingDocumentMetadata", "Doc9"),),
         documents=lambda name: [included(name, "cid:doc"), included("Doc9", "cid:doc")]),
    Case("attachment nobody refers to", (("XDSMissingDocumentMetadata", "lost"),), attachments=("doc", "lost")),
    Case("reference without attachment", (("XDSMissingDocument", "gone"),),
         documents=lambda name: [included(name, "cid:gone")], attachments=()),
    Case("two documents for one entry", (("XDSRepositoryMetadataError", "2 times"),),
         documents=lambda name: [included(name, "cid:doc")] * 2),
    Case("document is a link", (("XDSRepositoryError", "not an attachment"),),
         documents=lambda name: [included(name, "http://169.254.169.254/")], attachments=()),
    Case("document is no base64", (("XDSRepositoryError", "base64"),),
         documents=lambda name: [f'<xds:Document id="{name}">*</xds:Document>'], attachments=()),
    Case("wrong hash", (("XDSRepositoryMetadataError", SHA1),), change=lambda o: one(o, hash="0" * 40)),
    Case("wrong size", (("XDSRepositoryMetadataError", "size"),), change=lambda o: one(o, size=len(DOCUMENT) + 1)),
    Case("wrong hash and size", (("XDSRepositoryMetadataError", "hash"), ("XDSRepositoryMetadataError", "size")),
         change=lambda o: one(o, hash="abc", size=1)),
    Case("no uniqueId", (("XDSRepositoryMetadataError", "uniqueId"),), change=lambda o: one(o, unique_id="")),
    Case("endless uniqueId", (("XDSRepositoryMetadataError", "uniqueId"),), change=lambda o: one(o, unique_id="1" * 257)),
    Case("uniqueId twice", (("XDSRepositoryDuplicateUniqueIdInMessage", "2.25.5"),),
         change=lambda o: replace(o, documents=(replace(o.documents[0], unique_id="2.25.5"),
                                                replace(o.documents[0], unique_id="2.25.5", id="Doc2"))),
         documents=lambda name: [included(name, "cid:doc"), included("Doc2", "cid:doc")]),
    Case("registry refuses", (("XDSUnknownPatientId", "P-1"), ("XDSRegistryMetadataError", "practiceSettingCode")),
         registry=REFUSED),
    Case("too large for the registry", (("XDSRepositoryOutOfResources", "max_request"),), registry=TooLarge("max_request")),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_refusal_names_what_is_wrong_and_leaves_nothing(bench: Bench, case: Case) -> None:
    objects = case.change(bench.objects())
    attachments = {name: spooled(DOCUMENT, bench.folder / "spool", name) for name in case.attachments}
    bench.registrar.answer = case.registry or ()
    response = bench.perform(provide(submit_request(objects), case.documents(objects.documents[0].id), attachments))
    assert status(response) == "Failure"
    assert [problem.code for problem in response.problems] == [code for code, _ in case.expected]
    for problem, (_, named) in zip(response.problems, case.expected, strict=True):
        assert named in problem.context
    if case.registry is REFUSED:
        assert response.problems == REFUSED.problems, "relayed unchanged, locations too"
    else:
        assert {problem.location for problem in response.problems} == {""}
    assert bench.files() == []
    assert [bench.rows(entry.unique_id) for entry in objects.documents] == [[]] * len(objects.documents)
    assert bench.registrar.seen == []
    event = bench.audited()[-1].find("EventIdentification")
    assert event is not None
    assert event.get("EventOutcomeIndicator") == "4"


@pytest.mark.parametrize(("old", "new", "told"), [
    (b"<Classification id=", b"<Classification lid=", "Classification in ExtrinsicObject "),
    (b'<Slot name="languageCode">', b"<Slot>", "attribute name is missing"),
    (b"<ValueList>", b"<ValueList><Value>" + b"x" * 300 + b"</Value>", "it is too long: 300 characters, 256 are allowed"),
    (b"<ExtrinsicObject ", b"<ExtrinsicObject colour='red' ", "/@colour: the attribute is not allowed here"),
])
def test_a_schema_error_is_the_repositorys_metadata_error(bench: Bench, old: bytes, new: bytes, told: str) -> None:
    objects = bench.objects()
    text = submit_request(objects)
    assert old in text
    documents = [included(objects.documents[0].id, "cid:doc")]
    attachments = {"doc": spooled(DOCUMENT, bench.folder / "spool", "doc")}
    raw = provide(text.replace(old, new, 1), documents, attachments)
    problem, = bench.perform(raw, validated(ServedTransaction(iti41_provide.ROW, bench.repository), 100)).problems
    assert problem.code == "XDSRepositoryMetadataError"
    assert told in problem.context
    assert bench.files() == []


def test_other_bytes_under_a_stored_id_are_refused(bench: Bench) -> None:
    objects = bench.objects()
    bench.perform(provide_one(objects, DOCUMENT, bench.folder / "a"))
    response = bench.perform(provide_one(objects, DOCUMENT + b"!", bench.folder / "b"))
    assert [problem.code for problem in response.problems] == ["XDSNonIdenticalHash"]
    assert objects.documents[0].unique_id in response.problems[0].context
    assert bench.stored(objects.documents[0].unique_id) == DOCUMENT
    assert len(bench.files()) == 1


def test_a_registry_that_does_not_answer_is_said_so_and_the_document_is_kept(bench: Bench) -> None:
    objects = bench.objects()
    bench.registrar.answer = Unavailable("registry at http://elsewhere")
    response = bench.perform(provide_one(objects, DOCUMENT, bench.folder / "a"))
    assert [problem.code for problem in response.problems] == ["XDSRegistryNotAvailable"]
    assert bench.rows(objects.documents[0].unique_id) == ["kept"]
    bench.registrar.answer = ()
    assert status(bench.perform(provide_one(objects, DOCUMENT, bench.folder / "b"))) == "Success"
    assert bench.rows(objects.documents[0].unique_id) == ["stored"]
    assert len(bench.files()) == 1


def test_a_full_disk_is_out_of_resources(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("broker.repository.documents.os.link", full)
    response = bench.perform(provide_one(bench.objects(), DOCUMENT, bench.folder / "a"))
    assert [problem.code for problem in response.problems] == ["XDSRepositoryOutOfResources"]
    assert bench.files() == []


def test_a_store_that_cannot_be_written_is_busy(bench: Bench) -> None:
    (bench.folder / "documents").write_bytes(b"in the way")
    response = bench.perform(provide_one(bench.objects(), DOCUMENT, bench.folder / "a"))
    assert [problem.code for problem in response.problems] == ["XDSRepositoryBusy"]


# audit

def test_the_import_is_audited(bench: Bench) -> None:
    objects = bench.objects()
    bench.perform(provide_one(objects, DOCUMENT, bench.folder / "spool"))
    message = bench.audited()[0]
    event = message.find("EventIdentification")
    assert event is not None
    assert (event.get("EventActionCode"), event.get("EventOutcomeIndicator")) == ("C", "0")
    assert [(code.get("csd-code"), code.tag) for code in event] == [("110107", "EventID"), ("ITI-41", "EventTypeCode")]
    roles = {one.get("UserID"): code.get("csd-code") for one in message.iter("ActiveParticipant") for code in one}
    assert roles == {"http://source": "110153", "http://broker/xds/repository": "110152"}
    things = [thing.get("ParticipantObjectID") for thing in message.iter("ParticipantObjectIdentification")]
    assert things == [str(PATIENT), objects.submission_sets[0].unique_id]


# with its neighbours

def test_our_own_manifest_passes_schema_registry_and_retrieve(database: Database, profile: Profile, tmp_path: Path) -> None:
    registry = Registry(database, FakeDirectory({study().patient: PATIENT}), profile)
    settings = Settings(data=tmp_path)
    repository = Repository(database, settings.documents_folder, profile, registry)
    gate = Gate(Open(), AuditLog(settings.audit_folder, "broker", "demo"))
    served = [ServedTransaction(row, repository) for row in (iti41_provide.ROW, iti43_retrieve.ROW)]
    app = routes.build(served, gate, settings, {})
    document = kos(study())
    objects = metadata(profile, document, unique_id="2.25.200")
    body = (f'<xds:ProvideAndRegisterDocumentSetRequest xmlns:xds="{XDS}">{submit_request(objects).decode()}'
            f'{included(objects.documents[0].id, "cid:kos1%40here")}</xds:ProvideAndRegisterDocumentSetRequest>')
    sent = soap.mtom(body.encode(), iti41_provide.ROW.messages[0].action, ("kos1@here", document))
    answer = soap.call(app, "/xds/repository", sent, sent.content_type)
    response = answer.root().find(f".//{{{RS}}}RegistryResponse")
    assert response is not None
    assert read_registry_response(response).problems == ()
    wanted = (f'<RetrieveDocumentSetRequest xmlns="{XDS}"><DocumentRequest><RepositoryUniqueId>2.999.1.2</RepositoryUniqueId>'
              "<DocumentUniqueId>2.25.200</DocumentUniqueId></DocumentRequest></RetrieveDocumentSetRequest>")
    asked = soap.mtom(wanted.encode(), iti43_retrieve.ROW.messages[0].action)
    parts = soap.call(app, "/xds/repository", asked, asked.content_type).parts()
    assert [data for name, data in parts.items() if name != "root"] == [document]
    assert list(settings.documents_folder.glob(".spool/*")) == []
