"""ITI-42 as a peer sees it: every row of cases.toml is sent through the gate; answer, store and audit are checked.

A row: `given` names the submission (and what was registered before it), `change` edits its XML, `expect` is the answer's
status, `code` the error, `says` what its text must hold, `stored` whether the registry grew.
"""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lxml import etree

from broker.audit.spool import AuditLog
from broker.config.profile import Profile
from broker.db import Database
from broker.edge.soap.application import validated
from broker.model.caller import ANONYMOUS
from broker.model.ids import PatientId
from broker.model.metadata import APND, RPLC, SIGNS, XFRM, XFRM_RPLC, Code, RegistryObjects
from broker.model.transaction import ServedTransaction
from broker.registry import iti42_register
from broker.registry.actor import Registry
from broker.registry.patient_events import RegistryEvents
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire import ebxml, xml
from broker.wire.soap import SoapRequest
from broker.wire.xml import RIM
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
    register,
    request,
    rows,
    schema,
)

CASES = tomllib.loads(Path(__file__).with_name("cases.toml").read_text("utf-8"))["case"]
NEVER = "urn:uuid:00000000-0000-4000-8000-000000000000"


class Prior(NamedTuple):
    """What was registered before, by the names cases use."""

    registry: Registry
    database: Database

    def document(self, patient: PatientId = WANG, **changes: Any) -> str:
        return one_document(self.registry, patient, **changes).id

    def replaced(self) -> str:
        old = self.document()
        register(self.registry, bundle([document()], links=[link("Doc1", old, RPLC)]))
        return old

    def folder(self, patient: PatientId = WANG) -> str:
        made = folder(patient=patient)
        register(self.registry, bundle(folders=[made], patient=patient))
        return ask(self.registry, "GetFolders", {"$XDSFolderUniqueId": [made.unique_id]}).folders[0].id

    def submission_set(self) -> str:
        return ask(self.registry, "GetSubmissionSets", {"$uuid": [self.document()]}).submission_sets[0].id

    def transformed(self, kind: str = XFRM) -> str:
        entry = document()
        register(self.registry, bundle([entry], links=[link("Doc1", self.document(), kind)]))
        return ask(self.registry, "GetDocuments", {"$XDSDocumentEntryUniqueId": [entry.unique_id]}).documents[0].id


def _related(kind: str, target: str, **changes: Any) -> RegistryObjects:
    return bundle([document(**changes)], links=[link("Doc1", target, kind, key="rel")])


def _known_unique_id(prior: Prior, **changes: Any) -> RegistryObjects:
    one_document(prior.registry, unique_id="2.999.77.1")
    return bundle([document(unique_id="2.999.77.1", **changes)])


def _known_folder_id(prior: Prior) -> RegistryObjects:
    register(prior.registry, bundle(folders=[folder(unique_id="2.999.77.2")]))
    return bundle(folders=[folder(unique_id="2.999.77.2")])


def _known_set_id(prior: Prior) -> RegistryObjects:
    register(prior.registry, bundle([document()], unique_id="2.999.77.3"))
    return bundle([document()], unique_id="2.999.77.3")


def _documented(prior: Prior) -> RegistryObjects:
    objects = _related(RPLC, prior.document())
    *members, relation = objects.associations
    return replace(objects, associations=(*members, replace(relation, documentation=Code("R1", "2.999.1.92", "corrected"))))


def _addendum_within(prior: Prior, kind: str) -> RegistryObjects:
    return bundle([document("Doc1"), document("Doc2")], links=[link("Doc1", prior.document(), kind), link("Doc2", "Doc1", APND)])


def _merged(prior: Prior) -> RegistryObjects:
    with prior.database.write() as unit:
        RegistryEvents.merged(unit, WANG, LIN)
    return bundle([document()])


Given = Callable[[Prior], RegistryObjects]
GIVEN: dict[str, Given] = {
    "document": lambda _: bundle([document(reference_id_list=("A1^^^&2.999.2.2&ISO^urn:ihe:iti:xds:2013:accession",))]),
    "two documents": lambda _: bundle([document("Doc1"), document("Doc2")]),
    "folder": lambda _: bundle(folders=[folder()]),
    "document in a new folder": lambda _: bundle([document()], [folder()], [link("Fol1", "Doc1", key="put")]),
    "document in a registered folder": lambda p: bundle([document()], links=[link(p.folder(), "Doc1", key="put")]),
    "registered document in a new folder": lambda p: bundle(folders=[folder()], links=[link("Fol1", p.document(), key="put")]),
    "both registered": lambda p: bundle(links=[link(p.folder(), p.document(), key="put")]),
    "reference": lambda p: bundle([document()], links=[link("SS1", p.document(), key="ref", status="Reference")]),
    "reference to another patient": lambda p: bundle(
        [document()], links=[link("SS1", p.document(LIN), key="ref", status="Reference")]),
    "reference to a deprecated one": lambda p: bundle(
        [document()], links=[link("SS1", p.replaced(), key="ref", status="Reference")]),
    "reference to nothing": lambda _: bundle([document()], links=[link("SS1", NEVER, key="ref", status="Reference")]),
    "reference to a folder": lambda p: bundle([document()], links=[link("SS1", p.folder(), key="ref", status="Reference")]),
    "member of a registered set": lambda p: bundle([document()], links=[link(p.submission_set(), "Doc1", key="put")]),
    "replacement": lambda p: _related(RPLC, p.document()),
    "replacement with documentation": _documented,
    "addendum": lambda p: _related(APND, p.document()),
    "addendum to a transformation": lambda p: _related(APND, p.transformed()),
    "addendum to a transforming replacement": lambda p: _related(APND, p.transformed(XFRM_RPLC)),
    "addendum to a transformation within": lambda p: _addendum_within(p, XFRM),
    "addendum to a transforming replacement within": lambda p: _addendum_within(p, XFRM_RPLC),
    "addendum to a transformation and an original": lambda p: bundle(
        [document()], links=[link("Doc1", p.transformed(), APND), link("Doc1", p.document(), APND)]),
    "transformation": lambda p: _related(XFRM, p.document()),
    "transformation and replacement": lambda p: _related(XFRM_RPLC, p.document()),
    "signature": lambda p: _related(SIGNS, p.document()),
    "addendum within": lambda _: bundle([document("Doc1"), document("Doc2")], links=[link("Doc2", "Doc1", APND)]),
    "replacement within": lambda _: bundle([document("Doc1"), document("Doc2")], links=[link("Doc2", "Doc1", RPLC)]),
    "replacement of nothing": lambda _: _related(RPLC, NEVER),
    "replacement of a deprecated one": lambda p: _related(RPLC, p.replaced()),
    "replacement of another patient's": lambda p: _related(RPLC, p.document(LIN)),
    "replacement of a folder": lambda p: _related(RPLC, p.folder()),
    "replacement by a registered one": lambda p: bundle([document()], links=[link(p.document(), p.document(), RPLC)]),
    "snapshot": lambda p: _related("urn:ihe:iti:2010:AssociationType:IsSnapshotOf", p.document()),
    "folder in a folder": lambda p: bundle(folders=[folder()], links=[link("Fol1", p.folder(), key="put")]),
    "deprecated one in a folder": lambda p: bundle(folders=[folder()], links=[link("Fol1", p.replaced(), key="put")]),
    "another patient's in a folder": lambda p: bundle(folders=[folder()], links=[link("Fol1", p.document(LIN), key="put")]),
    "same uniqueId, same bytes": _known_unique_id,
    "same uniqueId, hash in capitals": lambda p: _known_unique_id(p, hash="2FD4E1C67A2D28FCED849EE1BB76E7391B93EB12"),
    "same uniqueId, other hash": lambda p: _known_unique_id(p, hash="0" * 40),
    "same uniqueId, other size": lambda p: _known_unique_id(p, size=1),
    "folder uniqueId again": _known_folder_id,
    "submission set uniqueId again": _known_set_id,
    "unknown patient": lambda _: bundle(
        [document(patient=PatientId("2.999.1.1", "X-9"))], patient=PatientId("2.999.1.1", "X-9")),
    "patient of another domain": lambda _: bundle(
        [document(patient=PatientId("2.999.2.1", "W-1"))], patient=PatientId("2.999.2.1", "W-1")),
    "merged patient": _merged,
    "two patients": lambda _: bundle([document(patient=LIN)]),
    "entry id of a registered one": lambda p: bundle([document(p.document())]),
}


def _edit(root: xml.Element, step: dict[str, Any]) -> None:
    """One change: at an XPath, `set` attributes, `text`, `remove`, `copy` beside itself, or `add` XML inside."""
    found = root.xpath(step["at"], namespaces={"r": RIM})
    assert isinstance(found, list)
    assert found, f"nothing at {step['at']}"
    for element in found:
        assert isinstance(element, etree._Element)
        parent = element.getparent()
        assert parent is not None
        for name, value in step.get("set", {}).items():
            element.set(name, value)
        for name in step.get("unset", []):
            del element.attrib[name]
        if "text" in step:
            element.text = step["text"]
        if "add" in step:
            element.insert(step.get("index", len(element)), _fragment(step["add"]))
        if step.get("copy"):
            parent.insert(parent.index(element), xml.parse(xml.canonical(element)))
        if step.get("remove"):
            parent.remove(element)


def _fragment(text: str) -> xml.Element:
    return xml.parse(f'<list xmlns="{RIM}">{text}</list>'.encode())[0]


class Place(NamedTuple):
    registry: Registry
    database: Database
    gate: Gate
    audit: Path


@pytest.fixture
def place(database: Database, profile: Profile, tmp_path: Path) -> Place:
    audit = tmp_path / "audit"
    registry = Registry(database, Directory(WANG, LIN, PatientId("2.999.2.1", "W-1")), profile)
    return Place(registry, database, Gate(Open(), AuditLog(audit, "test", "test")), audit)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_case(case: dict[str, Any], place: Place) -> None:
    objects = GIVEN[case["given"]](Prior(place.registry, place.database))
    root = xml.parse(ebxml.submit_request(objects))
    for step in case.get("change", []):
        _edit(root, step)
    before = rows(place.database)

    raw = SoapRequest(body=root, message=iti42_register.ROW.messages[0])
    reply = element_of(place.gate.perform(ServedTransaction(iti42_register.ROW, place.registry), raw, ANONYMOUS))

    schema("rs").assertValid(reply)
    said = ebxml.read_registry_response(reply)
    assert said.status.rpartition(":")[2] == case["expect"], said.problems
    assert {problem.code for problem in said.problems} == ({case["code"]} if "code" in case else set())
    assert all(any(text in problem.context for problem in said.problems) for text in case.get("says", []))
    assert (rows(place.database) > before) is (case["expect"] == "Success")
    record, = [line for file in place.audit.iterdir() for line in file.read_text("utf-8").splitlines()]
    assert 'csd-code="110107"' in record
    assert 'EventActionCode="C"' in record
    assert f'EventOutcomeIndicator="{"0" if case["expect"] == "Success" else "4"}"' in record


SCHEMA_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    # name: (the change, what the refusal names)
    "classification without id": (
        {"at": "//r:Classification[1]", "unset": ["id"]}, "Classification in ExtrinsicObject Doc1: attribute id is missing"),
    "association without target": ({"at": "//r:Association[1]", "unset": ["targetObject"]}, "attribute targetObject is missing"),
    "slot without values": ({"at": "//r:Slot[1]/r:ValueList", "remove": True}, "expected: ValueList"),
    "value too long": ({"at": "//r:Slot[1]//r:Value", "text": "x" * 257}, "it is too long: 257 characters, 256 are allowed"),
    "title too long": ({"at": "//r:LocalizedString", "set": {"value": "x" * 1025}}, "it is too long: 1025 characters, 1024 are"),
    "unknown attribute": ({"at": "//r:ExtrinsicObject", "set": {"colour": "red"}}, "ExtrinsicObject Doc1/@colour"),
    "unknown child": ({"at": "//r:ExtrinsicObject", "add": "<Colour/>"}, "Colour in ExtrinsicObject Doc1: it is not allowed"),
}


@pytest.mark.parametrize("name", SCHEMA_ERRORS)
def test_a_schema_error_is_a_metadata_error(place: Place, name: str) -> None:
    """ITI TF-3 table 4.2.4.1-2: the code of what is wrong with metadata, naming what it is."""
    step, told = SCHEMA_ERRORS[name]
    root = xml.parse(ebxml.submit_request(bundle([document()])))
    _edit(root, step)
    served = validated(ServedTransaction(iti42_register.ROW, place.registry), 100)
    reply = place.gate.perform(served, SoapRequest(body=root, message=iti42_register.ROW.messages[0]), ANONYMOUS)
    problem, = ebxml.read_registry_response(element_of(reply)).problems
    assert problem.code == "XDSRegistryMetadataError"
    assert told in problem.context
    assert rows(place.database) == 0


def test_types_and_nil_of_xml_schema_are_not_kept(place: Place) -> None:
    """What names the declared type, or an element that is not there, is taken; nothing of it is answered."""
    objects = bundle([document(comments="")])
    root = xml.parse(ebxml.submit_request(objects))
    xsi = "http://www.w3.org/2001/XMLSchema-instance"
    entry = root.find(f".//{{{RIM}}}ExtrinsicObject")
    assert entry is not None
    entry.set(f"{{{xsi}}}type", "ExtrinsicObjectType")
    name = entry.find(f"{{{RIM}}}Name")
    assert name is not None
    name.addnext(etree.Element(f"{{{RIM}}}Description", {f"{{{xsi}}}nil": "true"}))
    served = validated(ServedTransaction(iti42_register.ROW, place.registry), 100)
    reply = place.gate.perform(served, SoapRequest(body=root, message=iti42_register.ROW.messages[0]), ANONYMOUS)
    assert ebxml.read_registry_response(element_of(reply)).problems == ()
    found = answer(place.registry, request("GetDocuments", {"$XDSDocumentEntryUniqueId": [objects.documents[0].unique_id]}))
    assert xsi.encode() not in xml.canonical(found)
    assert found.find(f".//{{{RIM}}}ExtrinsicObject/{{{RIM}}}Description") is None


def test_every_given_is_used() -> None:
    assert {case["given"] for case in CASES} == set(GIVEN)
    assert all(case.get("clause") for case in CASES)


def test_audit_names_patient_and_submission_set(place: Place) -> None:
    objects = bundle([document()])
    raw = SoapRequest(body=xml.parse(ebxml.submit_request(objects)), message=iti42_register.ROW.messages[0])
    place.gate.perform(ServedTransaction(iti42_register.ROW, place.registry), raw, ANONYMOUS)
    record, = [line for file in place.audit.iterdir() for line in file.read_text("utf-8").splitlines()]
    assert 'ParticipantObjectID="W-1^^^&amp;2.999.1.1&amp;ISO"' in record
    assert f'ParticipantObjectID="{objects.submission_sets[0].unique_id}"' in record
    assert 'csd-code="ITI-42"' in record


def test_what_was_registered_is_answered_whole(place: Place) -> None:
    entry = document(
        extra={"urn:example:ward": ("七", "8")}, comments="见报告", status="urn:x", home="urn:oid:2.999.8", lid="urn:y")
    register(place.registry, bundle([entry]))
    element = answer(place.registry, request("GetDocuments", {"$XDSDocumentEntryUniqueId": [entry.unique_id]}))
    found, = ebxml.read_query_response(element)[1].documents
    assert found.id.startswith("urn:uuid:")
    assert found == replace(
        entry, id=found.id, lid=found.id, version="1", home="", status="urn:oasis:names:tc:ebxml-regrep:StatusType:Approved")
    for nested in element.iter(f"{{{RIM}}}Classification", f"{{{RIM}}}ExternalIdentifier"):
        assert nested.get("id", "").startswith("urn:uuid:")
        assert nested.get("objectType", "").endswith(str(nested.tag).rpartition("}")[2])
        assert found.id in {nested.get("classifiedObject"), nested.get("registryObject")}
