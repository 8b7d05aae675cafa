"""ITI-42 Register Document Set-b (ITI TF-2 3.42): all of a submission is registered, or nothing of it."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime

from broker.config.profile import Profile
from broker.db import Database, Lock, lock_all
from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Problem
from broker.model.ids import PatientId, new_uuid_urn
from broker.model.metadata import DEPRECATED, HAS_MEMBER, Association
from broker.model.ports import PatientDirectory, Unit
from broker.model.transaction import NOTHING_TO_FILTER, AuditEvent, Message, Transaction, Wire
from broker.registry import references, rules, store
from broker.registry.references import SubmissionContext
from broker.registry.rules import Request
from broker.registry.store import FOLDER, ObjectSummary
from broker.wire import ebxml, ebxml_stored
from broker.wire.ebxml import OBJECTS, Submission
from broker.wire.ebxml_stored import RegisteredObjects
from broker.wire.ports import Registrar
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import LCM

ACTION = "urn:ihe:iti:2007:RegisterDocumentSet-b"


class Registration:
    """Registers submissions in one database."""

    def __init__(self, database: Database, patients: PatientDirectory, profile: Profile, clock: Callable[[], datetime]) -> None:
        self._database, self._patients, self._profile, self._clock = database, patients, profile, clock

    def register(self, submission: Submission, facts: AuditFacts) -> None:
        """Register durably. Raise `Rejected` with all problems of the first failing step; then nothing is stored."""
        submission.objects.note(facts)
        request = rules.validate(submission, self._profile)
        now = _dtm(self._clock().astimezone(UTC))
        registered = ebxml_stored.to_registered(submission, new_uuid_urn, now)
        with self._database.write() as unit:
            _lock(unit, request, registered.names.keys())
            context = references.validate(unit, request, self._patients, self._profile)
            self._commit(unit, context, registered)

    def _commit(self, unit: Unit, context: SubmissionContext, registered: RegisteredObjects) -> None:
        replacing = [(registered.uuid(link.source), link.target) for link in registered.objects.associations
                     if link.type in rules.REPLACEMENTS]
        replaced = {target for _, target in replacing}
        deprecated = replaced | store.attached(unit, replaced)
        memberships = _inherit(registered, replacing, store.folders_holding(unit, replaced))
        own = registered.uuid(registered.objects.submission_sets[0].id)
        owned = tuple(Association(id=new_uuid_urn(), type=HAS_MEMBER, source=own, target=link.id) for link in memberships)
        aliases = self._profile.codes.scheme_aliases
        store.insert(unit, registered, context.patient, aliases)
        if memberships:
            store.insert(unit, ebxml_stored.link((*memberships, *owned), new_uuid_urn), context.patient, aliases)
        store.change(unit, deprecated, status=DEPRECATED)
        store.change(unit, _filled(context) | {link.source for link in memberships}, last_update_time=registered.now)


def _lock(unit: Unit, request: Request, symbolic: AbstractSet[str]) -> None:
    """Hold what the checks look at until the commit: the patient, and every identifier that is brought.

    A symbolic id becomes a new UUID, which nobody else can bring.
    """
    ids = {rim.id for rim in request.rims}
    lock_all(unit, {
        Lock.REGISTRY_PATIENT: (str(PatientId.parse(request.submission_set.patient_id)),),
        Lock.REGISTRY_OBJECT: {thing.unique_id for thing in request.described} | (ids - symbolic)})


def _dtm(when: datetime) -> str:
    """Return a time as a DTM, in a tenth of the time strftime takes."""
    return "".join([f"{part:02}" for part in when.timetuple()[:6]])


def _inherit(
    registered: RegisteredObjects, replacing: list[tuple[str, str]], holding: list[tuple[ObjectSummary, str]],
) -> tuple[Association, ...]:
    """Return what puts each replacement into the folders of what it replaces (ITI TF-2 3.42.4.1.3).

    `replacing` has (replacement, replaced), `holding` (folder, what it holds).
    """
    already = {(registered.uuid(link.source), registered.uuid(link.target))
               for link in registered.objects.associations if link.type == HAS_MEMBER}
    wanted = dict.fromkeys(
        (folder.uuid, source) for folder, member in holding for source, target in replacing if target == member)
    return tuple(
        Association(id=new_uuid_urn(), type=HAS_MEMBER, source=folder, target=entry)
        for folder, entry in wanted if (folder, entry) not in already
    )


def _filled(context: SubmissionContext) -> set[str]:
    """Return the registered folders that receive an entry by this submission."""
    sources = {link.source for link in context.request.objects.associations if link.type == HAS_MEMBER}
    return {key for key in sources & context.registered.keys() if context.registered[key].kind == FOLDER}


def _read(raw: SoapRequest, _facts: AuditFacts) -> Submission:
    return ebxml.read_submission(raw.body)


def _handle(registry: Registrar, submission: Submission, call: Call) -> tuple[Problem, ...]:
    return registry.register(submission, call)


def _write(_submission: Submission, warnings: tuple[Problem, ...]) -> SoapReply:
    return SoapReply(fragments=(ebxml.registry_response(warnings=warnings),))


def _refuse(_raw: SoapRequest, error: BrokerError) -> SoapReply:
    return SoapReply(fragments=(ebxml.registry_response(ebxml.problems_of(error, "registry", metadata=True)),))


ROW = Transaction(
    code="ITI-42",
    name="Register Document Set-b",
    wire=Wire.SOAP,
    endpoint="/xds/registry",
    messages=(Message(name=f"{{{LCM}}}SubmitObjectsRequest", action=ACTION, reply_action=f"{ACTION}Response"),),
    schema="lcm.xsd",
    listed=OBJECTS,
    audit=AuditEvent(
        event_code="110107", event_text="Import", action="C", type_code="ITI-42", type_text="Register Document Set-b"),
    read=_read,
    subject=lambda _registry, submission: submission.objects.patients,
    handle=_handle,
    filtered=NOTHING_TO_FILTER,
    write=_write,
    refuse=_refuse,
)
