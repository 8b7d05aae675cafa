"""ebXML registry messages (ebRIM / ebRS 3.0 as profiled by ITI TF-3 4.2): bytes and elements to dataclasses and back.

Reading is lenient: what is missing is empty, what is unknown is kept as `extra`. What a registry must refuse is
decided by its rules, which look at the same elements through `ebxml_rim`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lxml import etree

from broker.model.errors import BrokerError, Problem, Rejected, TooLarge, Unavailable, XdsCode
from broker.model.metadata import RegistryObjects
from broker.wire.ebxml_objects import Writer, from_rim, rim_objects
from broker.wire.ebxml_rim import RimObject, set_slot, tag
from broker.wire.xml import LCM, QUERY, RIM, RS, Element

SUCCESS = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success"
PARTIAL_SUCCESS = "urn:ihe:iti:2007:ResponseStatusType:PartialSuccess"
FAILURE = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure"
# The elements a submission lists: its documents, its sets and folders, and what ties them together.
OBJECTS = tuple(tag(name) for name in ("ExtrinsicObject", "RegistryPackage", "Association"))

_ERROR = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Error"
_WARNING = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Warning"
_LISTING = tag("RegistryObjectList")
_FOUND = f'<query:AdhocQueryResponse xmlns:query="{QUERY}" status="%s">%s<rim:RegistryObjectList xmlns:rim="{RIM}">'.encode()
_FOUND_END = b"</rim:RegistryObjectList></query:AdhocQueryResponse>"
_SUBMIT = f"{{{LCM}}}SubmitObjectsRequest"


@dataclass(frozen=True, slots=True)
class Submission:
    """A lcm:SubmitObjectsRequest: its element, and what was read from it: metadata, and the objects as ebRIM has them.

    Change none of it; see `with_slots`.
    """

    element: Element
    objects: RegistryObjects
    rims: tuple[RimObject, ...]


@dataclass(frozen=True, slots=True)
class RegistryResponse:
    """What a registry or repository answered. `status` is a URN; warnings do not make a failure."""

    status: str
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def read_objects(listing: Element) -> RegistryObjects:
    """Return the metadata in a rim:RegistryObjectList; ObjectRefs are not objects and are left out."""
    return from_rim(rim_objects(listing))


def write_objects(objects: RegistryObjects) -> bytes:
    """Return a rim:RegistryObjectList in default-namespace form. Nested ids are symbolic."""
    listing = etree.Element(_LISTING, nsmap={None: RIM})
    Writer(listing).write(objects)
    return etree.tostring(listing, encoding="UTF-8", xml_declaration=False)


def submit_request(objects: RegistryObjects) -> bytes:
    """Return a lcm:SubmitObjectsRequest that submits the objects."""
    return b'<lcm:SubmitObjectsRequest xmlns:lcm="%s">%s</lcm:SubmitObjectsRequest>' % (LCM.encode(), write_objects(objects))


def listing_of(submission: Element) -> Element:
    """Return the rim:RegistryObjectList of a lcm:SubmitObjectsRequest. Raise `Rejected` when there is none."""
    found = next((child for child in submission if child.tag == _LISTING), None) if submission.tag == _SUBMIT else None
    if found is None:
        raise Rejected(XdsCode.REGISTRY_METADATA_ERROR, "there is no SubmitObjectsRequest with a RegistryObjectList")
    return found


def read_submission(element: Element) -> Submission:
    """Return the submission in a lcm:SubmitObjectsRequest element. Raise `Rejected` for any other element."""
    rims = tuple(rim_objects(listing_of(element)))
    return Submission(element, from_rim(rims), rims)


def with_slots(submission: Submission, slots: Mapping[str, Mapping[str, str]]) -> Submission:
    """Return the submission with these single-valued slots, by DocumentEntry id, set, whatever they were before."""
    element = copy.deepcopy(submission.element)
    for entry in listing_of(element).iterfind(tag("ExtrinsicObject")):
        for name, value in slots.get(entry.get("id", ""), {}).items():
            set_slot(entry, name, value)
    return read_submission(element)


def error_list(problems: Sequence[Problem], warnings: Sequence[Problem] = ()) -> bytes:
    """Return a rs:RegistryErrorList; nothing when there is nothing to tell (ITI TF-3 4.2.4.1)."""
    if not problems and not warnings:
        return b""
    listing = etree.Element(f"{{{RS}}}RegistryErrorList", nsmap={"rs": RS}, highestSeverity=_ERROR if problems else _WARNING)
    for severity, found in ((_ERROR, problems), (_WARNING, warnings)):
        for problem in found:
            etree.SubElement(listing, f"{{{RS}}}RegistryError", {
                "errorCode": problem.code, "codeContext": problem.context, "location": problem.location, "severity": severity})
    return etree.tostring(listing, encoding="UTF-8", xml_declaration=False)


def registry_response(problems: Sequence[Problem] = (), warnings: Sequence[Problem] = (), status: str = "") -> bytes:
    """Return a rs:RegistryResponse; without a `status` it is Failure if there are problems, else Success."""
    said = status or (FAILURE if problems else SUCCESS)
    return b'<rs:RegistryResponse xmlns:rs="%s" status="%s">%s</rs:RegistryResponse>' % (
        RS.encode(), said.encode(), error_list(problems, warnings))


def query_response(
    fragments: Sequence[bytes], problems: Sequence[Problem] = (), warnings: Sequence[Problem] = (),
) -> tuple[bytes, ...]:
    """Return the pieces of a query:AdhocQueryResponse around ready-made objects; with problems it is a Failure.

    The list of objects is always there, as the schema demands, also when it is empty.
    """
    status = FAILURE if problems else SUCCESS
    return (_FOUND % (status.encode(), error_list(problems, warnings)), *fragments, _FOUND_END)


def read_registry_response(element: Element) -> RegistryResponse:
    """Return what a rs:RegistryResponse (or any response of that type) says."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for error in element.iterfind(f"{{{RS}}}RegistryErrorList/{{{RS}}}RegistryError"):
        found = problems if error.get("severity", _ERROR) != _WARNING else warnings
        found.append(Problem(error.get("errorCode", ""), error.get("codeContext", ""), error.get("location", "")))
    return RegistryResponse(element.get("status", ""), tuple(problems), tuple(warnings))


def read_query_response(element: Element) -> tuple[RegistryResponse, RegistryObjects]:
    """Return what a query:AdhocQueryResponse says and the metadata it brings; a failure may come without a list."""
    listing = element.find(_LISTING)
    return read_registry_response(element), read_objects(listing) if listing is not None else RegistryObjects()


def problems_of(
    error: BrokerError, actor: Literal["registry", "repository"], *, metadata: bool = False,
) -> tuple[Problem, ...]:
    """Return the registry errors of ITI TF-3 table 4.2.4.1-2 that tell `error` when `actor` answers.

    `metadata` says that the request was metadata: what is wrong with its form then has a code of its own.
    """
    if isinstance(error, Rejected):
        wrong = _CODES[actor]["metadata" if metadata else "wrong"]
        return tuple(replace(problem, code=wrong) if problem.code in _GENERAL else problem for problem in error.problems)
    if isinstance(error, TooLarge) or (isinstance(error, Unavailable) and error.full):
        return (Problem(_CODES[actor]["large"], str(error)),)
    down = "registry" if isinstance(error, Unavailable) and error.what == "registry" else "other"
    return (Problem(_CODES[actor][down], str(error)),)


# What the layers below call wrong has no code of its own in the table.
_GENERAL = frozenset(("SchemaInvalid", "NotXml"))
_CODES: dict[str, dict[str, str]] = {
    "registry": {"wrong": XdsCode.REGISTRY_ERROR, "metadata": XdsCode.REGISTRY_METADATA_ERROR,
                 "large": XdsCode.REGISTRY_OUT_OF_RESOURCES,
                 "registry": XdsCode.REGISTRY_BUSY, "other": XdsCode.REGISTRY_BUSY},
    "repository": {"wrong": XdsCode.REPOSITORY_ERROR, "metadata": XdsCode.REPOSITORY_METADATA_ERROR,
                   "large": XdsCode.REPOSITORY_OUT_OF_RESOURCES,
                   "registry": XdsCode.REGISTRY_NOT_AVAILABLE, "other": XdsCode.REPOSITORY_BUSY},
}
