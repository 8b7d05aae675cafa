"""What each attribute of a submitted object must look like towards a registry (ITI TF-3 tables 4.2.3.2-1 to 4.2.3.4-1)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.model.errors import Problem, XdsCode
from broker.model.ids import is_oid
from broker.model.metadata import STABLE
from broker.wire import ebxml_types as form
from broker.wire.ebxml_rim import Classification, RimObject, Slots, first, values
from broker.wire.ebxml_vocabulary import (
    ASSOCIATION,
    AUTHOR_PERSON,
    AUTHOR_SLOTS,
    CODING_SCHEME,
    ENTRY,
    FOLDER,
    PATIENT_ID,
    REFERENCE_ID_LIST,
    SOURCE_ID,
    SUBMISSION_SET,
    SUBMISSION_SET_STATUS,
    UNIQUE_ID,
    Shape,
)

# Where ebRIM keeps the values of an attribute: under the name of a slot or of an XML attribute, under the scheme of an
# identifier or of a classification, or as the object's name.
SLOT, XML, IDENTIFIER, CODE, NAME = "slot", "attribute", "identifier", "classification", "name"

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: where its values are, how many there may be (`most` None: any number), what each must look like."""

    name: str
    key: Key
    least: int
    most: int | None
    good: Callable[[str], bool]
    form: str


def problem(where: str, text: str) -> Problem:
    """Return a XDSRegistryMetadataError about the object or attribute `where`."""
    return Problem(XdsCode.REGISTRY_METADATA_ERROR, f"{where}: {text}")


def _slot(name: str, least: int, most: int | None, good: Callable[[str], bool], wanted: str) -> Attribute:
    return Attribute(name, (SLOT, name), least, most, good, wanted)


def _xml(name: str, good: Callable[[str], bool], wanted: str) -> Attribute:
    return Attribute(name, (XML, name), 1, 1, good, wanted)


def _identifier(shape: Shape, name: str, good: Callable[[str], bool], wanted: str) -> Attribute:
    return Attribute(name, (IDENTIFIER, shape.identifiers[name]), 1, 1, good, wanted)


def _coded(shape: Shape, name: str, least: int, most: int | None) -> Attribute:
    return Attribute(name, (CODE, shape.codes[name]), least, most, lambda _text: True, "a code")


def _title(least: int, longest: int) -> Attribute:
    return Attribute("title", (NAME, ""), least, 1, lambda text: len(text) <= longest, f"at most {longest} characters")


def _is_status(text: str) -> bool:
    return text in {"Original", "Reference"}


_TIME = (form.is_dtm, "a time YYYY[MM[DD[hh[mm[ss]]]]]")
_CX = (form.is_cx, "a patient id of the form id^^^&oid&ISO")
_OID = (is_oid, "an OID")

ATTRIBUTES: dict[str, tuple[Attribute, ...]] = {
    ENTRY.name: (
        _xml("objectType", lambda text: text == STABLE, f"the type of a stable entry, {STABLE}"),
        _xml("mimeType", form.is_mime_type, "a media type"),
        _identifier(ENTRY, PATIENT_ID, *_CX),
        _identifier(ENTRY, UNIQUE_ID, form.is_document_id, "1 to 256 printable ASCII characters without blanks"),
        _slot("creationTime", 1, 1, *_TIME),
        _slot("serviceStartTime", 0, 1, *_TIME),
        _slot("serviceStopTime", 0, 1, *_TIME),
        _slot("hash", 1, 1, form.is_sha1, "a SHA-1 of 40 hexadecimal digits"),
        _slot("size", 1, 1, form.is_size, "a number of bytes"),
        _slot("languageCode", 1, 1, form.is_language, "a language tag"),
        _slot("repositoryUniqueId", 1, 1, *_OID),
        _slot("sourcePatientId", 1, 1, *_CX),
        _slot("sourcePatientInfo", 0, None, form.is_patient_field, "fields PID-n|data"),
        _slot("legalAuthenticator", 0, 1, form.is_xcn, "a person (XCN)"),
        _slot("URI", 0, 1, bool, "not empty"),
        _slot(REFERENCE_ID_LIST, 0, None, form.is_cxi, "reference ids (CXi)"),
        _title(0, 128),
        _coded(ENTRY, "classCode", 1, 1),
        _coded(ENTRY, "typeCode", 1, 1),
        _coded(ENTRY, "formatCode", 1, 1),
        _coded(ENTRY, "healthcareFacilityTypeCode", 1, 1),
        _coded(ENTRY, "practiceSettingCode", 1, 1),
        _coded(ENTRY, "confidentialityCode", 1, None),
        _coded(ENTRY, "eventCodeList", 0, None),
    ),
    SUBMISSION_SET.name: (
        _identifier(SUBMISSION_SET, PATIENT_ID, *_CX),
        _identifier(SUBMISSION_SET, UNIQUE_ID, *_OID),
        _identifier(SUBMISSION_SET, SOURCE_ID, *_OID),
        _slot("submissionTime", 1, 1, *_TIME),
        _slot("intendedRecipient", 0, None, form.is_recipient, "recipients organisation|person|telecom"),
        _title(0, 256),
        _coded(SUBMISSION_SET, "contentTypeCode", 1, 1),
    ),
    FOLDER.name: (
        _identifier(FOLDER, PATIENT_ID, *_CX),
        _identifier(FOLDER, UNIQUE_ID, *_OID),
        _slot("lastUpdateTime", 0, 1, *_TIME),
        _title(1, 256),
        _coded(FOLDER, "codeList", 1, None),
    ),
    ASSOCIATION.name: (
        _slot(SUBMISSION_SET_STATUS, 0, 1, _is_status, "Original or Reference"),
        _coded(ASSOCIATION, "documentation", 0, 1),
    ),
}


def attribute_problems(shape: Shape, rim: RimObject) -> Iterator[Problem]:
    """Return what is wrong with the attributes of one object: missing, too many, malformed, or unknown to the standard."""
    where, found = f"{shape.name} {rim.id}", _values(rim)
    for attribute in ATTRIBUTES[shape.name]:
        kind, called = attribute.key
        given = found[kind].get(called, ())
        if not _fits(attribute, given):
            yield from _unfit(where, attribute, given)
    yield from _slot_problems(where, rim.slots)
    yield from _scheme_problems(where, shape, rim)
    for classification in rim.classifications:
        if classification.scheme and classification.scheme == shape.author:
            yield from _author_problems(where, classification.slots)
        elif classification.scheme in shape.schemes:
            yield from _code_problems(where, shape, classification)
    if shape is ENTRY:
        yield from _service_problems(where, rim.slots)


def _values(rim: RimObject) -> dict[str, Mapping[str, Sequence[str]]]:
    """Return all values of an object by their kind of place, and what it is called there; of a repeated slot the first."""
    identifiers: dict[str, list[str]] = {}
    for identifier in rim.identifiers:
        identifiers.setdefault(identifier.scheme, []).append(identifier.value)
    codes: dict[str, list[str]] = {}
    for row in rim.classifications:
        codes.setdefault(row.scheme, []).append(row.code or "")
    return {
        SLOT: dict(reversed(rim.slots)), IDENTIFIER: identifiers, CODE: codes, NAME: {"": (rim.name,)} if rim.name else {},
        XML: {name: (value,) for name, value in rim.attributes.items()}}


def _fits(attribute: Attribute, found: Sequence[str]) -> bool:
    count = len(found)
    return attribute.least <= count and (attribute.most is None or count <= attribute.most) and all(map(attribute.good, found))


def _unfit(where: str, attribute: Attribute, found: Sequence[str]) -> Iterator[Problem]:
    if len(found) < attribute.least:
        yield problem(where, f"{attribute.name} is missing")
    if attribute.most is not None and len(found) > attribute.most:
        yield problem(where, f"{attribute.name} has {len(found)} values, {attribute.most} is allowed")
    if not all(map(attribute.good, found)):
        yield problem(where, f"{attribute.name} must be {attribute.form}")


def _slot_problems(where: str, slots: Slots) -> Iterator[Problem]:
    names = [name for name, _ in slots]
    if "" in names or len(set(names)) < len(names):
        for name, count in Counter(names).items():
            if not name or count > 1:
                yield problem(where, f"slot {name!r} must occur once")


def _scheme_problems(where: str, shape: Shape, rim: RimObject) -> Iterator[Problem]:
    for row in rim.classifications:
        known = row.scheme in shape.schemes if row.scheme else row.node == shape.label != ""
        if not known:
            yield problem(where, f"classification {row.scheme or row.node or row.id} is not one of this kind of object")
    for identifier in rim.identifiers:
        if identifier.scheme not in shape.identification_schemes:
            yield problem(where, f"identification scheme {identifier.scheme} is not one of this kind of object")


def _code_problems(where: str, shape: Shape, row: Classification) -> Iterator[Problem]:
    schemes = values(row.slots, CODING_SCHEME)
    if not row.code or len(schemes) != 1 or not schemes[0]:
        yield problem(where, f"{shape.code_name(row.scheme)} must have a nodeRepresentation and one codingScheme")
    if not row.display.strip():
        yield problem(where, f"{shape.code_name(row.scheme)} {row.code} has no display name")


def _author_problems(where: str, slots: Slots) -> Iterator[Problem]:
    person, institutions = values(slots, AUTHOR_PERSON), values(slots, AUTHOR_SLOTS["institutions"])
    yield from _slot_problems(f"{where} author", slots)
    if len(person) > 1 or not all(map(form.is_xcn, person)):
        yield problem(where, "authorPerson must be one person (XCN)")
    if not all(map(form.is_xon, institutions)):
        yield problem(where, "authorInstitution must be organisations (XON)")
    if not person and not institutions and not values(slots, AUTHOR_SLOTS["telecoms"]):
        yield problem(where, "author must have a person, an institution or a telecommunication address")


def _service_problems(where: str, slots: Slots) -> Iterator[Problem]:
    start, stop = first(slots, "serviceStartTime"), first(slots, "serviceStopTime")
    if start and stop and form.is_dtm(start) and form.is_dtm(stop) and form.is_later(start, stop):
        yield problem(where, "serviceStartTime is later than serviceStopTime")
    fields = [field.split("|")[0] for field in values(slots, "sourcePatientInfo")]
    for single in ("PID-7", "PID-8"):
        if fields.count(single) > 1:
            yield problem(where, f"sourcePatientInfo has {single} more than once")
