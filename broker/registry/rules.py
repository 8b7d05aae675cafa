"""What a submission must be in itself, before the registry's content is looked at (ITI TF-3 4.2.1, 4.2.2; ITI TF-2 3.42.4.1.3).

Steps run in order; the problems of the first step that has any are reported together, the first thousand of them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from broker.config.profile import Profile
from broker.model.errors import Problem, Rejected, XdsCode
from broker.model.ids import PatientId, is_uuid_urn
from broker.model.metadata import (
    APND,
    HAS_MEMBER,
    IS_SNAPSHOT_OF,
    RPLC,
    SIGNS,
    XFRM,
    XFRM_RPLC,
    Association,
    Code,
    DocumentEntry,
    Folder,
    RegistryObjects,
    SubmissionSet,
)
from broker.registry.attributes import attribute_problems, problem
from broker.wire.ebxml import Submission, listing_of
from broker.wire.ebxml_objects import shape_of, stray_elements
from broker.wire.ebxml_rim import Classification, Identifier, RimObject
from broker.wire.ebxml_vocabulary import ASSOCIATION

RELATIONSHIPS = frozenset({RPLC, XFRM, APND, XFRM_RPLC, SIGNS, IS_SNAPSHOT_OF})
REPLACEMENTS = frozenset({RPLC, XFRM_RPLC})
DOCUMENTED = frozenset({RPLC, XFRM, APND, XFRM_RPLC})
MOST_PROBLEMS = 1000            # told of one request


@dataclass(frozen=True, slots=True)
class Request:
    """A submission as the rules see it."""

    submission: Submission

    @property
    def rims(self) -> tuple[RimObject, ...]:
        """The objects as ebRIM has them."""
        return self.submission.rims

    @property
    def objects(self) -> RegistryObjects:
        """The metadata."""
        return self.submission.objects

    @property
    def submission_set(self) -> SubmissionSet:
        """The one SubmissionSet; only after the structure was found right."""
        return self.objects.submission_sets[0]

    @property
    def described(self) -> tuple[DocumentEntry | SubmissionSet | Folder, ...]:
        """Everything that has a patient and a uniqueId."""
        return (*self.objects.documents, *self.objects.submission_sets, *self.objects.folders)


Step = Callable[[Request, Profile], Iterable[Problem]]


def validate(submission: Submission, profile: Profile) -> Request:
    """Return the submission when it is right in itself; raise `Rejected` with all problems of the first failing step."""
    request = Request(submission)
    for step in STEPS:
        problems = list(islice(step(request, profile), MOST_PROBLEMS))
        if problems:
            raise Rejected.of(problems)
    return request


def _kinds(request: Request, _profile: Profile) -> Iterator[Problem]:
    for name in stray_elements(listing_of(request.submission.element)):
        yield problem(name, "is not an object of a submission")
    for rim in request.rims:
        if shape_of(rim) is None:
            yield problem(f"RegistryPackage {rim.id}", "must be labelled as either a SubmissionSet or a Folder")
    found = len(request.objects.submission_sets)
    if found != 1:
        yield problem("submission", f"has {found} SubmissionSets, there must be exactly one")


def _ids(request: Request, _profile: Profile) -> Iterator[Problem]:
    ids: list[str] = []
    for rim in request.rims:
        own = rim.id
        ids.append(own)
        nested: tuple[Classification | Identifier, ...] = (*rim.classifications, *rim.identifiers)
        for row in nested:
            ids.append(row.id)
            if row.owner != own:
                yield problem(f"{rim.kind} {own}", f"{row.id} inside it belongs to {row.owner}")
    for text, count in Counter(ids).items():
        if not text or count > 1:
            yield problem(f"id {text}", "is empty" if not text else "occurs more than once")
        elif text.startswith("urn:uuid:") and not is_uuid_urn(text):
            yield problem(f"id {text}", "is not a lower-case UUID")


def _structure(request: Request, _profile: Profile) -> Iterator[Problem]:
    links = request.objects.associations
    members = {link.target for link in links if link.type == HAS_MEMBER and link.source == request.submission_set.id}
    brought = {rim.id: rim.kind for rim in request.rims}
    placed = [link for link in links if link.type == HAS_MEMBER and link.source != request.submission_set.id]
    if not (request.objects.documents or request.objects.folders or placed):
        yield problem("submission", "brings no DocumentEntry, no Folder and no Folder content")
    for kind, things in (("DocumentEntry", request.objects.documents), ("Folder", request.objects.folders),
                         ("Folder membership", placed)):
        for thing in things:
            if thing.id not in members:
                yield problem(f"{kind} {thing.id}", "is not a member of the SubmissionSet")
    for link in links:
        wanted = _wanted_status(link, request.submission_set.id, brought)
        yield from (problem(f"Association {link.id}", text) for text in _link_problems(link, request.submission_set.id, wanted))


def _link_problems(link: Association, own: str, wanted: str) -> Iterator[str]:
    if link.type != HAS_MEMBER and link.type not in RELATIONSHIPS:
        yield f"associationType {link.type} is not known"
    if link.source == link.target or link.id in {link.source, link.target}:
        yield "must join two other objects"
    if link.target == own or (link.source == own and link.type != HAS_MEMBER):
        yield "the SubmissionSet can only be the source of HasMember"
    if link.documentation is not None and link.type not in DOCUMENTED:
        yield "associationDocumentation is not allowed on this type"
    if link.submission_set_status != wanted and not (wanted == "" and link.submission_set_status == "Reference"):
        yield f"SubmissionSetStatus must be {wanted or 'absent'}"


def _wanted_status(link: Association, own: str, brought: Mapping[str, str]) -> str:
    """Original where the SubmissionSet brings the DocumentEntry, Reference where that is elsewhere, else nothing."""
    if link.type != HAS_MEMBER or link.source != own:
        return ""
    return {"ExtrinsicObject": "Original", None: "Reference"}.get(brought.get(link.target), "")


def _attributes(request: Request, _profile: Profile) -> Iterator[Problem]:
    for rim in request.rims:
        yield from attribute_problems(shape_of(rim) or ASSOCIATION, rim)


def _codes(request: Request, profile: Profile) -> Iterator[Problem]:
    """The affinity domain's value sets; names are not compared (ITI TF-2 3.42.4.1.3)."""
    for document in request.objects.documents:
        where = f"DocumentEntry {document.id}"
        allowed = profile.codes.mime_types
        if allowed and document.mime_type not in allowed:
            yield problem(where, f"mimeType {document.mime_type} is not in the configured set")
        for attribute, codes in document.codes.items():
            yield from _outside(where, attribute, codes, profile)
    ss = request.submission_set
    yield from _outside(f"SubmissionSet {ss.id}", "contentTypeCode", (ss.content_type,) if ss.content_type else (), profile)
    for folder in request.objects.folders:
        yield from _outside(f"Folder {folder.id}", "codeList", folder.codes, profile)


def _outside(where: str, attribute: str, codes: tuple[Code, ...], profile: Profile) -> Iterator[Problem]:
    allowed = profile.codes.allowed.get(attribute, ())
    for code in codes:
        if allowed and not any(one.code == code.code and one.scheme == code.scheme for one in allowed):
            yield problem(where, f"{attribute} {code.code} (scheme {code.scheme}) is not in the configured value set")


def _duplicates(request: Request, _profile: Profile) -> Iterator[Problem]:
    counted = Counter(thing.unique_id for thing in request.described)
    for unique_id, count in counted.items():
        if count > 1:
            yield Problem(XdsCode.DUPLICATE_UNIQUE_ID_IN_MESSAGE, f"uniqueId {unique_id} occurs {count} times")


def _one_patient(request: Request, _profile: Profile) -> Iterator[Problem]:
    patients = {PatientId.parse(thing.patient_id): thing.patient_id for thing in request.described}
    if len(patients) > 1:
        yield Problem(XdsCode.PATIENT_ID_DOES_NOT_MATCH, f"several patient ids in one submission: {', '.join(patients.values())}")


STEPS: tuple[Step, ...] = (_kinds, _ids, _structure, _attributes, _codes, _duplicates, _one_patient)
