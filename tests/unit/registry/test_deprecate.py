"""A DocumentEntry taken back inside the broker."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from lxml import etree

from broker.config.settings import load
from broker.db import Database, Lock
from broker.model.caller import ANONYMOUS, AuditFacts, Call, Caller
from broker.model.errors import Rejected, Unavailable, XdsCode
from broker.model.metadata import APND, APPROVED, DEPRECATED, RPLC, XFRM
from broker.model.ports import Unit, Withdraw
from broker.registry import deprecate, store
from broker.registry.actor import Registry
from broker.registry.deprecate import Deprecation
from tests.bench import scene
from tests.helpers.registry import (
    LIN,
    WANG,
    ask,
    bundle,
    document,
    link,
    one_document,
    register,
    registered,
    submission,
)


def deprecated(registry: Registry, database: Database, entry_uuid: str) -> AuditFacts:
    facts = AuditFacts()
    with database.write() as unit:
        deprecate.ROW.handle(registry, Deprecation(unit, entry_uuid), Call(caller=ANONYMOUS, facts=facts))
    return facts


def found(registry: Registry, status: str) -> list[str]:
    asked = {"$XDSDocumentEntryPatientId": str(WANG), "$XDSDocumentEntryStatus": [status]}
    return [entry.unique_id for entry in ask(registry, "FindDocuments", asked).documents]


def test_the_entry_and_its_stored_bytes_say_so(registry: Registry, database: Database) -> None:
    entry = one_document(registry)
    facts = deprecated(registry, database, entry.id)
    assert (found(registry, APPROVED), found(registry, DEPRECATED)) == ([], [entry.unique_id])
    assert [one.status for one in registered(registry, entry.unique_id)] == [DEPRECATED]
    assert facts.patients == [WANG]
    assert facts.documents == [(entry.repository_unique_id, entry.unique_id)]


def test_what_is_attached_goes_with_it(registry: Registry, database: Database) -> None:
    entry, other = one_document(registry), one_document(registry)
    register(registry, bundle([document("Add")], links=[link("Add", entry.id, APND)]))
    register(registry, bundle([document("New")], links=[link("New", entry.id, XFRM)]))
    deprecated(registry, database, entry.id)
    assert found(registry, APPROVED) == [other.unique_id]


def test_twice_is_as_once(registry: Registry, database: Database) -> None:
    entry = one_document(registry)
    for _ in range(2):
        deprecated(registry, database, entry.id)
    assert found(registry, DEPRECATED) == [entry.unique_id]


def test_an_entry_that_goes_to_another_patient_meanwhile_is_left_for_another_try(
    registry: Registry, database: Database, monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = one_document(registry)
    locked: list[str] = []

    def wait(unit: Unit, kind: Lock, names: Iterable[str]) -> None:
        locked.extend(names)
        if len(locked) == 1:        # whoever had the lock
            store.give(unit, [entry.id], LIN)

    monkeypatch.setattr(deprecate, "lock", wait)
    with pytest.raises(Unavailable):
        deprecated(registry, database, entry.id)
    assert locked == [str(WANG)]
    assert found(registry, APPROVED) == [entry.unique_id]


@pytest.mark.parametrize("kind", ["unknown", "submission set"])
def test_nothing_else_can_be_deprecated(registry: Registry, database: Database, kind: str) -> None:
    one_document(registry)
    everything = ask(registry, "GetAll", {
        "$patientId": str(WANG), "$XDSDocumentEntryStatus": [APPROVED], "$XDSSubmissionSetStatus": [APPROVED],
        "$XDSFolderStatus": [APPROVED]})
    uuids = {"unknown": "urn:uuid:00000000-0000-4000-8000-000000000000", "submission set": everything.submission_sets[0].id}
    with pytest.raises(Rejected) as caught:
        deprecated(registry, database, uuids[kind])
    assert caught.value.problems[0].code == XdsCode.UNRESOLVED_REFERENCE


def test_it_cannot_be_replaced_any_more_but_submitted_anew_for_another_patient(registry: Registry, database: Database) -> None:
    entry = one_document(registry)
    deprecated(registry, database, entry.id)
    with pytest.raises(Rejected) as caught:
        register(registry, bundle([document("New")], links=[link("New", entry.id, RPLC)]))
    assert caught.value.problems[0].code == XdsCode.DEPRECATED_DOCUMENT
    assert one_document(registry, LIN).status == APPROVED


def test_it_is_audited_once_it_is_durable(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    config.write_text('data = "data"\n', "utf-8")
    operator = Caller(user="operator-7", local_node="broker")
    with scene.parts(load(config)) as app:
        patient = scene.admit(app, 1)
        objects = bundle([document(patient=patient)], patient=patient)
        app.registry.register(submission(objects), Call(caller=ANONYMOUS, facts=AuditFacts()))
        entry, = registered(app.registry, objects.documents[0].unique_id)
        withdraw: Withdraw = app.withdraw
        with pytest.raises(KeyError), app.database.write() as unit:
            withdraw(unit, entry.id, operator)
            raise KeyError
        records = app.settings.audit_folder
        assert not [line for file in records.glob("*.xml") for line in file.read_text("utf-8").splitlines() if "ITI-57" in line]
        with app.database.write() as unit:
            withdraw(unit, entry.id, operator)
        line, = [line for file in records.glob("*.xml") for line in file.read_text("utf-8").splitlines() if "ITI-57" in line]
    message = etree.fromstring(line)
    event = message.find("EventIdentification")
    assert event is not None
    assert dict(event.attrib)["EventActionCode"] == "U"
    objects_of = {one.get("ParticipantObjectID") for one in message.iterfind("ParticipantObjectIdentification")}
    assert objects_of == {str(patient), entry.unique_id}
    assert "operator-7" in [one.get("UserID") for one in message.iterfind("ActiveParticipant")]
