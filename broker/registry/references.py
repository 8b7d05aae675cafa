"""What a submission must be beside what is registered: patient, uniqueIds, references, relationships (ITI TF-2 3.42.4.1.3).

Steps run in order inside the registration's unit of work; the problems of the first step that has any are reported
together.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from broker.config.profile import Profile
from broker.model.errors import Problem, Rejected, XdsCode
from broker.model.ids import PatientId, is_uuid_urn
from broker.model.metadata import (
    APND,
    APPROVED,
    HAS_MEMBER,
    IS_SNAPSHOT_OF,
    ON_DEMAND,
    RPLC,
    XFRM,
    XFRM_RPLC,
    Association,
)
from broker.model.ports import PatientDirectory, Unit
from broker.registry import store
from broker.registry.attributes import problem
from broker.registry.rules import MOST_PROBLEMS, Request
from broker.registry.store import ASSOCIATION, DOCUMENT, FOLDER, SUBMISSION, ObjectSummary

_REGISTERED_TARGET = frozenset({RPLC, XFRM_RPLC, IS_SNAPSHOT_OF})
_MEMBER_KINDS = {FOLDER: {DOCUMENT}, SUBMISSION: {DOCUMENT, FOLDER, ASSOCIATION}}


@dataclass(frozen=True, slots=True)
class SubmissionContext:
    """A submission beside what is registered.

    `patient` is whose it is, `submitted` what it brings, `registered` what it refers to, `uses` the objects that are
    registered with one of its uniqueIds: (uniqueId, hash, size).
    """

    unit: Unit
    request: Request
    directory: PatientDirectory
    domain: str
    patient: PatientId
    submitted: dict[str, ObjectSummary]
    registered: dict[str, ObjectSummary]
    uses: list[tuple[str, str | None, int | None]]

    def end(self, reference: str) -> ObjectSummary | None:
        """Return the object an association's end names, or None when there is no such object."""
        return self.submitted.get(reference) or self.registered.get(reference)


Step = Callable[[SubmissionContext], Iterable[Problem]]


def validate(unit: Unit, request: Request, directory: PatientDirectory, profile: Profile) -> SubmissionContext:
    """Return the submission beside what is registered. Raise `Rejected` with the problems of the first failing step."""
    patient = PatientId.parse(request.submission_set.patient_id)
    submitted = _submitted(request, str(patient))
    ends = {end for link in request.objects.associations for end in (link.source, link.target)}
    registered = store.summaries(unit, filter(is_uuid_urn, ends - submitted.keys()))
    uses = store.uses(unit, (thing.unique_id for thing in request.described))
    context = SubmissionContext(unit, request, directory, profile.region.affinity_domain, patient, submitted, registered, uses)
    for step in STEPS:
        problems = list(islice(step(context), MOST_PROBLEMS))
        if problems:
            raise Rejected.of(problems)
    return context


def _submitted(request: Request, patient: str) -> dict[str, ObjectSummary]:
    objects = request.objects
    rows = (
        *((document.id, DOCUMENT, document.object_type) for document in objects.documents),
        *((ss.id, SUBMISSION, "") for ss in objects.submission_sets),
        *((folder.id, FOLDER, "") for folder in objects.folders),
        *((link.id, ASSOCIATION, "") for link in objects.associations),
    )
    return {key: ObjectSummary(key, kind, APPROVED, patient, object_type) for key, kind, object_type in rows}


def _patient(context: SubmissionContext) -> Iterator[Problem]:
    active = (
        context.patient.domain == context.domain
        and not store.retired(context.unit, context.patient)
        and context.directory.is_active(context.unit, context.patient)
    )
    if not active:
        yield Problem(XdsCode.UNKNOWN_PATIENT_ID, f"Patient {context.patient} is not known")


def _unique_ids(context: SubmissionContext) -> Iterator[Problem]:
    objects = context.request.objects
    ours = {thing.unique_id: f"SubmissionSet {thing.id}" for thing in objects.submission_sets}
    ours |= {folder.unique_id: f"Folder {folder.id}" for folder in objects.folders}
    for used in sorted({used for used, _, _ in context.uses if used in ours}):
        yield Problem(XdsCode.DUPLICATE_UNIQUE_ID_IN_REGISTRY, f"{ours[used]}: uniqueId {used} is already registered")
    for taken in store.summaries(context.unit, filter(is_uuid_urn, context.submitted)):
        yield problem(f"id {taken}", "is already registered")


def _same_document(context: SubmissionContext) -> Iterator[Problem]:
    """A uniqueId that is registered may come again with the same bytes only."""
    documents = {document.unique_id: document for document in context.request.objects.documents}
    for unique_id, digest, size in context.uses:
        if unique_id not in documents or digest is None:
            continue
        if size != documents[unique_id].size:
            yield Problem(XdsCode.NON_IDENTICAL_SIZE, f"uniqueId {unique_id} is registered with another size")
        elif digest != documents[unique_id].hash.lower():
            yield Problem(XdsCode.NON_IDENTICAL_HASH, f"uniqueId {unique_id} is registered with another hash")


def _resolved(context: SubmissionContext) -> Iterator[Problem]:
    for link in context.request.objects.associations:
        for reference in (link.source, link.target):
            if context.end(reference) is None:
                yield _unresolved(link, reference)


def _unresolved(link: Association, reference: str) -> Problem:
    return Problem(XdsCode.UNRESOLVED_REFERENCE, f"Association {link.id}: there is no suitable object {reference}")


def _relationship_ends(context: SubmissionContext) -> Iterator[Problem]:
    """The source is a DocumentEntry brought along; what replaces or snapshots something does so to a registered one."""
    for link in _relationships(context):
        if _end(context.submitted, link.source).kind != DOCUMENT:
            yield _unresolved(link, link.source)
        if link.type in _REGISTERED_TARGET and link.target not in context.registered:
            yield _unresolved(link, link.target)


def _kinds(context: SubmissionContext) -> Iterator[Problem]:
    for link in context.request.objects.associations:
        source, target = context.end(link.source), context.end(link.target)
        assert source is not None
        assert target is not None
        if link.type != HAS_MEMBER:
            good = target.kind == DOCUMENT
        elif source.kind == SUBMISSION:
            good = source.uuid in context.submitted and (target.uuid in context.submitted or target.kind == DOCUMENT)
        else:
            good = target.kind in _MEMBER_KINDS.get(source.kind, ())
        if not good:
            yield problem(f"Association {link.id}", f"{link.type} cannot lead from a {source.kind} to this {target.kind}")


def _transformed(context: SubmissionContext) -> Iterator[Problem]:
    """An addendum belongs to an original, not to a transformation of it (ITI TF-3 4.2.2.2)."""
    links = context.request.objects.associations
    targets = {link.target for link in links if link.type == APND}
    relations = store.relations_of(context.unit, targets & context.registered.keys())
    relations += [(link.source, link.type) for link in links if link.source in targets]
    for target in sorted({source for source, kind in relations if _makes_a_transformation(kind)}):
        yield problem(f"APND to {target}", "the target is a transformation")


def _makes_a_transformation(kind: str) -> bool:
    """Say whether what a relationship of this type leads from is a transformation: XFRM_RPLC makes it the new original."""
    return kind == XFRM


def _approved(context: SubmissionContext) -> Iterator[Problem]:
    for link in context.request.objects.associations:
        for reference in (link.source, link.target):
            if _end(context.registered, reference).status not in {"", APPROVED}:
                yield Problem(XdsCode.DEPRECATED_DOCUMENT, f"Association {link.id}: {reference} is deprecated")


def _patients(context: SubmissionContext) -> Iterator[Problem]:
    """Only a SubmissionSet may refer to an entry of another patient (ITI TF-3 4.2.2.1)."""
    for link in context.request.objects.associations:
        source = context.end(link.source)
        crossing = link.type == HAS_MEMBER and source is not None and source.kind == SUBMISSION
        for reference in () if crossing else (link.source, link.target):
            if _end(context.registered, reference).patient not in {"", str(context.patient)}:
                yield Problem(
                    XdsCode.PATIENT_ID_DOES_NOT_MATCH,
                    f"Association {link.id}: {reference} belongs to another patient than {context.patient}")


def _snapshots(context: SubmissionContext) -> Iterator[Problem]:
    for link in context.request.objects.associations:
        if link.type == IS_SNAPSHOT_OF and _end(context.registered, link.target).object_type != ON_DEMAND:
            yield problem(f"Association {link.id}", "IsSnapshotOf must lead to an on-demand DocumentEntry")


def _relationships(context: SubmissionContext) -> Iterator[Association]:
    return (link for link in context.request.objects.associations if link.type != HAS_MEMBER)


_NOTHING = ObjectSummary("", "", "", "", "")


def _end(objects: dict[str, ObjectSummary], reference: str) -> ObjectSummary:
    return objects.get(reference, _NOTHING)


STEPS: tuple[Step, ...] = (
    _patient, _unique_ids, _same_document, _resolved, _relationship_ends, _kinds, _transformed, _approved, _patients, _snapshots)
