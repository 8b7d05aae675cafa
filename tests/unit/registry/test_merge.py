"""Patients merged: who is shown what afterwards."""

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.errors import Rejected, XdsCode
from broker.model.ids import PatientId
from broker.model.metadata import APPROVED, RPLC
from broker.model.ports import PatientMerged
from broker.registry.actor import Registry
from broker.registry.patient_events import Given, RegistryEvents
from tests.helpers.registry import (
    LIN,
    WANG,
    Directory,
    ask,
    bundle,
    document,
    folder,
    link,
    one_document,
    register,
    registered,
)

ZHAO = PatientId("2.999.1.1", "Z-3")
STRANGER = "X-1^^^&2.999.77.1&ISO"


@pytest.fixture
def registry(database: Database, profile: Profile) -> Registry:
    return Registry(database, Directory(WANG, LIN, ZHAO), profile)


def merge(database: Database, retired: PatientId, survivor: PatientId) -> None:
    merged: PatientMerged = RegistryEvents.merged
    with database.write() as unit:
        merged(unit, retired, survivor)


def found(registry: Registry, patient: PatientId) -> list[str]:
    asked = {"$XDSDocumentEntryPatientId": str(patient), "$XDSDocumentEntryStatus": [APPROVED]}
    return [entry.unique_id for entry in ask(registry, "FindDocuments", asked).documents]


def test_the_survivor_has_everything_and_is_shown_everywhere(registry: Registry, database: Database) -> None:
    theirs = document(patient=WANG)
    register(registry, bundle([theirs], [folder(patient=WANG)], [link("Fol1", "Doc1")]))
    ours = one_document(registry, LIN)
    merge(database, WANG, LIN)

    assert found(registry, WANG) == []
    assert found(registry, LIN) == [theirs.unique_id, ours.unique_id]
    everything = ask(registry, "GetAll", {
        "$patientId": str(LIN), "$XDSDocumentEntryStatus": [APPROVED], "$XDSSubmissionSetStatus": [APPROVED],
        "$XDSFolderStatus": [APPROVED]})
    for kind, count in (("documents", 2), ("submission_sets", 2), ("folders", 1)):
        assert [thing.patient_id for thing in getattr(everything, kind)] == [str(LIN)] * count
    assert len(everything.associations) == 5
    kept, = registered(registry, theirs.unique_id)
    assert kept.source_patient_info == theirs.source_patient_info
    assert kept.source_patient_id == theirs.source_patient_id


def test_chains(registry: Registry, database: Database) -> None:
    first, second, third = (one_document(registry, patient).unique_id for patient in (WANG, LIN, ZHAO))
    merge(database, WANG, LIN)
    merge(database, LIN, ZHAO)
    assert (found(registry, WANG), found(registry, LIN)) == ([], [])
    assert sorted(found(registry, ZHAO)) == sorted([first, second, third])


def test_nothing_is_registered_for_the_retired(registry: Registry, database: Database) -> None:
    merge(database, WANG, LIN)
    with pytest.raises(Rejected) as caught:
        one_document(registry, WANG)
    assert [problem.code for problem in caught.value.problems] == [XdsCode.UNKNOWN_PATIENT_ID]
    one_document(registry, LIN)


def test_relations_to_what_was_merged_in(registry: Registry, database: Database) -> None:
    original = one_document(registry, WANG)
    merge(database, WANG, LIN)
    register(registry, bundle([document(patient=LIN)], links=[link("Doc1", original.id, RPLC)], patient=LIN))
    assert len(found(registry, LIN)) == 1


def test_a_leaf_class_answer_may_span_those_merged(registry: Registry, database: Database) -> None:
    one, two = one_document(registry, WANG), one_document(registry, LIN)
    asked = {"$XDSDocumentEntryEntryUUID": [one.id, two.id]}
    with pytest.raises(Rejected) as caught:
        ask(registry, "GetDocuments", asked)
    assert caught.value.problems[0].code == XdsCode.RESULT_NOT_SINGLE_PATIENT
    merge(database, WANG, LIN)
    assert len(ask(registry, "GetDocuments", asked).documents) == 2


def test_a_merge_that_fails_leaves_everything(registry: Registry, database: Database) -> None:
    entry = one_document(registry, WANG)
    with pytest.raises(RuntimeError), database.write() as unit:
        RegistryEvents.merged(unit, WANG, LIN)
        raise RuntimeError
    assert found(registry, WANG) == [entry.unique_id]
    one_document(registry, WANG)


def test_merged_twice_is_as_merged_once(registry: Registry, database: Database) -> None:
    entry = one_document(registry, WANG)
    merge(database, WANG, LIN)
    merge(database, WANG, ZHAO)
    assert found(registry, LIN) == [entry.unique_id]


def unmerge(database: Database, profile: Profile, *local: PatientId) -> Given:
    """Take the merge of WANG into LIN back; these local ids are WANG's, and A-1 of hospital A is LIN's."""
    with database.write() as unit:
        return RegistryEvents(profile.codes.scheme_aliases).parted(unit, local, LIN, WANG, [PatientId("2.999.2.1", "A-1")])


def everything(registry: Registry, patient: PatientId) -> dict[str, set[str]]:
    found = ask(registry, "GetAll", {
        "$patientId": str(patient), "$XDSDocumentEntryStatus": [APPROVED], "$XDSSubmissionSetStatus": [APPROVED],
        "$XDSFolderStatus": [APPROVED]})
    shown = [one.patient_id for some in (found.documents, found.submission_sets, found.folders) for one in some]
    return {
        "documents": {one.id for one in found.documents}, "sets": {one.id for one in found.submission_sets},
        "folders": {one.id for one in found.folders}, "associations": {one.id for one in found.associations},
        "shown": set(shown)}


def test_a_merge_taken_back_leaves_the_registry_as_it_was(registry: Registry, database: Database, profile: Profile) -> None:
    """Also entries of a source patient whom nobody knows, a folder, and associations."""
    theirs = document(patient=WANG, source_patient_id=STRANGER)
    register(registry, bundle([theirs], [folder(patient=WANG)], [link("Fol1", "Doc1")]))
    one_document(registry, LIN)
    before = [everything(registry, patient) for patient in (WANG, LIN)]
    for _ in range(2):
        merge(database, WANG, LIN)
        given = unmerge(database, profile)
        assert [everything(registry, patient) for patient in (WANG, LIN)] == before
        assert (given.back, given.staying) == (before[0]["documents"], ())
    one_document(registry, WANG)


def test_what_was_registered_since_follows_its_source_patient_or_stays_and_is_named(
    registry: Registry, database: Database, profile: Profile,
) -> None:
    local = PatientId("2.999.2.1", "A-9")
    old = one_document(registry, LIN, source_patient_id=STRANGER)
    merge(database, WANG, LIN)
    theirs = one_document(registry, LIN, source_patient_id=str(local))
    ours = one_document(registry, LIN, source_patient_id="A-1^^^&2.999.2.1&ISO")
    nobodys = one_document(registry, LIN, source_patient_id=STRANGER)
    given = unmerge(database, profile, local)
    assert found(registry, WANG) == [theirs.unique_id]
    assert found(registry, LIN) == [old.unique_id, ours.unique_id, nobodys.unique_id]
    [staying] = given.staying
    assert registered(registry, nobodys.unique_id)[0].id == staying


def test_only_one_link_of_a_chain_is_taken_back(registry: Registry, database: Database, profile: Profile) -> None:
    first, second, third = (one_document(registry, patient).unique_id for patient in (WANG, LIN, ZHAO))
    merge(database, LIN, ZHAO)
    merge(database, WANG, ZHAO)
    with database.write() as unit:
        RegistryEvents(profile.codes.scheme_aliases).parted(unit, (), ZHAO, WANG, ())
    assert (found(registry, WANG), found(registry, LIN), sorted(found(registry, ZHAO))) == ([first], [], sorted([second, third]))
