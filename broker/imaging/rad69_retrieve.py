"""RAD-69 Retrieve Imaging Document Set: pictures by study, series and SOP Instance UID, each with its own result.

RAD TF-2 4.69; the errors are those of ITI TF-3 table 4.2.4.1-2, with the SOP Instance UID as location. A picture is
given in the transfer syntax it is stored in, when the consumer lists that.
"""

from collections.abc import Callable
from dataclasses import dataclass

from broker.config.profile import Profile
from broker.imaging.fetch import Fetch, Found, Gathered
from broker.imaging.locate import sources
from broker.model.caller import Call
from broker.model.errors import BrokerError, Problem, Rejected, XdsCode
from broker.model.ids import PatientId, is_uid
from broker.model.imaging import InstanceRef
from broker.model.transaction import AuditEvent, Message, Packaging, Transaction, Wire
from broker.wire.ebxml import problems_of
from broker.wire.retrieve import Retrieved, retrieve_response
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import RAD, XDS

DICOM = "application/dicom"


@dataclass(frozen=True, slots=True)
class ImagingSource:
    """The Imaging Document Source: answers for what the broker keeps and for the origins behind it."""

    fetch: Fetch
    profile: Profile


@dataclass(frozen=True, slots=True)
class Wanted:
    """The instances asked for, in order, each once, with the home community it was asked with; and the syntaxes taken."""

    homes: dict[InstanceRef, str]
    syntaxes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to give, and whose it is."""

    document: Retrieved
    patient: PatientId


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be given and what cannot, both in the order of the request."""

    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...]

    def only(self, keep: Callable[[Picture], bool]) -> "Answer":
        """Return the answer as if what may not be seen were not there."""
        shown = tuple(picture for picture in self.pictures if keep(picture))
        hidden = tuple(
            _unavailable(picture.document.unique_id, "it is not known here under this study, series and source")
            for picture in self.pictures if picture not in shown)
        return Answer(shown, (*self.problems, *hidden))


def read(raw: SoapRequest) -> Wanted:
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
    """Gather the pictures; what cannot be given is one error each. Raise `Rejected` with all errors when nothing can."""
    _note(call, wanted.homes)
    ours = sources(source.profile)
    refused = {ref: problem for ref in wanted.homes if (problem := _refusal(ref, wanted, ours))}
    gathered = source.fetch.gather(ref for ref in wanted.homes if ref not in refused)
    call.facts.patients.extend(sorted(gathered.patients))
    pictures: dict[InstanceRef, Picture] = {}
    problems: list[Problem] = []
    for ref, home in wanted.homes.items():
        problem = refused.get(ref) or _problem(ref, wanted, gathered)
        if problem:
            problems.append(problem)
        else:
            pictures[ref] = _picture(gathered.found[ref], home)
    if not pictures:
        raise Rejected.of(problems)
    call.facts.studies.clear()
    _note(call, pictures)
    return Answer(tuple(pictures.values()), tuple(problems))


def _note(call: Call, refs: "dict[InstanceRef, str] | dict[InstanceRef, Picture]") -> None:
    for ref in refs:
        call.facts.studies.setdefault(ref.study_uid, []).append(ref.sop_uid)


def _refusal(ref: InstanceRef, wanted: Wanted, ours: set[str]) -> Problem | None:
    """Say what is wrong with a request before anything is looked up."""
    if ref.source_uid not in ours:
        return Problem(XdsCode.UNKNOWN_REPOSITORY_ID, f"no imaging source {ref.source_uid} is known here", ref.sop_uid)
    if not all(is_uid(uid) for uid in (ref.study_uid, ref.series_uid, ref.sop_uid)):
        return Problem(XdsCode.REPOSITORY_ERROR, "study, series or SOP Instance UID is not a UID", ref.sop_uid)
    if not wanted.syntaxes:
        return Problem(XdsCode.REPOSITORY_ERROR, "the list of transfer syntaxes is empty", ref.sop_uid)
    return None


def _problem(ref: InstanceRef, wanted: Wanted, gathered: Gathered) -> Problem | None:
    found = gathered.found.get(ref)
    if found is None:
        return _unavailable(ref.sop_uid, gathered.missing[ref])
    if found.transfer_syntax not in wanted.syntaxes:
        return Problem(
            XdsCode.REPOSITORY_ERROR, f"it is stored in {found.transfer_syntax}, a transfer syntax that is not listed",
            ref.sop_uid)
    return None


def _unavailable(sop_uid: str, why: str) -> Problem:
    return Problem(XdsCode.DOCUMENT_UNIQUE_ID_ERROR, f"SOP instance {sop_uid} is not available: {why}", sop_uid)


def _picture(found: Found, home: str) -> Picture:
    ref = found.ref
    document = Retrieved(
        home=home, repository=ref.source_uid, unique_id=ref.sop_uid, mime_type=DICOM, source=found.source)
    return Picture(document, found.patient)


def write(_wanted: Wanted, answer: Answer) -> SoapReply:
    """Return the RetrieveDocumentSetResponse, the pictures as attachments in the order of the request."""
    return retrieve_response([picture.document for picture in answer.pictures], answer.problems)


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
    handle=handle,
    write=write,
    refuse=refuse,
    packaging=Packaging.MTOM,
    may_be_plain=True,
    schema="rad69.xsd",
    takes_slot=True,
    listed=(f"{{{XDS}}}DocumentRequest",),
)
