"""What a registration leaves in the registry: ids, effects on what was there, all or nothing."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.errors import Rejected, XdsCode
from broker.model.ids import new_uuid_urn
from broker.model.metadata import (
    APND,
    APPROVED,
    DEPRECATED,
    HAS_MEMBER,
    RPLC,
    XFRM,
    XFRM_RPLC,
    DocumentEntry,
    RegistryObjects,
)
from broker.registry.actor import Registry
from broker.wire import ebxml, xml
from broker.wire.ebxml_rim import tag
from broker.wire.ports import Registrar
from tests.helpers.registry import (
    WANG,
    Directory,
    answer,
    ask,
    bundle,
    document,
    folder,
    link,
    one_document,
    register,
    registered,
    request,
    rows,
    submission,
)


class Clock:
    """A clock that is set by hand; it shows local time."""

    def __init__(self) -> None:
        self.now = datetime(2024, 5, 6, 9, 30, 0, tzinfo=timezone(timedelta(hours=8)))

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(database: Database, profile: Profile, clock: Clock) -> Registry:
    return Registry(database, Directory(), profile, clock=clock)


def status(registry: Registry, entry: DocumentEntry) -> str:
    found, = ask(registry, "GetDocuments", {"$XDSDocumentEntryEntryUUID": [entry.id]}).documents
    return found.status


def follow(registry: Registry, kind: str, target: DocumentEntry) -> DocumentEntry:
    """Register a document related to `target`."""
    entry = document()
    register(registry, bundle([entry], links=[link("Doc1", target.id, kind)]))
    found, = registered(registry, entry.unique_id)
    return found


def test_is_a_registrar(registry: Registry) -> None:
    registrar: Registrar = registry
    facts = AuditFacts()
    objects = bundle([document()])
    assert registrar.register(submission(objects), Call(caller=ANONYMOUS, facts=facts)) == ()
    assert (facts.patients, facts.submission_set) == ([WANG], objects.submission_sets[0].unique_id)


def test_every_symbolic_id_is_replaced_and_uuids_stay(registry: Registry) -> None:
    own, member = new_uuid_urn(), new_uuid_urn()
    objects = bundle([document(own)], [folder()], [link("Fol1", own, key=member)])
    register(registry, objects)
    element = answer(registry, request("GetSubmissionSetAndContents", {
        "$XDSSubmissionSetUniqueId": objects.submission_sets[0].unique_id}))
    places = ("id", "lid", "classifiedObject", "registryObject", "sourceObject", "targetObject")
    texts = [thing.get(place) for thing in element.iter() for place in places if thing.get(place) is not None]
    assert all(text is not None and text.startswith("urn:uuid:") for text in texts)
    found = ebxml.read_query_response(element)[1]
    assert found.documents[0].id == own
    assert member in {item.id for item in found.associations}
    assert len({thing.get("id") for thing in element.iter() if thing.get("id")}) == len([
        thing for thing in element.iter() if thing.get("id")])


def test_a_label_beside_its_package_is_stored_inside(registry: Registry) -> None:
    objects = bundle([document()])
    root = xml.parse(ebxml.submit_request(objects))
    label = next(c for c in root.iter(tag("Classification")) if c.get("classificationNode"))
    ebxml.listing_of(root).append(label)
    registry.register(ebxml.read_submission(root), Call(caller=ANONYMOUS, facts=AuditFacts()))
    found = ask(registry, "FindSubmissionSets", {
        "$XDSSubmissionSetPatientId": str(WANG), "$XDSSubmissionSetStatus": [APPROVED]}).submission_sets
    assert [ss.unique_id for ss in found] == [objects.submission_sets[0].unique_id]


def test_submitted_request_is_left_as_it_was(registry: Registry) -> None:
    given = submission(bundle([document()]))
    before = xml.canonical(given.element)
    registry.register(given, Call(caller=ANONYMOUS, facts=AuditFacts()))
    assert xml.canonical(given.element) == before


@pytest.mark.parametrize("kind", [RPLC, XFRM_RPLC])
def test_replacement_deprecates_with_everything_attached(registry: Registry, kind: str) -> None:
    original = one_document(registry)
    addendum = follow(registry, APND, original)
    transformed = follow(registry, XFRM, original)
    addendum_of_addendum = follow(registry, APND, addendum)
    bystander = one_document(registry)
    replacement = follow(registry, kind, original)
    assert [status(registry, entry) for entry in (original, addendum, transformed, addendum_of_addendum)] == [DEPRECATED] * 4
    assert [status(registry, entry) for entry in (bystander, replacement)] == [APPROVED] * 2
    found = ask(registry, "FindDocuments", {"$XDSDocumentEntryPatientId": str(WANG), "$XDSDocumentEntryStatus": [APPROVED]})
    assert {entry.id for entry in found.documents} == {bystander.id, replacement.id}


def test_replacement_in_the_submission_that_also_attaches(registry: Registry) -> None:
    """What comes with the replacement is new and stays Approved."""
    original = one_document(registry)
    new, addendum = document("Doc1"), document("Doc2")
    register(registry, bundle([new, addendum], links=[link("Doc1", original.id, RPLC), link("Doc2", "Doc1", APND)]))
    assert status(registry, original) == DEPRECATED
    for entry in (new, addendum):
        assert registered(registry, entry.unique_id)[0].status == APPROVED


@pytest.mark.parametrize("kind", [APND, XFRM])
def test_addendum_and_transformation_leave_the_original(registry: Registry, kind: str) -> None:
    original = one_document(registry)
    follow(registry, kind, original)
    assert status(registry, original) == APPROVED


def test_replacement_goes_into_the_folders_of_the_original(registry: Registry, clock: Clock) -> None:
    original, box = document(), folder()
    register(registry, bundle([original], [box], [link("Fol1", "Doc1")]))
    other = folder(title="别的")
    register(registry, bundle(folders=[other]))
    clock.now += timedelta(hours=1)
    new = document()
    sent = bundle([new], links=[link("Doc1", registered(registry, original.unique_id)[0].id, RPLC)])
    register(registry, sent)

    new, original = registered(registry, new.unique_id)[0], registered(registry, original.unique_id)[0]
    contents = ask(registry, "GetFolderAndContents", {"$XDSFolderUniqueId": box.unique_id})
    assert {entry.id for entry in contents.documents} == {original.id, new.id}
    assert contents.folders[0].last_update_time == "20240506023000"
    placed, = [item for item in contents.associations if item.target == new.id]
    own = ask(registry, "GetSubmissionSets", {"$uuid": [new.id]}).submission_sets[0].id
    assert [(item.type, item.source) for item in ask(registry, "GetAssociations", {"$uuid": [placed.id]}).associations] == [
        (HAS_MEMBER, own)]
    untouched, = ask(registry, "GetFolders", {"$XDSFolderUniqueId": [other.unique_id]}).folders
    assert untouched.last_update_time == "20240506013000"


def test_replacement_the_sender_put_into_the_folder_is_there_once(registry: Registry) -> None:
    original, box = document(), folder()
    register(registry, bundle([original], [box], [link("Fol1", "Doc1")]))
    place, = ask(registry, "GetFolders", {"$XDSFolderUniqueId": [box.unique_id]}).folders
    old = registered(registry, original.unique_id)[0].id
    register(registry, bundle([document()], links=[link("Doc1", old, RPLC), link(place.id, "Doc1")]))
    contents = ask(registry, "GetFolderAndContents", {"$XDSFolderUniqueId": box.unique_id})
    assert len(contents.associations) == 2


@pytest.mark.parametrize("submitted", ["", "19990101"])
def test_folder_time_is_the_registrys(registry: Registry, clock: Clock, submitted: str) -> None:
    box = folder(last_update_time=submitted)
    register(registry, bundle(folders=[box]))
    place, = ask(registry, "GetFolders", {"$XDSFolderUniqueId": [box.unique_id]}).folders
    assert place.last_update_time == "20240506013000"                   # UTC of 09:30 +08:00
    clock.now = datetime(2024, 5, 7, tzinfo=UTC)
    register(registry, bundle([document()], links=[link(place.id, "Doc1")]))
    again, = ask(registry, "GetFolders", {"$XDSFolderUniqueId": [box.unique_id]}).folders
    assert again == replace(place, last_update_time="20240507000000")
    late = {"$XDSFolderPatientId": str(WANG), "$XDSFolderStatus": [APPROVED], "$XDSFolderLastUpdateTimeFrom": "20240507"}
    assert [found.id for found in ask(registry, "FindFolders", late).folders] == [place.id]


def test_same_document_again_is_a_second_entry(registry: Registry) -> None:
    entry = one_document(registry)
    register(registry, bundle([document(unique_id=entry.unique_id)]))
    assert len(registered(registry, entry.unique_id)) == 2


def test_all_problems_of_a_step_are_told_together(registry: Registry, database: Database) -> None:
    bad = document(creation_time="x", hash="", language_code="", codes={})
    before = rows(database)
    with pytest.raises(Rejected) as caught:
        register(registry, bundle([bad]))
    assert {problem.code for problem in caught.value.problems} == {XdsCode.REGISTRY_METADATA_ERROR}
    texts = [problem.context for problem in caught.value.problems]
    for name in ("creationTime", "hash", "languageCode", "classCode", "confidentialityCode"):
        assert any(name in text for text in texts)
    assert rows(database) == before


def test_nothing_of_a_refused_replacement_is_left(registry: Registry, database: Database) -> None:
    """The last step refuses; the target stays Approved, with its bytes."""
    original = one_document(registry)
    before = rows(database)
    foreign = "urn:uuid:00000000-0000-4000-8000-000000000001"
    with pytest.raises(Rejected) as caught:
        register(registry, bundle([document()], links=[link("Doc1", original.id, RPLC), link("Doc1", foreign, APND)]))
    assert [problem.code for problem in caught.value.problems] == [XdsCode.UNRESOLVED_REFERENCE]
    assert rows(database) == before
    assert registered(registry, original.unique_id) == (original,)


def test_a_failure_in_mid_commit_rolls_back(registry: Registry, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    original = one_document(registry)
    before = rows(database)

    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("broker.registry.store.change", fails)
    with pytest.raises(OSError, match="disk full"):
        register(registry, bundle([document()], links=[link("Doc1", original.id, RPLC)]))
    assert rows(database) == before


def test_two_at_once_with_one_unique_id(registry: Registry) -> None:
    objects = [bundle([document()], unique_id="2.999.88.1") for _ in range(4)]
    outcomes: list[str] = []

    def send(item: RegistryObjects) -> None:
        try:
            register(registry, item)
            outcomes.append("ok")
        except Rejected as error:
            outcomes.append(error.problems[0].code)

    threads = [threading.Thread(target=send, args=(item,)) for item in objects]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(["ok", *[XdsCode.DUPLICATE_UNIQUE_ID_IN_REGISTRY] * 3])


def test_one_replacement_of_one_original(registry: Registry) -> None:
    original = one_document(registry)
    follow(registry, RPLC, original)
    with pytest.raises(Rejected) as caught:
        follow(registry, RPLC, original)
    assert caught.value.problems[0].code == XdsCode.DEPRECATED_DOCUMENT


def test_empty_value_sets_are_not_checked(database: Database, profile: Profile) -> None:
    open_codes = profile.codes.model_copy(update={"allowed": {}, "mime_types": ()})
    registry = Registry(database, Directory(), profile.model_copy(update={"codes": open_codes}))
    one_document(registry, mime_type="video/mp4")


def test_more_objects_than_one_statement_takes(registry: Registry) -> None:
    objects = bundle([document(f"Doc{n}", title=f"Title {n}") for n in range(100)])
    register(registry, objects)
    own = ask(registry, "GetSubmissionSetAndContents", {"$XDSSubmissionSetUniqueId": objects.submission_sets[0].unique_id})
    assert {(entry.unique_id, entry.title) for entry in own.documents} == {
        (entry.unique_id, entry.title) for entry in objects.documents}
    ends = {(link.source, link.target) for link in own.associations}
    assert ends == {(own.submission_sets[0].id, entry.id) for entry in own.documents}
