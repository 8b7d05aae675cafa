"""Documents follow their source patient id to another person."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.config import profile as profiles
from broker.config.settings import load
from broker.db import Database
from broker.edge.mllp.server import MllpServer
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.metadata import APND, APPROVED, HAS_MEMBER, DocumentEntry, RegistryObjects, SubmissionSet
from broker.model.people import Demographics, PersonName
from broker.registry.actor import Registry
from broker.registry.patient_events import RegistryEvents
from broker.wire.hl7v2 import Header
from broker.wire.hl7v2_pix import write_adt
from tests.bench import scene
from tests.helpers.patients import HOSPA, WEI
from tests.helpers.registry import LIN, WANG, ask, bundle, document, folder, link, register, submission

EVENTS = RegistryEvents(profiles.load("demo").codes.scheme_aliases)
MEI, TAO = PatientId("2.999.2.1", "H-778"), PatientId("2.999.3.1", "K&1")


def moved(database: Database, *local: PatientId) -> None:
    with database.write() as unit:
        EVENTS.moved(unit, local or (MEI,), WANG, LIN)


def everything(registry: Registry, patient: PatientId) -> RegistryObjects:
    return ask(registry, "GetAll", {
        "$patientId": str(patient), "$XDSDocumentEntryStatus": [APPROVED], "$XDSSubmissionSetStatus": [APPROVED],
        "$XDSFolderStatus": [APPROVED]})


def of(local: PatientId, key: str) -> DocumentEntry:
    return document(key, source_patient_id=str(local))


def unique_ids(found: RegistryObjects) -> set[str]:
    things: tuple[Any, ...] = (*found.documents, *found.submission_sets, *found.folders)
    return {one.unique_id for one in things}


def test_a_document_takes_its_submission_set_and_folder_along(registry: Registry, database: Database) -> None:
    entry, other = of(MEI, "Doc1"), of(TAO, "Doc1")
    register(registry, bundle([entry], folders=[folder()], links=[link("Fol1", "Doc1", HAS_MEMBER)]))
    register(registry, bundle([other]))
    before = everything(registry, WANG)
    moved(database)
    left, found = everything(registry, WANG), everything(registry, LIN)
    assert [one.unique_id for one in left.documents] == [other.unique_id]
    assert (len(left.submission_sets), len(left.folders), len(left.associations)) == (1, 0, 1)
    assert unique_ids(left) | unique_ids(found) == unique_ids(before)
    things: tuple[Any, ...] = (*found.documents, *found.submission_sets, *found.folders)
    assert {one.patient_id for one in things} == {str(LIN)}
    assert {one.id for one in (*left.associations, *found.associations)} == {one.id for one in before.associations}
    moved(database)
    assert (everything(registry, WANG), everything(registry, LIN)) == (left, found)


def test_a_submission_of_two_is_divided(registry: Registry, database: Database) -> None:
    register(registry, bundle([of(MEI, "Doc1"), of(TAO, "Doc2")]))
    [whole] = everything(registry, WANG).submission_sets
    moved(database)
    left, found = everything(registry, WANG), everything(registry, LIN)
    assert ([one.source_patient_id for one in left.documents], [one.source_patient_id for one in found.documents]) == (
        [str(TAO)], [str(MEI)])
    assert [one.unique_id for one in left.submission_sets] == [whole.unique_id]
    [made] = found.submission_sets
    assert made.unique_id != whole.unique_id
    same: SubmissionSet = replace(made, id=whole.id, unique_id=whole.unique_id, patient_id=whole.patient_id)
    assert replace(same, extra={}) == replace(whole, extra={})
    for content, package in ((left, whole), (found, made)):
        [member] = content.associations
        assert (member.source, member.target, member.submission_set_status) == (package.id, content.documents[0].id, "Original")
    shown = ask(registry, "GetSubmissionSetAndContents", {"$XDSSubmissionSetEntryUUID": whole.id})
    assert [one.source_patient_id for one in shown.documents] == [str(TAO)]


def test_nothing_joins_objects_of_two_patients(registry: Registry, database: Database) -> None:
    register(registry, bundle(
        [of(MEI, "Doc1"), of(TAO, "Doc2")], folders=[folder()],
        links=[link("Fol1", "Doc1", HAS_MEMBER), link("Fol1", "Doc2", HAS_MEMBER)]))
    first = next(one for one in everything(registry, WANG).documents if one.source_patient_id == str(MEI))
    register(registry, bundle([of(TAO, "Add")], links=[link("Add", first.id, APND)]))
    moved(database)
    left, found = everything(registry, WANG), everything(registry, LIN)
    assert (len(left.documents), len(left.folders), len(found.documents), len(found.folders)) == (2, 1, 1, 0)
    for content in (left, found):
        things: tuple[Any, ...] = (*content.documents, *content.submission_sets, *content.folders, *content.associations)
        ours = {one.id for one in things}
        assert all({one.source, one.target} <= ours for one in content.associations)
    related = ask(registry, "GetRelatedDocuments", {"$XDSDocumentEntryEntryUUID": first.id, "$AssociationTypes": [APND]})
    assert related.documents == ()


def test_several_ids_at_once_and_none(registry: Registry, database: Database) -> None:
    register(registry, bundle([of(MEI, "Doc1"), of(TAO, "Doc2")]))
    moved(database, PatientId("2.999.3.1", "K"))
    assert everything(registry, LIN) == RegistryObjects()
    moved(database, MEI, TAO)
    assert everything(registry, WANG) == RegistryObjects()
    assert len(everything(registry, LIN).documents) == 2


def test_a_correction_at_the_hospital_takes_the_documents_out_of_the_other_persons(tmp_path: Path) -> None:
    """The index and the registry together: A9 is merged into A1, then D7, who agreed with both, turns out to be another one."""
    config = tmp_path / "broker.toml"
    config.write_text('data = "data"\n', "utf-8")
    with scene.parts(load(config)) as app:
        mllp = [served for served in app.served if served.row.endpoint == "mllp"]
        door = MllpServer(mllp, app.gate, app.settings, ("BROKER", "REGION"))

        def feed(event: str, value: str, person: Demographics, retired: str = "") -> None:
            header = Header(sender=("HIS-A", "HOSPA"), receiver=("BROKER", "REGION"), message_id=MessageId.now())
            gone = PatientId(HOSPA, retired) if retired else None
            data = write_adt(header, event, PatientId(HOSPA, value), person, retired=gone)
            assert b"MSA|AA" in door.answer(data, "10.0.0.7")

        def affinity(value: str) -> PatientId:
            with app.database.read() as unit:
                found = app.patients.affinity_id(unit, PatientId(HOSPA, value))
            assert found is not None
            return found

        def shown(patient: PatientId) -> set[str]:
            asked = {"$XDSDocumentEntryPatientId": str(patient), "$XDSDocumentEntryStatus": [APPROVED]}
            return {one.source_patient_id.split("^")[0] for one in ask(app.registry, "FindDocuments", asked).documents}

        for value in ("A1", "A9", "D7"):
            feed("A04", value, WEI)
            patient, local = affinity(value), PatientId(HOSPA, value)
            objects = bundle([document(patient=patient, source_patient_id=str(local))], patient=patient)
            app.registry.register(submission(objects), Call(caller=ANONYMOUS, facts=AuditFacts()))
        person = affinity("A1")
        feed("A40", "A1", WEI, retired="A9")
        assert shown(person) == {"A1", "A9", "D7"}
        feed("A08", "D7", replace(WEI, names=(PersonName("LI", "LEI"),), sex="F", birth_date="19620301"))
        assert (shown(person), shown(affinity("D7"))) == ({"A1", "A9"}, {"D7"})
