"""XDS metadata objects out of ebRIM objects and back, by the rows of `ebxml_vocabulary`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from broker.model.metadata import (
    STABLE,
    Association,
    Author,
    Code,
    DocumentEntry,
    Folder,
    RegistryObjects,
    SubmissionSet,
)
from broker.wire.ebxml_rim import (
    OBJECT_TYPE,
    Classification,
    Identifier,
    RimObject,
    Slots,
    first,
    local_name,
    read_classification,
    read_object,
    tag,
    values,
    write_object,
)
from broker.wire.ebxml_types import is_size
from broker.wire.ebxml_vocabulary import (
    ASSOCIATION,
    AUTHOR_PERSON,
    AUTHOR_SLOTS,
    CODING_SCHEME,
    ENTRY,
    FOLDER,
    PACKAGES,
    PATIENT_ID,
    SOURCE_ID,
    SUBMISSION_SET,
    UNIQUE_ID,
    Shape,
)
from broker.wire.xml import Element

Extra = Mapping[str, tuple[str, ...]]
OBJECTS = (tag("ExtrinsicObject"), tag("RegistryPackage"), tag("Association"))
_PACKAGE, _CLASSIFICATION = tag("RegistryPackage"), tag("Classification")
_ALLOWED = {*OBJECTS, _CLASSIFICATION, tag("ObjectRef")}
Nested = tuple[list[Classification], list[Identifier]]


def rim_objects(listing: Element) -> list[RimObject]:
    """Return the ExtrinsicObjects, RegistryPackages and Associations of a rim:RegistryObjectList in order.

    A Classification beside its package is given as if it were inside it (both are legal, ITI TF-3 4.2.1).
    """
    beside: dict[str, list[Classification]] = {}
    found = []
    for element in listing:
        if element.tag in OBJECTS:
            found.append(read_object(element))
        elif element.tag == _CLASSIFICATION:
            label = read_classification(element)
            beside.setdefault(label.owner, []).append(label)
    return [_with_labels(rim, beside.get(rim.id, [])) for rim in found] if beside else found


def object_elements(listing: Element) -> list[Element]:
    """Return the ExtrinsicObjects, RegistryPackages and Associations of a rim:RegistryObjectList in order."""
    return [child for child in listing if child.tag in OBJECTS]


def stray_elements(listing: Element) -> list[str]:
    """Return what has no place in a submission's list: foreign elements, and labels of no package in it.

    ObjectRefs to schemes are harmless remains of XDS.a.
    """
    packages = {package.get("id") for package in listing.iterchildren(_PACKAGE)}
    return [
        f"{local_name(element) or str(element.tag)} {element.get('id', '')}" for element in listing
        if element.tag not in _ALLOWED
        or (element.tag == _CLASSIFICATION and element.get("classifiedObject") not in packages)
    ]


def _with_labels(rim: RimObject, labels: list[Classification]) -> RimObject:
    return rim._replace(classifications=(*rim.classifications, *labels)) if labels else rim


def shape_of(rim: RimObject) -> Shape | None:
    """Return what kind of XDS object this is; None for a package that is not labelled as exactly one."""
    if rim.kind != "RegistryPackage":
        return ENTRY if rim.kind == "ExtrinsicObject" else ASSOCIATION
    found = {c.node for c in rim.classifications if c.node in PACKAGES}
    return PACKAGES[found.pop()] if len(found) == 1 else None


def from_rim(rims: Iterable[RimObject]) -> RegistryObjects:
    """Return the metadata of these objects. Attributes that are missing or unreadable are empty."""
    by_shape: dict[str, list[RimObject]] = {}
    for rim in rims:
        shape = shape_of(rim)
        if shape is not None:
            by_shape.setdefault(shape.name, []).append(rim)
    return RegistryObjects(
        submission_sets=tuple(map(_submission_set, by_shape.get(SUBMISSION_SET.name, ()))),
        documents=tuple(map(_entry, by_shape.get(ENTRY.name, ()))),
        folders=tuple(map(_folder, by_shape.get(FOLDER.name, ()))),
        associations=tuple(map(_association, by_shape.get(ASSOCIATION.name, ()))),
    )


class _Contents:
    """The slots, codes, authors and identifiers of one object, each found by its name or scheme."""

    def __init__(self, rim: RimObject) -> None:
        self.slots = dict(reversed(rim.slots))              # of a repeated name or scheme the first counts
        self.identifiers = {one.scheme: one.value for one in reversed(rim.identifiers)}
        self._classifications: dict[str, list[Classification]] = {}
        for one in rim.classifications:
            self._classifications.setdefault(one.scheme, []).append(one)

    def fields(self, shape: Shape) -> dict[str, Any]:
        """Return the dataclass fields that are kept in slots."""
        slots = self.slots
        fields: dict[str, Any] = {name: slots.get(slot, ()) for name, slot in shape.many.items()}
        for name, slot in shape.single.items():
            found = slots.get(slot)
            fields[name] = found[0] if found else ""
        return fields

    def codes(self, scheme: str) -> tuple[Code, ...]:
        """Return the codes of a classification scheme."""
        return tuple([
            Code(c.code or "", first(c.slots, CODING_SCHEME), c.display) for c in self._classifications.get(scheme, ())])

    def code(self, scheme: str) -> Code | None:
        """Return the first code of a classification scheme."""
        return next(iter(self.codes(scheme)), None)

    def authors(self, shape: Shape) -> tuple[Author, ...]:
        """Return the authors."""
        return tuple([
            Author(person=first(c.slots, AUTHOR_PERSON), **{name: values(c.slots, slot) for name, slot in AUTHOR_SLOTS.items()})
            for c in self._classifications.get(shape.author, ())])


def _entry(rim: RimObject) -> DocumentEntry:
    contents = _Contents(rim)
    fields = contents.fields(ENTRY)
    fields["size"] = int(fields["size"]) if is_size(fields["size"]) else None
    codes = {attribute: found for attribute, scheme in ENTRY.codes.items() if (found := contents.codes(scheme))}
    return DocumentEntry(
        **_common(ENTRY, rim, contents), **fields, mime_type=rim.attributes.get("mimeType", ""),
        object_type=rim.attributes.get("objectType", ""), lid=rim.attributes.get("lid", ""), version=rim.version,
        authors=contents.authors(ENTRY), codes=codes)


def _submission_set(rim: RimObject) -> SubmissionSet:
    contents = _Contents(rim)
    return SubmissionSet(
        **_common(SUBMISSION_SET, rim, contents), **contents.fields(SUBMISSION_SET),
        source_id=contents.identifiers.get(SUBMISSION_SET.identifiers[SOURCE_ID], ""),
        authors=contents.authors(SUBMISSION_SET), content_type=contents.code(SUBMISSION_SET.codes["contentTypeCode"]))


def _folder(rim: RimObject) -> Folder:
    contents = _Contents(rim)
    return Folder(
        **_common(FOLDER, rim, contents), **contents.fields(FOLDER), codes=contents.codes(FOLDER.codes["codeList"]))


def _association(rim: RimObject) -> Association:
    at, contents = rim.attributes, _Contents(rim)
    return Association(
        id=rim.id, type=at.get("associationType", ""), source=at.get("sourceObject", ""), target=at.get("targetObject", ""),
        status=at.get("status", ""), documentation=contents.code(ASSOCIATION.codes["documentation"]),
        extra=_extra(ASSOCIATION, rim), **contents.fields(ASSOCIATION))


def _common(shape: Shape, rim: RimObject, contents: _Contents) -> dict[str, Any]:
    at, identifiers = rim.attributes, contents.identifiers
    return {
        "id": rim.id, "status": at.get("status", ""), "home": at.get("home", ""), "title": rim.name, "comments": rim.description,
        "patient_id": identifiers.get(shape.identifiers[PATIENT_ID], ""),
        "unique_id": identifiers.get(shape.identifiers[UNIQUE_ID], ""), "extra": _extra(shape, rim),
    }


def _extra(shape: Shape, rim: RimObject) -> dict[str, tuple[str, ...]]:
    known = shape.slot_names
    return {name: found for name, found in rim.slots if name not in known}


class Writer:
    """Appends metadata objects to a rim:RegistryObjectList; nested ids are symbolic and unique within the list."""

    def __init__(self, listing: Element) -> None:
        self._listing = listing
        self._ids: Iterator[int] = iter(range(1, 1 << 30))

    def write(self, objects: RegistryObjects) -> None:
        """Append all objects."""
        for document in objects.documents:
            self._entry(document)
        for submission_set in objects.submission_sets:
            self._submission_set(submission_set)
        for folder in objects.folders:
            self._folder(folder)
        for association in objects.associations:
            self._association(association)

    def _entry(self, entry: DocumentEntry) -> None:
        codes = {attribute: entry.codes.get(attribute, ()) for attribute in ENTRY.codes}
        self._append(
            ENTRY, entry, codes, "ExtrinsicObject",
            {"mimeType": entry.mime_type, "objectType": entry.object_type or STABLE, "lid": entry.lid})

    def _submission_set(self, ss: SubmissionSet) -> None:
        codes = {"contentTypeCode": (ss.content_type,) if ss.content_type else ()}
        self._append(SUBMISSION_SET, ss, codes)

    def _folder(self, folder: Folder) -> None:
        self._append(FOLDER, folder, {"codeList": folder.codes})

    def _append(
        self, shape: Shape, thing: DocumentEntry | SubmissionSet | Folder, codes: Mapping[str, tuple[Code, ...]],
        kind: str = "RegistryPackage", attributes: Mapping[str, str] | None = None,
    ) -> None:
        fixed = {"objectType": f"{OBJECT_TYPE}RegistryPackage"} if attributes is None else attributes
        authors = () if isinstance(thing, Folder) else thing.authors
        classifications, identifiers = self._nested(shape, thing, codes, authors)
        write_object(self._listing, RimObject(
            kind=kind, attributes=_given({"id": thing.id, "home": thing.home, "status": thing.status, **fixed}),
            slots=_slots(shape, thing), name=thing.title, description=thing.comments,
            version=thing.version if isinstance(thing, DocumentEntry) else "",
            classifications=tuple(classifications), identifiers=tuple(identifiers)))

    def _nested(
        self, shape: Shape, thing: DocumentEntry | SubmissionSet | Folder, codes: Mapping[str, tuple[Code, ...]],
        authors: tuple[Author, ...],
    ) -> Nested:
        labels = [Classification(id=self._id(), owner=thing.id, node=shape.label)] if shape.label else []
        people = [self._author(thing.id, shape.author, author) for author in authors]
        coded = [self._code(thing.id, shape.codes[attribute], code) for attribute, found in codes.items() for code in found]
        texts = {PATIENT_ID: thing.patient_id, UNIQUE_ID: thing.unique_id,
                 SOURCE_ID: thing.source_id if isinstance(thing, SubmissionSet) else ""}
        identifiers = [
            Identifier(id=self._id(), owner=thing.id, scheme=scheme, value=texts[attribute], label=f"{shape.name}.{attribute}")
            for attribute, scheme in shape.identifiers.items() if texts[attribute]
        ]
        return [*labels, *people, *coded], identifiers

    def _association(self, link: Association) -> None:
        documentation = (link.documentation,) if link.documentation else ()
        codes = tuple(self._code(link.id, ASSOCIATION.codes["documentation"], code) for code in documentation)
        write_object(self._listing, RimObject(
            kind="Association", classifications=codes, slots=_slots(ASSOCIATION, link), attributes=_given({
                "id": link.id, "associationType": link.type, "sourceObject": link.source, "targetObject": link.target,
                "status": link.status, "objectType": f"{OBJECT_TYPE}Association"})))

    def _author(self, owner: str, scheme: str, author: Author) -> Classification:
        slots = {AUTHOR_PERSON: (author.person,) if author.person else (),
                 **{slot: getattr(author, name) for name, slot in AUTHOR_SLOTS.items()}}
        return Classification(id=self._id(), owner=owner, scheme=scheme, code="", slots=_filled(slots))

    def _code(self, owner: str, scheme: str, code: Code) -> Classification:
        return Classification(id=self._id(), owner=owner, scheme=scheme, code=code.code, display=code.display,
                              slots=((CODING_SCHEME, (code.scheme,)),))

    def _id(self) -> str:
        return f"nested-{next(self._ids)}"


def _slots(shape: Shape, thing: DocumentEntry | SubmissionSet | Folder | Association) -> Slots:
    found: dict[str, tuple[str, ...]] = {}
    for name, slot in shape.single.items():
        value = getattr(thing, name)
        found[slot] = () if value is None or value == "" else (str(value),)
    found |= {slot: getattr(thing, name) for name, slot in shape.many.items()}
    return _filled({**found, **thing.extra})


def _filled(slots: Mapping[str, tuple[str, ...]]) -> Slots:
    return tuple((name, found) for name, found in slots.items() if found)


def _given(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value}
