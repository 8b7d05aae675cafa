"""Studies, manifests, ITI-41 requests and stand-ins for the neighbours of repository and publisher."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from broker.config.profile import Profile
from broker.coord.base import Body, Subscription
from broker.files.sources import Spooled
from broker.imaging.fetch import Retriever, RetrieveResult
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.errors import Problem
from broker.model.ids import PatientId, new_oid, new_uuid_urn
from broker.model.imaging import InstanceRef, SeriesFacts, StudyFacts
from broker.model.metadata import RegistryObjects
from broker.model.ports import Retrieved, StudyRows, Unit, Want
from broker.model.transaction import Message
from broker.wire import xdsi
from broker.wire.ebxml import Submission, read_submission, submit_request
from broker.wire.kos import write_manifest
from broker.wire.ports import Manifest
from broker.wire.soap import SoapRequest
from broker.wire.xml import XDS, XOP, parse

CT, SR, ECG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.9.1.1"
NOW = datetime(2024, 5, 6, 1, 30, 5, tzinfo=UTC)
PATIENT = PatientId("2.999.1.1", "P-1001")
LOCAL = PatientId("2.999.2.1", "A-20417")


def study(**changes: Any) -> StudyFacts:
    """A CT of two series with one report, of a patient with a Chinese name."""
    facts = StudyFacts(
        uid="2.25.100", patient=LOCAL, patient_name="Ye^XiaoDong^^Dr^Jr=葉^曉東=", birth_date="19790214", sex="F",
        date="20240506", time="091500.123", accession="A20240506-17", study_id="7", description="胸部 CT 平扫",
        referring="區^醫生", institution="First People's Hospital",
        series=(
            SeriesFacts(uid="2.25.100.1", modality="CT", body_part="CHEST",
                        instances=((CT, "2.25.100.1.1"), (CT, "2.25.100.1.2"))),
            SeriesFacts(uid="2.25.100.2", modality="SR", instances=((SR, "2.25.100.2.1"),)),
        ))
    return replace(facts, **changes)


def kos(facts: StudyFacts, **changes: Any) -> bytes:
    """The manifest of a study of hospital A."""
    arguments: dict[str, Any] = {
        "retrieve_ae": "BROKER", "location_uid": "2.999.1.3", "sop_uid": "2.25.200", "series_uid": "2.25.201",
        "now": NOW, "issuer": ("HOSPA", "2.999.2.1"), "accession_issuer": "2.999.2.2", **changes}
    return write_manifest(facts, **arguments)


def metadata(profile: Profile, document: bytes, **changes: Any) -> RegistryObjects:
    """Metadata under which that manifest is submitted."""
    hospital = profile.hospital("a")
    assert hospital is not None
    facts = xdsi.ManifestFacts(**{
        "document": document, "unique_id": new_oid(), "entry_id": new_uuid_urn(), "set_uid": new_oid(), "at": NOW,
        "patient": PATIENT, **changes})
    return xdsi.describe(study(), facts, profile, hospital)


def spooled(data: bytes, folder: Path, name: str) -> Spooled:
    """An attachment as the SOAP edge hands it over."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return Spooled("application/octet-stream", str(path), len(data), hashlib.sha1(data).hexdigest())


def included(document_id: str, href: str) -> str:
    """A Document whose bytes are an attachment."""
    return f'<xds:Document id="{document_id}"><xop:Include xmlns:xop="{XOP}" href="{href}"/></xds:Document>'


def provide(
    submission: bytes, documents: Iterable[str], attachments: dict[str, Spooled], header: str = "",
) -> SoapRequest:
    """An ITI-41 request that passed the envelope."""
    name = f"{{{XDS}}}ProvideAndRegisterDocumentSetRequest"
    envelope = parse(
        f'<Envelope><Header>{header}</Header><Body><xds:ProvideAndRegisterDocumentSetRequest xmlns:xds="{XDS}">'
        f"{submission.decode()}{''.join(documents)}</xds:ProvideAndRegisterDocumentSetRequest></Body></Envelope>".encode())
    return SoapRequest(body=envelope[1][0], message=Message(name=name), attachments=attachments)


def provide_one(objects: RegistryObjects, document: bytes, folder: Path) -> SoapRequest:
    """An ITI-41 request of one attached document."""
    return provide(
        submit_request(objects), [included(objects.documents[0].id, "cid:doc%401")],
        {"doc@1": spooled(document, folder, "attachment")})


def retrieve(*wanted: tuple[str, str], home: str = "") -> SoapRequest:
    """An ITI-43 request for (repository, document) pairs."""
    community = f"<HomeCommunityId>{home}</HomeCommunityId>" if home else ""
    rows = "".join(
        f"<DocumentRequest>{community}<RepositoryUniqueId>{repository}</RepositoryUniqueId>"
        f"<DocumentUniqueId>{document}</DocumentUniqueId></DocumentRequest>" for repository, document in wanted)
    body = parse(f'<RetrieveDocumentSetRequest xmlns="{XDS}">{rows}</RetrieveDocumentSetRequest>'.encode())
    return SoapRequest(body=body, message=Message(name=f"{{{XDS}}}RetrieveDocumentSetRequest"))


def a_call() -> Call:
    """A call of nobody in particular."""
    return Call(caller=Caller(node="http://sender", address="10.0.0.9", local_node="http://broker"), facts=AuditFacts())


@dataclass
class FakeRegistrar:
    """A registry that answers as told and keeps what was registered. `during` runs while it is asked."""

    answer: BaseException | tuple[Problem, ...] = ()
    seen: list[Submission] = field(default_factory=list)
    during: Callable[[], None] = lambda: None

    def register(self, submission: Any, call: Call) -> tuple[Problem, ...]:
        self.during()
        if isinstance(self.answer, BaseException):
            raise self.answer
        self.seen.append(submission)
        return self.answer


@dataclass
class FakeDirectory:
    """Who is known to the index."""

    known: dict[PatientId, PatientId] = field(default_factory=dict)

    def affinity_id(self, unit: Unit, local: PatientId) -> PatientId | None:
        return self.known.get(local)

    def is_active(self, unit: Unit, patient: PatientId) -> bool:
        return patient in self.known.values()


@dataclass
class FakeOutbound:
    """A repository on the other side: answers as told, one answer per call, then Success. Keeps what it was sent."""

    answers: list[BaseException | None] = field(default_factory=list)
    sent: list[Manifest] = field(default_factory=list)
    during: Callable[[], None] = lambda: None

    def provide_and_register(self, manifest: Manifest) -> None:
        self.sent.append(manifest)
        self.during()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer

    @property
    def objects(self) -> list[RegistryObjects]:
        """The metadata of everything that was sent."""
        return [read_submission(manifest.submission.element).objects for manifest in self.sent]


@dataclass
class FakeMover:
    """A PACS that knows some studies."""

    found: Sequence[dict[str, str]] = ()

    def echo(self, hospital: Any) -> None:
        """Nothing to do."""

    def find_study(self, hospital: Any, study_uid: str) -> StudyRows:
        return StudyRows(row for row in self.found if row["StudyInstanceUID"] == study_uid)

    def retrieve(self, hospital: Any, want: Want, progress: Callable[[], bool]) -> Retrieved:
        raise AssertionError("a publisher moves nothing")


class NoFetch(Retriever):
    """For publishers whose PACS says everything: nothing is fetched."""

    def __init__(self) -> None:
        """Nothing is needed."""

    def retrieve(self, refs: Iterable[InstanceRef], *, deadline: float | None = None) -> RetrieveResult:
        raise AssertionError("nothing has to be fetched")


@dataclass
class FakeCoord:
    """Keeps what was announced."""

    announced: list[tuple[str, Body]] = field(default_factory=list)

    def publish(self, channel: str, body: Body) -> None:
        self.announced.append((channel, body))

    def subscribe(self, *channels: str) -> Subscription:
        raise AssertionError("nobody listens here")

    def lock(self, name: str, ttl: float) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def state(self) -> str:
        return "ok"
