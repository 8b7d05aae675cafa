"""The form in which a registry keeps an object: final ids, its own attributes, exclusive canonical XML (one object each)."""

import copy
from collections.abc import Callable

from broker.model.metadata import APPROVED, Association, RegistryObjects
from broker.wire.ebxml import Submission, listing_of, read_submission, submit_request
from broker.wire.ebxml_objects import OBJECTS
from broker.wire.ebxml_rim import HEADS, OBJECT_TYPE, local_name, nested, set_slot, tag
from broker.wire.ebxml_vocabulary import ENTRY, FOLDER, PATIENT_ID, SUBMISSION_SET
from broker.wire.xml import Element, canonical, parse

_PLACES = ("id", "classifiedObject", "registryObject", "sourceObject", "targetObject")
_PATIENTS = {shape.identifiers[PATIENT_ID] for shape in (ENTRY, SUBMISSION_SET, FOLDER)}
_LAST_UPDATE = FOLDER.single["last_update_time"]


def assign(submission: Submission, new_id: Callable[[], str], now: str) -> Submission:
    """Give the submission as it will be registered.

    Every symbolic id is replaced by one UUID wherever it occurs, labels stand inside their package, and what only a
    registry may say is set: Approved, lid = id, version 1, objectType, a folder's lastUpdateTime (ITI TF-2 3.42.4.1.3).
    """
    element = copy.deepcopy(submission.element)
    listing = listing_of(element)
    _rename(listing, new_id)
    _bring_labels_in(listing)
    folders = {folder.id for folder in submission.objects.folders}
    for before, thing in zip(_objects(submission.element), _objects(element), strict=True):
        _approve(thing)
        if before.get("id") in folders:
            set_slot(thing, _LAST_UPDATE, now)
    return read_submission(element)


def bodies(submission: Submission) -> dict[str, bytes]:
    """Give the canonical XML of each object by its id."""
    return {thing.get("id", ""): canonical(thing) for thing in _objects(submission.element)}


def link(associations: tuple[Association, ...], new_id: Callable[[], str]) -> Submission:
    """Give associations the registry itself makes, in the form `assign` gives to submitted ones."""
    written = parse(submit_request(RegistryObjects(associations=associations)))
    return assign(read_submission(written), new_id, "")


def restamp(body: bytes, *, status: str = "", last_update_time: str = "", patient_id: str = "") -> bytes:
    """Give a stored object with these attributes changed; the rest of its bytes' meaning stays."""
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


def _objects(submission: Element) -> list[Element]:
    return [thing for thing in listing_of(submission) if local_name(thing) in OBJECTS]


def _rename(listing: Element, new_id: Callable[[], str]) -> None:
    symbolic = {
        name: new_id() for name in dict.fromkeys(str(element.get("id", "")) for element in listing.iter())
        if name and not name.startswith("urn:uuid:")
    }
    for element in listing.iter():
        for place in _PLACES:
            value = element.get(place)
            if value in symbolic:
                element.set(place, symbolic[value])


def _bring_labels_in(listing: Element) -> None:
    packages = {package.get("id"): package for package in listing.iterfind(tag("RegistryPackage"))}
    for label in listing.findall(tag("Classification")):
        package = packages.get(label.get("classifiedObject"))
        if package is not None:
            package.insert(_end_of_heads(package), label)


def _end_of_heads(thing: Element) -> int:
    return sum(1 for child in thing if local_name(child) in HEADS)


def _approve(thing: Element) -> None:
    kind = local_name(thing)
    thing.set("status", APPROVED)
    thing.set("lid", thing.get("id", ""))
    if kind != "ExtrinsicObject":
        thing.set("objectType", OBJECT_TYPE + kind)
    thing.attrib.pop("home", None)
    for old in thing.findall(tag("VersionInfo")):
        thing.remove(old)
    thing.insert(_end_of_heads(thing), thing.makeelement(tag("VersionInfo"), {"versionName": "1"}, thing.nsmap))
    for child in nested(thing):
        child.set("objectType", OBJECT_TYPE + local_name(child))
