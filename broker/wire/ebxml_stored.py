"""The form in which a registry keeps an object: final ids, its own attributes, exclusive canonical XML (one object each)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from broker.model.metadata import APPROVED, Association, DocumentEntry, RegistryObjects, SubmissionSet
from broker.wire.ebxml import Submission, listing_of, read_submission, submit_request
from broker.wire.ebxml_objects import from_rim, object_elements
from broker.wire.ebxml_rim import HEADS, OBJECT_TYPE, local_name, nested, read_object, set_slot, tag
from broker.wire.ebxml_vocabulary import ENTRY, FOLDER, PATIENT_ID, SUBMISSION_SET
from broker.wire.xml import Element, canonical, parse

_PLACES = ("id", "classifiedObject", "registryObject", "sourceObject", "targetObject")
_NAMED = tuple(map(tag, (
    "ExtrinsicObject", "RegistryPackage", "Association", "Classification", "ExternalIdentifier", "ObjectRef")))
_PATIENTS = {shape.identifiers[PATIENT_ID] for shape in (ENTRY, SUBMISSION_SET, FOLDER)}
_LAST_UPDATE = FOLDER.single["last_update_time"]
_PACKAGE, _CLASSIFICATION, _VERSION, _EXTRINSIC = (
    tag("RegistryPackage"), tag("Classification"), tag("VersionInfo"), tag("ExtrinsicObject"))


@dataclass(frozen=True, slots=True)
class Final:
    """Objects as they will be registered: the metadata, and the canonical XML of each by its id."""

    objects: RegistryObjects
    bodies: Mapping[str, bytes]


def assign(submission: Submission, new_id: Callable[[], str], now: str) -> Final:
    """Return the submission as it will be registered.

    Every symbolic id is replaced by one UUID wherever it occurs, labels stand inside their package, and what only a
    registry may say is set: Approved, lid = id, version 1, objectType, a folder's lastUpdateTime (ITI TF-2 3.42.4.1.3).
    """
    listing = listing_of(copy.deepcopy(submission.element))
    names = _rename(listing, new_id)
    _bring_labels_in(listing)
    folders = {names.get(folder.id, folder.id) for folder in submission.objects.folders}
    bodies: dict[str, bytes] = {}
    for thing in object_elements(listing):
        _approve(thing)
        uuid = thing.get("id", "")
        if uuid in folders:
            set_slot(thing, _LAST_UPDATE, now)
        bodies[uuid] = canonical(thing)
    return Final(_renamed(submission.objects, names, now), bodies)


def link(associations: tuple[Association, ...], new_id: Callable[[], str]) -> Final:
    """Return associations the registry itself makes, in the form `assign` gives to submitted ones."""
    return made(RegistryObjects(associations=associations), new_id)


def made(objects: RegistryObjects, new_id: Callable[[], str]) -> Final:
    """Return objects the registry itself makes, but no folders, in the form `assign` gives to submitted ones."""
    return assign(read_submission(parse(submit_request(objects))), new_id, "")


def restamp(body: bytes, *, status: str = "", last_update_time: str = "", patient_id: str = "") -> bytes:
    """Return a stored object with these attributes changed; the rest of its bytes' meaning stays."""
    thing = parse(body)
    if status:
        thing.set("status", status)
    if last_update_time:
        set_slot(thing, _LAST_UPDATE, last_update_time)
    if patient_id:
        for identifier in thing.iterfind(tag("ExternalIdentifier")):
            if identifier.get("identificationScheme") in _PATIENTS:
                identifier.set("value", patient_id)
    return canonical(thing)


def read_entry(body: bytes) -> DocumentEntry:
    """Return a stored DocumentEntry."""
    return from_rim([read_object(parse(body))]).documents[0]


def read_submission_set(body: bytes) -> SubmissionSet:
    """Return a stored SubmissionSet."""
    return from_rim([read_object(parse(body))]).submission_sets[0]


def _renamed(objects: RegistryObjects, names: Mapping[str, str], now: str) -> RegistryObjects:
    """Return the metadata as it would be read from the elements with their new names."""
    def name(old: str) -> str:
        return names.get(old, old)

    return RegistryObjects(
        submission_sets=tuple(replace(s, id=name(s.id), status=APPROVED, home="") for s in objects.submission_sets),
        documents=tuple(
            replace(d, id=name(d.id), lid=name(d.id), version="1", status=APPROVED, home="") for d in objects.documents),
        folders=tuple(replace(f, id=name(f.id), status=APPROVED, home="", last_update_time=now) for f in objects.folders),
        associations=tuple(
            replace(a, id=name(a.id), source=name(a.source), target=name(a.target), status=APPROVED)
            for a in objects.associations))


def _rename(listing: Element, new_id: Callable[[], str]) -> dict[str, str]:
    """Return every symbolic id its new one, in the tree too."""
    places = [(element, place, value) for element in listing.iter(*_NAMED) for place in _PLACES
              if (value := element.get(place)) and not value.startswith("urn:uuid:")]
    names = {value: new_id() for value in dict.fromkeys(value for _, place, value in places if place == "id")}
    for element, place, value in places:
        if value in names:
            element.set(place, names[value])
    return names


def _bring_labels_in(listing: Element) -> None:
    labels = list(listing.iterchildren(_CLASSIFICATION))
    packages = {package.get("id"): package for package in listing.iterchildren(_PACKAGE)} if labels else {}
    for label in labels:
        package = packages.get(label.get("classifiedObject"))
        if package is not None:
            package.insert(_end_of_heads(package), label)


def _end_of_heads(thing: Element) -> int:
    return sum(1 for _ in thing.iterchildren(*HEADS))


def _approve(thing: Element) -> None:
    thing.set("status", APPROVED)
    thing.set("lid", thing.get("id", ""))
    if thing.tag != _EXTRINSIC:
        thing.set("objectType", OBJECT_TYPE + local_name(thing))
    thing.attrib.pop("home", None)
    for old in list(thing.iterchildren(_VERSION)):
        thing.remove(old)
    thing.insert(_end_of_heads(thing), thing.makeelement(_VERSION, {"versionName": "1"}, thing.nsmap))
    for child in nested(thing):
        child.set("objectType", OBJECT_TYPE + local_name(child))
