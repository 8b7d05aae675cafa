"""The steps of the demonstration, each on public doors or operator's commands, and what they showed."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from rich.filesize import decimal

from broker.app.whole import App
from broker.client.consult import Consultation, Fetched, Picture
from broker.client.mllp import feed_v2
from broker.config.profile import Hospital
from broker.demo import data as demo_data
from broker.demo.data import Study
from broker.demo.pacs import send
from broker.demo.stage import Stage
from broker.imaging.locate import locate
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import Archived, InstanceRef, Online
from broker.model.message_id import MessageId
from broker.model.metadata import DocumentEntry
from broker.wire import hl7v2, hl7v2_pix, hl7v3

_CHARSET = "GB 18030-2000"
_PATIENCE = 30.0


@dataclass
class Row:
    """One line of the final table."""

    what: str
    place: str
    asked: int
    pictures: Sequence[Picture]
    seconds: float | None = None


class Story:
    """The steps of the story; each gives one sentence about what happened, or raises `BrokerError`."""

    def __init__(self, place: Stage, app: App) -> None:
        self._place, self._app = place, app
        self.a, self.b = (self._hospital(kind) for kind in ("sends", "origin"))
        plans = demo_data.demo_plans(place.profile, date.today())  # noqa: DTZ011 - a day on the hospital's wall calendar
        self.recent, self.old, self.kept = (
            demo_data.write_study(plan, place.folder / "sent" / plan.accession) for plan in plans)
        self.patient_a, self.patient_b = self.recent.plan.patient, self.kept.plan.patient
        self.rows: list[Row] = []
        self._named_by_manifest: list[InstanceRef] = []
        self._fetched = Fetched(pictures=())

    def register_at_a(self) -> str:
        """ITI-8."""
        domain = self._place.profile.domain(self.a.domain)
        assert domain is not None
        sender = domain.feeders[0]
        header = self._header(sender.application, sender.facility)
        message = hl7v2_pix.write_adt(header, "A04", self.patient_a, demo_data.PERSON, namespace=domain.namespace)
        hl7v2_pix.read_ack(self._mllp(message))
        name = demo_data.PERSON.names[0]
        return f"{name.family}{name.given} is {self.patient_a.value} at {self.a.title}; acknowledged with AA"

    def register_at_b(self) -> str:
        """ITI-44."""
        domain = self._place.profile.domain(self.b.domain)
        assert domain is not None
        with self._client() as client:
            client.feed_v3(hl7v3.write_add_patient(
                self.patient_b, demo_data.PERSON, sender=domain.feeders[0].device_oid,
                receiver=self._place.profile.region.device_oid))
        return f"she is {self.patient_b.value} at {self.b.title}; accepted"

    def identify(self) -> str:
        """ITI-45 and ITI-9."""
        with self._client() as client:
            by_soap = client.ids(self.patient_a)
        query = hl7v2_pix.write_pix_query(self._header("VIEWER", "CONSULT"), self.patient_a)
        by_hl7 = hl7v2_pix.read_pix_answer(self._mllp(query))
        _expect(set(by_soap) == set(by_hl7), "ITI-45 and ITI-9 give different answers")
        domains = {patient.domain for patient in by_soap}
        _expect(self._place.profile.region.affinity_domain in domains, "there is no affinity-domain id")
        _expect(self.patient_b in by_soap, "the two hospitals' patients were not linked")
        return "both answer " + ", ".join(self._named(patient) for patient in by_soap)

    def send_recent(self) -> str:
        """C-STORE, completeness, RAD-68."""
        return self._send(self.recent)

    def publish_origin(self) -> str:
        """C-FIND, RAD-68."""
        send(self.kept.folder, self._place.pacs.node, "MODALITY")
        self._place.command("publish", "--hospital", self.b.key, "--study", self.kept.uid)
        self._published(self.kept)
        samples = self._places(self.kept)["online"]
        why = f"; {samples} came along to tell their SOP class, which it does not name" if samples else ""
        return f"{len(self.kept.files)} images stay in {self._place.pacs.program}, the manifest says so{why}"

    def archive_old(self) -> str:
        """Migration."""
        said = self._send(self.old)
        packed = self._place.command("migrate").partition("\n")[0]
        _until(lambda: self._where(self.old) == "archive", f"{_title(self.old)} in the archive")
        return f"{said}; {packed}"

    def consult(self) -> str:
        """ITI-45, ITI-18, ITI-43, RAD-69."""
        studies = (self.recent, self.old, self.kept)
        with self._client() as client:
            found = client.manifests(client.documents(client.affinity_id(self.patient_a)), self._place.folder / "manifests")
            _expect(not found.missing and len(found.files) == len(studies), f"{len(found.files)} manifests were had")
            self._named_by_manifest = [ref for file in found.files for ref in file.images if ref.study_uid == self.kept.uid]
            places = [self._where(study) for study in studies]
            started = time.monotonic()
            self._fetched = client.pictures(found.files, self._place.folder / "pictures")
            seconds = time.monotonic() - started
        for study, where in zip(studies, places, strict=True):
            came = [picture for picture in self._fetched.pictures if picture.study_uid == study.uid]
            self.rows.append(Row(_title(study), where, len(study.files), came))
        total = sum(len(study.files) for study in studies)
        self.rows.append(Row("all of it, by one RAD-69", "", total, self._fetched.pictures, seconds))
        _expect(not self._fetched.missing, f"{len(self._fetched.missing)} images are missing")
        _expect(len(self._fetched.pictures) == total, f"{len(self._fetched.pictures)} of {total} images came")
        # A PACS that names no SOP class was asked for a picture of each series at publication; those are here already.
        told = [place.partition(" (")[0] for place in places] == ["online", "archive", "origin"]
        _expect(told, f"the studies are in other places: {places}")
        return f"{total} images of three studies from three places in {seconds:.1f} s"

    def compare(self) -> str:
        """Byte for byte."""
        came = {picture.sop_uid: picture.path for picture in self._fetched.pictures}
        for study in (self.recent, self.old):
            same = all(demo_data.data_sha256(came[file.sop_uid]) == file.data_sha256 for file in study.files)
            _expect(same, f"{_title(study)} came back with other bytes")
        _expect(all(demo_data.pixel_sha256(came[file.sop_uid]) == file.pixel_sha256 for file in self.kept.files),
                f"{_title(self.kept)} came back with other pixels")
        return "SHA-256 agrees: data sets of hospital A's two studies, pixels of hospital B's"

    def consult_again(self) -> str:
        """RAD-69 from the copy that was kept."""
        where, started = self._where(self.kept), time.monotonic()
        with self._client() as client:
            again = client.images(self._named_by_manifest, self._place.folder / "pictures-again")
        seconds = time.monotonic() - started
        self.rows.append(Row(f"{_title(self.kept)}, once more", where, len(self.kept.files), again.pictures, seconds))
        _expect(len(again.pictures) == len(self.kept.files), f"{len(again.pictures)} of {len(self.kept.files)} images came")
        return f"{len(again.pictures)} images in {seconds:.2f} s: they were still at hand ({where})"

    def _hospital(self, kind: str) -> Hospital:
        return next(hospital for hospital in self._place.profile.hospitals if hospital.kind == kind)

    def _client(self) -> Consultation:
        return Consultation(self._place.settings.public_url, self._place.profile)

    def _header(self, application: str, facility: str) -> hl7v2.Header:
        region = self._place.profile.region
        return hl7v2.Header(
            sender=(application, facility), receiver=(region.application, region.facility),
            message_id=MessageId.now(), charset=_CHARSET)

    def _mllp(self, message: bytes) -> hl7v2.Message:
        server = self._place.settings.server
        return hl7v2.parse(feed_v2(server.host, server.mllp_port, message))

    def _named(self, patient: PatientId) -> str:
        domain = self._place.profile.domain(patient.domain)
        return f"{domain.namespace if domain else patient.domain}:{patient.value}"

    def _send(self, study: Study) -> str:
        program = send(study.folder, self._place.broker, self.a.ae_title)
        self._published(study)
        size = decimal(sum(file.size for file in study.files))
        return f"{len(study.files)} images, {size}, sent with {program}; the manifest is in the registry"

    def _published(self, study: Study) -> None:
        """Wait until the registry knows the study's manifest."""
        with self._client() as client:
            patient = client.affinity_id(study.plan.patient)
            _until(lambda: any(_names(entry, study) for entry in client.documents(patient)), f"the manifest of {_title(study)}")

    def _where(self, study: Study) -> str:
        """Say where the study's images are now: where most are, then how many are elsewhere."""
        (most, _), *others = self._places(study).most_common()
        return most + (f" ({', '.join(f'{count} {word}' for word, count in others)})" if others else "")

    def _places(self, study: Study) -> Counter[str]:
        """Count the study's images by place, as the broker's own index has them."""
        with self._app.database.read() as unit:
            located = locate(unit, _refs(study), self._app.sdfo, self._place.profile)
        return Counter(_word(places[0].location) if places else "nowhere" for places in located.places.values())


STEPS: tuple[tuple[str, Callable[[Story], str]], ...] = (
    ("Hospital A registers a woman (HL7 v2 ADT^A04 over MLLP, her name in GB 18030)", Story.register_at_a),
    ("Hospital B registers her too (HL7 V3, ITI-44)", Story.register_at_b),
    ("Who is she elsewhere? Asked by SOAP (ITI-45) and by HL7 v2 (ITI-9)", Story.identify),
    ("Hospital A sends a CT (C-STORE); once it is complete its manifest is published (RAD-68)", Story.send_recent),
    ("Hospital B keeps its study in its own PACS; only a manifest is published", Story.publish_origin),
    ("Hospital A sends a study of last year; it is packed into the archive (S-DICOM)", Story.archive_old),
    ("A doctor consults: PIX, ITI-18, ITI-43, and one RAD-69 for every image", Story.consult),
    ("Are they the same pictures?", Story.compare),
    ("Hospital B's study once more", Story.consult_again),
)


def _title(study: Study) -> str:
    return f"{study.plan.description}, {study.plan.institution}"


def _names(entry: DocumentEntry, study: Study) -> bool:
    return any(reference.startswith(f"{study.uid}^") for reference in entry.reference_id_list)


def _refs(study: Study) -> list[InstanceRef]:
    return [InstanceRef(study.uid, file.series_uid, file.sop_uid) for file in study.files]


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Unavailable(what)
        time.sleep(0.2)


def _word(location: object) -> str:
    return "online" if isinstance(location, Online) else "archive" if isinstance(location, Archived) else "origin"


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise Rejected("NotAsTold", otherwise)
