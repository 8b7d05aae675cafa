"""The form in which a registry keeps an object: final ids, its own attributes, exclusive canonical XML (one object each)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.model.metadata import APPROVED, Association, DocumentEntry, RegistryObjects, SubmissionSet
from broker.wire.ebxml import Submission, listing_of, read_submission, submit_request
from broker.wire.ebxml_objects import from_rim, object_elements
from broker.wire.ebxml_rim import HEADS, OBJECT_TYPE, read_object, set_slot, tag
from broker.wire.ebxml_vocabulary import ENTRY, FOLDER, PATIENT_ID, SUBMISSION_SET
from broker.wire.xml import Element, canonical, parse

_PATIENTS = {shape.identifiers[PATIENT_ID] for shape in (ENTRY, SUBMISSION_SET, FOLDER)}
_LAST_UPDATE = FOLDER.single["last_update_time"]
_PACKAGE, _CLASSIFICATION, _VERSION, _EXTRINSIC = (
    tag("RegistryPackage"), tag("Classification"), tag("VersionInfo"), tag("ExtrinsicObject"))
# Every element with an id, and its attributes that name other ones.
_REFERENCES: dict[str, tuple[str, ...]] = {
    _EXTRINSIC: (), _PACKAGE: (), tag("ObjectRef"): (), tag("Association"): ("sourceObject", "targetObject"),
    _CLASSIFICATION: ("classifiedObject",), tag("ExternalIdentifier"): ("registryObject",)}
_OBJECT_TYPES: dict[object, str] = {
    tag(name): OBJECT_TYPE + name for name in ("RegistryPackage", "Association", "Classification", "ExternalIdentifier")}


@dataclass(frozen=True, slots=True)
class RegisteredObjects:
    """Objects as they will be registered.

    `objects` is the metadata as submitted, `names` has the UUID of each symbolic id in it, `bodies` the canonical XML of each
    object by its UUID, in which `now`, a DTM, is the lastUpdateTime of folders.
    """

    objects: RegistryObjects
    names: Mapping[str, str]
    bodies: Mapping[str, bytes]
    now: str

    def uuid(self, name: str) -> str:
        """Return the UUID an object is registered with that the submission calls `name`."""
        return self.names.get(name, name)


def to_registered(submission: Submission, new_id: Callable[[], str], now: str) -> RegisteredObjects:
    """Return the submission as it will be registered.

    Every symbolic id is replaced by one UUID wherever it occurs, labels stand inside their package, and what only a
    registry may say is set: Approved, lid = id, version 1, objectType, a folder's lastUpdateTime (ITI TF-2 3.42.4.1.3).
    """
    listing = copy.deepcopy(listing_of(submission.element))
    names = _rename(listing, new_id)
    _nest_classifications(listing)
    folders = {names.get(folder.id, folder.id) for folder in submission.objects.folders}
    bodies: dict[str, bytes] = {}
    for thing in object_elements(listing):
        uuid = thing.get("id", "")
        _approve(thing, uuid)
        if uuid in folders:
            set_slot(thing, _LAST_UPDATE, now)
        bodies[uuid] = canonical(thing)
    return RegisteredObjects(submission.objects, names, bodies, now)


def link(associations: tuple[Association, ...], new_id: Callable[[], str]) -> RegisteredObjects:
    """Return associations the registry itself makes, in the form `to_registered` gives to submitted ones."""
    return made(RegistryObjects(associations=associations), new_id)


def made(objects: RegistryObjects, new_id: Callable[[], str]) -> RegisteredObjects:
    """Return objects the registry itself makes, but no folders, in the form `to_registered` gives to submitted ones."""
    return to_registered(read_submission(parse(submit_request(objects))), new_id, "")


def with_attributes(body: bytes, *, status: str = "", last_update_time: str = "", patient_id: str = "") -> bytes:
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


def _rename(listing: Element, new_id: Callable[[], str]) -> dict[str, str]:
    """Put a new id in place of every symbolic one, and return the new ones by the old. Set what kind each element is."""
    named = [(element, element.get("id", "")) for element in listing.iter(*_REFERENCES)]
    names = {old: new_id() for old in dict.fromkeys([old for _, old in named]) if old and not old.startswith("urn:uuid:")}
    for element, old in named:
        new = names.get(old)
        if new is not None:
            element.set("id", new)
        kind = str(element.tag)
        for place in _REFERENCES[kind]:
            new = names.get(element.get(place, ""))
            if new is not None:
                element.set(place, new)
        if kind in _OBJECT_TYPES:
            element.set("objectType", _OBJECT_TYPES[kind])
    return names


def _nest_classifications(listing: Element) -> None:
    labels = list(listing.iterchildren(_CLASSIFICATION))
    packages = {package.get("id"): package for package in listing.iterchildren(_PACKAGE)} if labels else {}
    for label in labels:
        package = packages.get(label.get("classifiedObject"))
        if package is not None:
            package.insert(sum(child.tag in HEADS for child in package), label)


def _approve(thing: Element, uuid: str) -> None:
    thing.set("status", APPROVED)
    thing.set("lid", uuid)
    thing.attrib.pop("home", None)
    heads = [child for child in thing if child.tag in HEADS]
    place = len(heads)
    for head in heads:
        if head.tag == _VERSION:
            thing.remove(head)
            place -= 1
    thing.insert(place, thing.makeelement(_VERSION, versionName="1"))
