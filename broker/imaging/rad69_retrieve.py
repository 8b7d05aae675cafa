"""RAD-69 Retrieve Imaging Document Set: pictures by study, series and SOP Instance UID, each with its own result.

RAD TF-2 4.69; the errors are those of ITI TF-3 table 4.2.4.1-2, with the SOP Instance UID as location. A picture is
given in the transfer syntax it is stored in, when the consumer lists that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from broker.config.profile import Profile
from broker.imaging.fetch import NOT_KNOWN, Found, Retriever, RetrieveResult
from broker.imaging.locate import sources
from broker.model.caller import AuditFacts, Call
from broker.model.errors import BrokerError, Problem, Rejected, XdsCode
from broker.model.ids import PatientId, is_uid
from broker.model.imaging import InstanceRef
from broker.model.transaction import NOBODY, AuditEvent, Disclosure, Keep, Message, Packaging, Transaction, Wire
from broker.wire.ebxml import problems_of
from broker.wire.retrieve import Retrieved, retrieve_response
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import RAD, XDS

DICOM = "application/dicom"


@dataclass(frozen=True, slots=True)
class ImagingSource:
    """The Imaging Document Source: answers for what the broker keeps and for the origins behind it."""

    fetch: Retriever
    profile: Profile


@dataclass(frozen=True, slots=True)
class Wanted:
    """The instances asked for, in order, each once, with the home community it was asked with; and the syntaxes taken."""

    homes: dict[InstanceRef, str]
    syntaxes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Looked:
    """What looking for one instance led to: the picture, or why it cannot be given; and whose it is, where that is known."""

    ref: InstanceRef
    outcome: Retrieved | Problem
    patient: PatientId | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be given and what cannot, in the order of the request. A problem by itself is one of the request alone."""

    found: tuple[Looked | Problem, ...]

    @property
    def pictures(self) -> tuple[Retrieved, ...]:
        """The pictures to be given."""
        return tuple(one for one in self._outcomes() if isinstance(one, Retrieved))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why the others are not."""
        return tuple(one for one in self._outcomes() if isinstance(one, Problem))

    def _outcomes(self) -> Iterator[Retrieved | Problem]:
        return (one.outcome if isinstance(one, Looked) else one for one in self.found)


def read(raw: SoapRequest, _facts: AuditFacts) -> Wanted:
    """Return what is asked for; repeated study and series requests are one, a repeated instance is asked for once."""
    homes: dict[InstanceRef, str] = {}
    for study in raw.body.iterfind(f"{{{RAD}}}StudyRequest"):
        for series in study.iterfind(f"{{{RAD}}}SeriesRequest"):
            for request in series.iterfind(f"{{{XDS}}}DocumentRequest"):
                home, source_uid, sop_uid = (
                    (request.findtext(f"{{{XDS}}}{name}") or "").strip()
                    for name in ("HomeCommunityId", "RepositoryUniqueId", "DocumentUniqueId"))
                ref = InstanceRef(
                    study.get("studyInstanceUID", "").strip(), series.get("seriesInstanceUID", "").strip(), sop_uid,
                    source_uid=source_uid)
                homes.setdefault(ref, home)
    if not homes:
        raise Rejected(XdsCode.REPOSITORY_ERROR, "no instance is asked for")
    syntaxes = (uid.text or "" for uid in raw.body.iterfind(f"{{{RAD}}}TransferSyntaxUIDList/{{{RAD}}}TransferSyntaxUID"))
    return Wanted(homes, frozenset(uid.strip() for uid in syntaxes if uid.strip()))


def handle(source: ImagingSource, wanted: Wanted, call: Call) -> Answer:
    """Gather the pictures; what cannot be given is one error each."""
    _note(call.facts, wanted.homes)
    ours = sources(source.profile)
    refused = {ref: problem for ref in wanted.homes if (problem := _refusal(ref, wanted, ours))}
    gathered = source.fetch.retrieve(ref for ref in wanted.homes if ref not in refused)
    return Answer(tuple(refused.get(ref) or _looked(ref, home, wanted, gathered) for ref, home in wanted.homes.items()))


def filtered(answer: Answer, keep: Keep) -> Answer:
    """Return the answer as if what may not be seen were not known here; why it cannot be given tells of it, too."""
    return Answer(tuple(
        one if isinstance(one, Problem) or keep(Disclosure(patient=one.patient, unique_id=one.ref.sop_uid))
        else _unavailable(one.ref.sop_uid, NOT_KNOWN) for one in answer.found))


def disclosed(answer: Answer, facts: AuditFacts) -> None:
    """Tell the audit whom the answer is about, and the images that are given; where there are none, those asked for stay."""
    looked = [one for one in answer.found if isinstance(one, Looked)]
    facts.patients.extend(sorted({one.patient for one in looked if one.patient is not None and one.patient.value}))
    given = [one.ref for one in looked if isinstance(one.outcome, Retrieved)]
    if given:
        facts.studies.clear()
        _note(facts, given)


def _note(facts: AuditFacts, refs: Iterable[InstanceRef]) -> None:
    for ref in refs:
        facts.studies.setdefault(ref.study_uid, []).append(ref.sop_uid)


def _refusal(ref: InstanceRef, wanted: Wanted, ours: set[str]) -> Problem | None:
    """Say what is wrong with a request before anything is looked up."""
    if ref.source_uid not in ours:
        return Problem(XdsCode.UNKNOWN_REPOSITORY_ID, f"no imaging source {ref.source_uid} is known here", ref.sop_uid)
    if not all(is_uid(uid) for uid in (ref.study_uid, ref.series_uid, ref.sop_uid)):
        return Problem(XdsCode.REPOSITORY_ERROR, "study, series or SOP Instance UID is not a UID", ref.sop_uid)
    if not wanted.syntaxes:
        return Problem(XdsCode.REPOSITORY_ERROR, "the list of transfer syntaxes is empty", ref.sop_uid)
    return None


def _looked(ref: InstanceRef, home: str, wanted: Wanted, gathered: RetrieveResult) -> Looked:
    found = gathered.found.get(ref)
    if found is None:
        return Looked(ref, _unavailable(ref.sop_uid, gathered.missing[ref]), gathered.patients.get(ref))
    outcome = _picture(found, home) if found.transfer_syntax in wanted.syntaxes else Problem(
        XdsCode.REPOSITORY_ERROR, f"it is stored in {found.transfer_syntax}, a transfer syntax that is not listed", ref.sop_uid)
    return Looked(ref, outcome, found.patient)


def _unavailable(sop_uid: str, why: str) -> Problem:
    return Problem(XdsCode.DOCUMENT_UNIQUE_ID_ERROR, f"SOP instance {sop_uid} is not available: {why}", sop_uid)


def _picture(found: Found, home: str) -> Retrieved:
    ref = found.ref
    return Retrieved(
        home=home, repository=ref.source_uid, unique_id=ref.sop_uid, mime_type=DICOM, source=found.source, lies=found.lies)


def write(_wanted: Wanted, answer: Answer) -> SoapReply:
    """Return the RetrieveDocumentSetResponse in the order of the request; the pictures are attached as they lie in containers.

    Raise `Rejected` with all errors when nothing can be given.
    """
    if not answer.pictures:
        raise Rejected.of(answer.problems)
    return retrieve_response(answer.pictures, answer.problems)


def refuse(_raw: SoapRequest, error: BrokerError) -> SoapReply:
    """Return a RetrieveDocumentSetResponse that failed as a whole."""
    return retrieve_response((), problems_of(error, "repository"))


ROW = Transaction(
    code="RAD-69",
    name="Retrieve Imaging Document Set",
    wire=Wire.SOAP,
    endpoint="/xds/imaging",
    messages=(Message(
        name=f"{{{RAD}}}RetrieveImagingDocumentSetRequest",
        action="urn:ihe:rad:2009:RetrieveImagingDocumentSet",
        reply_action="urn:ihe:iti:2007:RetrieveDocumentSetResponse",
    ),),
    audit=AuditEvent(
        event_code="110104", event_text="DICOM Instances Transferred", action="R", type_code="RAD-69",
        type_text="Retrieve Imaging Document Set", source_is_local=True),
    read=read,
    subject=NOBODY,
    handle=handle,
    filtered=filtered,
    disclosed=disclosed,
    write=write,
    refuse=refuse,
    packaging=Packaging.MTOM,
    may_be_plain=True,
    schema="rad69.xsd",
    takes_slot=True,
    listed=(f"{{{XDS}}}DocumentRequest",),
)
