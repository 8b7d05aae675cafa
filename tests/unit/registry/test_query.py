"""Stored queries: limits, filtering of answers, what is read from the store and what the audit record learns."""

from typing import Any

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.errors import Rejected, TooLarge, Unavailable, XdsCode
from broker.model.ids import PatientId
from broker.model.metadata import APPROVED, RPLC
from broker.registry import iti18_query
from broker.registry.actor import Registry
from broker.registry.iti18_query import Answer, Limits, Request
from broker.wire import ebxml, xml
from broker.wire.soap import SoapRequest
from tests.helpers.registry import (
    LIN,
    WANG,
    Directory,
    answer,
    ask,
    bundle,
    document,
    element_of,
    folder,
    link,
    one_document,
    refs,
    register,
    registered,
    request,
    submission_set,
    unique_ids,
    with_codes,
)

FIND = {"$XDSDocumentEntryPatientId": str(WANG), "$XDSDocumentEntryStatus": [APPROVED]}


@pytest.fixture
def registry(database: Database, profile: Profile) -> Registry:
    return Registry(database, Directory(), profile, limits=Limits(objects=4, references=6, values=50))


def read(raw: SoapRequest) -> Request:
    return iti18_query.ROW.read(raw, AuditFacts())


def perform(registry: Registry, raw: SoapRequest) -> Answer:
    found: Answer = iti18_query.ROW.handle(registry, read(raw), Call(caller=ANONYMOUS, facts=AuditFacts()))
    return found


def test_too_many_objects(registry: Registry) -> None:
    for _ in range(4):
        one_document(registry)
    assert len(ask(registry, "FindDocuments", FIND).documents) == 4
    one_document(registry)
    with pytest.raises(Rejected) as caught:
        ask(registry, "FindDocuments", FIND)
    assert [problem.code for problem in caught.value.problems] == [XdsCode.TOO_MANY_RESULTS]
    assert len(refs(registry, "FindDocuments", FIND)) == 5
    for _ in range(2):
        one_document(registry)
    with pytest.raises(Rejected):
        refs(registry, "FindDocuments", FIND)


def test_objects_of_all_kinds_count(registry: Registry) -> None:
    entry, box = document(), folder()
    register(registry, bundle([entry], [box], [link("Fol1", "Doc1")]))
    with pytest.raises(Rejected) as caught:
        ask(registry, "GetSubmissionSetAndContents", {"$XDSSubmissionSetEntryUUID": _own(registry, entry.unique_id)})
    assert caught.value.problems[0].code == XdsCode.TOO_MANY_RESULTS


def _own(registry: Registry, unique_id: str) -> str:
    key, = refs(registry, "GetDocuments", {"$XDSDocumentEntryUniqueId": [unique_id]})
    return refs(registry, "GetSubmissionSets", {"$uuid": [key]})[0]


def test_too_many_values(registry: Registry) -> None:
    assert refs(registry, "GetDocuments", {"$XDSDocumentEntryUniqueId": [str(n) for n in range(50)]}) == ()
    with pytest.raises(TooLarge):
        refs(registry, "GetDocuments", {"$XDSDocumentEntryUniqueId": [str(n) for n in range(51)]})


def test_too_many_patterns(database: Database, profile: Profile) -> None:
    registry = Registry(database, Directory(), profile)
    patterns = [f"%{n}%" for n in range(150)]
    assert ask(registry, "FindDocuments", {**FIND, "$XDSDocumentEntryAuthorPerson": patterns}).documents == ()
    with pytest.raises(TooLarge):
        ask(registry, "FindDocuments", {**FIND, "$XDSDocumentEntryAuthorPerson": patterns * 2})


def test_long_lists_go_in_several_values_and_statements(database: Database, profile: Profile) -> None:
    registry = Registry(database, Directory(), profile)
    entries = [one_document(registry) for _ in range(3)]
    nobody = [f"urn:uuid:00000000-0000-4000-8000-{n:012d}" for n in range(6000)]
    asked = [*nobody, *(entry.id for entry in entries)]
    assert len(ask(registry, "GetDocuments", {"$XDSDocumentEntryEntryUUID": asked}).documents) == 3
    assert len(ask(registry, "GetSubmissionSets", {"$uuid": asked}).submission_sets) == 3


def test_order_is_that_of_registration(registry: Registry) -> None:
    entries = [one_document(registry) for _ in range(3)]
    assert unique_ids(ask(registry, "FindDocuments", FIND)) == [entry.unique_id for entry in entries]


def test_answers_are_the_stored_bytes(registry: Registry) -> None:
    one_document(registry, extra={"urn:example:ward": ("七",)})
    raw = request("FindDocuments", FIND)
    item, = perform(registry, raw).items
    reply = iti18_query.ROW.write(read(raw), perform(registry, raw))
    assert item.body in reply.fragments
    assert item.body == xml.canonical(xml.parse(item.body))
    assert "<Value>七</Value>".encode() in item.body


def test_references_do_not_read_bodies(registry: Registry) -> None:
    entry = one_document(registry)
    items = perform(registry, request("FindDocuments", FIND, "ObjectRef")).items
    assert [(item.uuid, item.body) for item in items] == [(entry.id, b"")]


def test_items_tell_what_rules_ask(registry: Registry) -> None:
    entry = one_document(registry, codes=with_codes(
        "confidentialityCode", ("N", "2.16.840.1.113883.5.25"), ("R", "2.16.840.1.113883.5.25")))
    item, = perform(registry, request("FindDocuments", FIND)).items
    assert (item.uuid, item.patient_id) == (entry.id, WANG)
    assert item.confidentiality.splitlines() == ["N^^2.16.840.1.113883.5.25", "R^^2.16.840.1.113883.5.25"]


def test_filtering_takes_associations_along(database: Database, profile: Profile) -> None:
    registry = Registry(database, Directory(), profile)
    objects = bundle([document("Doc1"), document("Doc2")], [folder()], [link("Fol1", "Doc1")])
    register(registry, objects)
    found = perform(registry, request("GetSubmissionSetAndContents", {
        "$XDSSubmissionSetUniqueId": objects.submission_sets[0].unique_id}))
    hidden = next(item for item in found.items if item.kind == "document")
    left = iti18_query.ROW.filtered(found, lambda item: item.unique_id != hidden.unique_id)
    assert [item.kind for item in left.items] == ["submission", "document", "folder", "association", "association"]
    assert hidden.uuid not in {end for item in left.items for end in (item.source, item.target)}
    assert iti18_query.ROW.filtered(found, lambda _item: True) == found


@pytest.mark.parametrize(("name", "parameter", "of_hidden", "of_old"), [
    ("GetAssociations", "$uuid", [], ["association"]),
    ("GetDocumentsAndAssociations", "$XDSDocumentEntryEntryUUID", [], ["document", "association"]),
    ("GetSubmissionSets", "$uuid", [], ["submission", "association"]),
    ("GetFoldersForDocument", "$XDSDocumentEntryEntryUUID", [], []),
    ("GetRelatedDocuments", "$XDSDocumentEntryEntryUUID", [], []),
])
def test_what_is_joined_to_a_hidden_document_does_not_tell_of_it(
    database: Database, profile: Profile, name: str, parameter: str, of_hidden: list[str], of_old: list[str],
) -> None:
    registry = Registry(database, Directory(), profile)
    old = one_document(registry)
    new = document("New")
    register(registry, bundle([new], [folder()], [link("New", old.id, RPLC), link("Fol1", "New")]))
    hidden, = registered(registry, new.unique_id)
    for asked, kinds in ((hidden, of_hidden), (old, of_old)):
        more = {"$AssociationTypes": [RPLC]} if name == "GetRelatedDocuments" else {}
        found = perform(registry, request(name, {parameter: asked.id, **more}))
        left = iti18_query.ROW.filtered(found, lambda item: item.unique_id != hidden.unique_id)
        assert [item.kind for item in left.items] == kinds
        assert hidden.id not in {text for item in left.items for text in (item.uuid, item.source, item.target)}


def test_an_entry_of_a_hidden_patient_is_not_named_by_the_set_of_another(registry: Registry) -> None:
    other = one_document(registry, LIN)
    objects = bundle([document()], links=[link(submission_set().id, other.id, status="Reference")])
    register(registry, objects)
    found = perform(registry, request("GetAssociations", {"$uuid": other.id}))
    assert len(found.items) == 2
    assert iti18_query.ROW.filtered(found, lambda item: item.patient != LIN).items == []


def test_facts_also_of_a_failure(registry: Registry) -> None:
    one_document(registry)
    facts = AuditFacts()
    raw = request("FindDocuments", FIND)
    answer(registry, raw, facts)
    assert facts.patients[0] == WANG
    assert facts.query_id == "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d"
    assert facts.query == xml.canonical(raw.body)
    facts = AuditFacts()
    with pytest.raises(Rejected):
        answer(registry, request("FindDocuments", {}), facts)
    assert facts.query
    assert facts.query_id


def test_facts_name_the_patients_of_what_was_got(registry: Registry) -> None:
    one, two = one_document(registry, WANG), one_document(registry, LIN)
    facts = AuditFacts()
    answer(registry, request("GetDocuments", {"$XDSDocumentEntryEntryUUID": [one.id, two.id]}, "ObjectRef"), facts)
    assert facts.patients == sorted([WANG, LIN])


def subjects(registry: Registry, name: str, slots: dict[str, str | list[str]]) -> tuple[PatientId, ...]:
    return iti18_query.ROW.subject(registry, read(request(name, slots)))


@pytest.mark.parametrize("patient", [WANG, PatientId("2.999.1.1", "O'Hara"), PatientId("2.999.1.1", "'abc")])
def test_the_subject_of_a_query_is_the_patient_it_runs_for(registry: Registry, patient: PatientId) -> None:
    slots: dict[str, str | list[str]] = {"$XDSDocumentEntryPatientId": str(patient), "$XDSDocumentEntryStatus": [APPROVED]}
    asked = read(request("FindDocuments", slots))
    assert iti18_query.ROW.subject(registry, asked) == (patient,)
    assert asked.values["$XDSDocumentEntryPatientId"] == ((str(patient),),)


@pytest.mark.parametrize("text", ["'abc^^^&2.999.1.1&ISO", "abc^^^&2.999.1.1&ISO", "('abc^^^&2.999.1.1&ISO')"])
def test_a_patient_id_that_is_no_quoted_value_is_refused_before_anybody_is_asked(text: str) -> None:
    raw = request("FindDocuments", {"$XDSDocumentEntryPatientId": "P", "$XDSDocumentEntryStatus": [APPROVED]})
    value = next(raw.body.iter(f"{{{xml.RIM}}}Value"))
    value.text = text
    with pytest.raises(Rejected) as caught:
        read(raw)
    assert caught.value.problems[0].code == XdsCode.REGISTRY_ERROR


def test_a_query_by_identifiers_names_nobody(registry: Registry) -> None:
    assert subjects(registry, "GetDocuments", {"$XDSDocumentEntryUniqueId": ["2.999.1"]}) == ()


@pytest.mark.parametrize(("error", "code"), [
    (Unavailable("database"), "XDSRegistryBusy"), (TooLarge("x"), "XDSRegistryOutOfResources"),
])
def test_other_errors_are_told_as_registry_errors(error: Exception, code: str) -> None:
    reply: Any = iti18_query.ROW.refuse(request("FindDocuments", {}), error)  # type: ignore[arg-type]  # both are BrokerErrors
    said, objects = ebxml.read_query_response(element_of(reply))
    assert [problem.code for problem in said.problems] == [code]
    assert objects.documents == ()


@pytest.fixture
def statements(database: Database) -> list[str]:
    seen: list[str] = []
    with database.read() as unit:
        unit.driver.set_trace_callback(seen.append)  # the connection used last is the one used next
    return seen


@pytest.mark.parametrize(("name", "parameters", "most"), [
    ("FindDocuments", {**FIND, "$XDSDocumentEntryEventCodeList": ["CT^^1.2.840.10008.2.16.4"]}, 1),
    ("GetDocuments", {"$XDSDocumentEntryUniqueId": ["2.999.5"]}, 1),
    ("GetAssociations", {"$uuid": ["urn:uuid:1"]}, 1),
])
def test_few_statements(registry: Registry, statements: list[str], name: str, parameters: dict[str, Any], most: int) -> None:
    ask(registry, name, parameters)
    assert len(statements) == most


def test_chinese_is_compared_in_normal_form(registry: Registry) -> None:
    codes = with_codes("eventCodeList", ("Ame\u0301lie", "2.999.1"))
    one_document(registry, codes=codes)
    asked = {**FIND, "$XDSDocumentEntryEventCodeList": ["Am\u00e9lie^^2.999.1"]}
    assert len(ask(registry, "FindDocuments", asked).documents) == 1
