"""Round trips of the ebXML codec, and what it gives for requests nobody would send."""

from dataclasses import fields, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import Rejected
from broker.model.ids import new_uuid_urn
from broker.model.metadata import (
    APPROVED,
    Association,
    Author,
    Code,
    DocumentEntry,
    Folder,
    RegistryObjects,
    SubmissionSet,
)
from broker.registry.parameters import Form, Parameter, read_values
from broker.registry.store import nfc
from broker.wire import ebxml, xml
from broker.wire.ebxml_query import read_query_request, write_query_request
from broker.wire.ebxml_stored import RegisteredObjects, to_registered, with_attributes
from tests.helpers.registry import schema

LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp", "Cn"), exclude_characters="\ufffe\uffff")
TEXT = st.text(LETTERS, max_size=20)
WORD = st.text(LETTERS, min_size=1, max_size=20)
KEY = st.from_regex(r"[a-z][a-z0-9.]{0,8}", fullmatch=True)
MANY = st.lists(WORD, max_size=3).map(tuple)
CODE = st.builds(Code, WORD, WORD, TEXT)
EXTRA = st.dictionaries(KEY.map(lambda key: f"urn:x:{key}"), st.lists(WORD, min_size=1, max_size=2).map(tuple), max_size=2)
AUTHOR = st.builds(Author, person=WORD, institutions=MANY, roles=MANY, specialties=MANY, telecoms=MANY)
ATTRIBUTES = ("classCode", "typeCode", "formatCode", "confidentialityCode", "healthcareFacilityTypeCode",
              "practiceSettingCode", "eventCodeList")

DOCUMENT = st.builds(
    DocumentEntry, id=KEY, unique_id=WORD, patient_id=WORD, mime_type=WORD, object_type=WORD, status=TEXT, home=TEXT, lid=TEXT,
    version=st.text("123", max_size=3), title=TEXT, comments=TEXT, creation_time=TEXT, service_start_time=TEXT,
    service_stop_time=TEXT, language_code=TEXT, hash=TEXT, size=st.none() | st.integers(0, 10**18 - 1), repository_unique_id=TEXT,
    source_patient_id=TEXT, source_patient_info=MANY, reference_id_list=MANY, legal_authenticator=TEXT, uri=TEXT,
    authors=st.lists(AUTHOR, max_size=2).map(tuple), extra=EXTRA,
    codes=st.dictionaries(st.sampled_from(ATTRIBUTES), st.lists(CODE, min_size=1, max_size=2).map(tuple), max_size=3))
SUBMISSION_SET = st.builds(
    SubmissionSet, id=KEY, unique_id=WORD, source_id=WORD, patient_id=WORD, submission_time=TEXT, status=TEXT, home=TEXT,
    title=TEXT, comments=TEXT, content_type=st.none() | CODE, authors=st.lists(AUTHOR, max_size=2).map(tuple),
    intended_recipients=MANY, extra=EXTRA)
FOLDER = st.builds(
    Folder, id=KEY, unique_id=WORD, patient_id=WORD, status=TEXT, home=TEXT, title=TEXT, comments=TEXT, last_update_time=TEXT,
    codes=st.lists(CODE, max_size=2).map(tuple), extra=EXTRA)
ASSOCIATION = st.builds(
    Association, id=KEY, type=WORD, source=WORD, target=WORD, submission_set_status=TEXT, status=TEXT,
    documentation=st.none() | CODE, extra=EXTRA)


def _some(things: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(things, max_size=most).map(tuple)


OBJECTS = st.builds(
    RegistryObjects, submission_sets=_some(SUBMISSION_SET, 1), documents=_some(DOCUMENT), folders=_some(FOLDER, 1),
    associations=_some(ASSOCIATION))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(OBJECTS)
def test_objects_survive_writing_and_reading(objects: RegistryObjects) -> None:
    written = ebxml.submit_request(objects)
    assert ebxml.read_submission(xml.parse(written)).objects == objects


@settings(derandomize=True, max_examples=40, deadline=None)
@given(OBJECTS)
def test_what_the_codec_writes_fits_the_schema(objects: RegistryObjects) -> None:
    listing = xml.parse(ebxml.write_objects(objects))
    for element in listing.iter():
        for name in ("id", "home", "lid", "status", "objectType", "associationType", "sourceObject", "targetObject"):
            if element.get(name) is not None:
                element.set(name, "urn:x")          # free text stands in for URIs above; the schema minds those
    schema("rim").assertValid(listing)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_can_be_written(title: str, comments: str) -> None:
    folder = Folder(id="f", unique_id="1", patient_id="p", title=title, comments=comments)
    read = ebxml.read_objects(xml.parse(ebxml.write_objects(RegistryObjects(folders=(folder,)))))
    assert len(read.folders) == 1


@settings(derandomize=True, max_examples=40, deadline=None)
@given(OBJECTS)
def test_restamping_changes_nothing_but_what_it_says(objects: RegistryObjects) -> None:
    registered = to_registered(ebxml.read_submission(xml.parse(ebxml.submit_request(objects))), new_uuid_urn, "20240101000000")
    for body in registered.bodies.values():
        assert with_attributes(body) == body
        assert with_attributes(with_attributes(body, status="urn:a"), status="urn:b") == with_attributes(body, status="urn:b")


@settings(derandomize=True, max_examples=40, deadline=None)
@given(OBJECTS)
def test_what_is_searched_is_what_is_kept(objects: RegistryObjects) -> None:
    objects = RegistryObjects(**{
        kind.name: tuple(replace(thing, id=f"{kind.name}{n}") for n, thing in enumerate(getattr(objects, kind.name)))
        for kind in fields(objects)})
    registered = to_registered(ebxml.read_submission(xml.parse(ebxml.submit_request(objects))), new_uuid_urn, "20240101000000")
    listing = b'<RegistryObjectList xmlns="%s">%s</RegistryObjectList>' % (xml.RIM.encode(), b"".join(registered.bodies.values()))
    assert ebxml.read_objects(xml.parse(listing)) == _registered(registered)


def _registered(kept: RegisteredObjects) -> RegistryObjects:
    """Return what rows are made from, as it must read in the stored bytes: UUIDs, and what only a registry says."""
    objects = kept.objects
    return RegistryObjects(
        submission_sets=tuple(replace(s, id=kept.uuid(s.id), home="", status=APPROVED) for s in objects.submission_sets),
        documents=tuple(
            replace(d, id=kept.uuid(d.id), lid=kept.uuid(d.id), version="1", home="", status=APPROVED)
            for d in objects.documents),
        folders=tuple(
            replace(f, id=kept.uuid(f.id), home="", last_update_time=kept.now, status=APPROVED) for f in objects.folders),
        associations=tuple(
            replace(a, id=kept.uuid(a.id), source=kept.uuid(a.source), target=kept.uuid(a.target), status=APPROVED)
            for a in objects.associations))


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.lists(st.text(LETTERS, max_size=30), min_size=1, max_size=40))
def test_long_lists_are_split_between_members(texts: list[str]) -> None:
    slots = read_query_request(xml.parse(write_query_request("urn:uuid:q", {"$p": texts}))).slots
    (name, values), = slots
    assert name == "$p"
    assert all(len(value) <= 256 for value in values)
    assert ",".join(value[1:-1] for value in values) == ",".join("'" + text.replace("'", "''") + "'" for text in texts)


LISTED = Parameter(name="$p", many=True)
WRITTEN = st.text(st.sampled_from("'(),; ab^%_王12"), max_size=30)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.text(LETTERS, min_size=1, max_size=30), min_size=1, max_size=20))
def test_a_registry_reads_the_list_a_consumer_wrote(texts: list[str]) -> None:
    slots = read_query_request(xml.parse(write_query_request("urn:uuid:q", {"$p": texts}))).slots
    assert read_values((LISTED,), (), slots) == {"$p": (tuple(map(nfc, texts)),)}


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.sampled_from(list(Form)), st.booleans(), WRITTEN)
def test_any_value_is_read_or_refused(form: Form, many: bool, text: str) -> None:
    parameter = Parameter(name="$p", form=form, many=many)
    try:
        found = read_values((parameter,), (), (("$p", (text,)),))
    except Rejected:
        return
    quotes = text.count("'")
    assert all(quotes >= 2 or form in {Form.SINCE, Form.UNTIL} for group in found.get("$p", ()) for _ in group)
