"""A centre whose hospitals send pictures of whomever the test says, with what decides about conflicts."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from broker.config.profile import Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.pack import Packer
from broker.imaging.conflicts import Conflict, Conflicts, Decision
from broker.imaging.origin import Origins
from broker.imaging.publish import Publisher
from broker.imaging.receiver import Receiver
from broker.imaging.store import studies
from broker.imaging.store.studies import Study
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.ids import PatientId
from broker.model.imaging import InstanceRef, StoredObject
from broker.model.metadata import RPLC
from broker.model.ports import Unit
from broker.wire import tags
from broker.wire.kos import read_manifest
from tests.helpers import dicom
from tests.helpers.fetch import Centre, build, read
from tests.helpers.manifests import FakeDirectory, FakeMover, FakeOutbound

STUDY, SERIES = "1.2.3", "1.2.3.1"
AFFINITY = "2.999.1.1"
NODES = {"a": "PACSA", "b": "PACSB", "c": "PACSC"}
DOMAINS = {"a": "2.999.2.1", "b": "2.999.3.1", "c": "2.999.2.1"}


def sop(number: int) -> str:
    """The UID of a picture."""
    return f"{SERIES}.{number}"


def with_hospital(profile: Profile, key: str, **changes: Any) -> Profile:
    """The profile with other values for one hospital; a new one is made after hospital A."""
    if profile.hospital(key) is None:
        made = dicom.hospital(profile, "a").model_copy(update={"key": key, "ae_title": NODES[key], "title": "Clinic", **changes})
        return profile.model_copy(update={"hospitals": (*profile.hospitals, made)})
    return profile.model_copy(update={"hospitals": tuple(
        one.model_copy(update=changes) if one.key == key else one for one in profile.hospitals)})


@dataclass
class Scene:
    """What a broker has, and the registry as a list of what was sent and taken back."""

    centre: Centre
    outbound: FakeOutbound = field(default_factory=FakeOutbound)
    mover: FakeMover = field(default_factory=FakeMover)
    now: float = field(default_factory=time.time)
    withdrawn: list[str] = field(default_factory=list)

    @property
    def profile(self) -> Profile:
        """The region."""
        return self.centre.profile

    @property
    def conflicts(self) -> Conflicts:
        """What the command line has."""
        return Conflicts(self.centre.database, self.centre.sdfo, self.profile, self.centre.coord, lambda: self.now)

    @property
    def publisher(self) -> Publisher:
        """What the worker has. Every patient is known: A-1 is P-A-1 in the affinity domain."""
        centre = self.centre
        origins = Origins(centre.database, centre.profile, self.mover, centre.fetch, patience=1.0)
        return Publisher(centre.database, centre.profile, Everybody(), self.outbound, origins, centre.coord,
                         centre.sdfo, "OURS", self.withdraw)

    def withdraw(self, unit: Unit, entry_uuid: str, caller: Caller) -> None:
        """ITI-57's deprecation, in the registry of this scene."""
        self.withdrawn.append(entry_uuid)

    @contextmanager
    def receiving(self) -> Iterator[Receiver]:
        """A receiver; its rows are written when the block is left."""
        receiver = Receiver(self.centre.database, self.centre.online, self.profile, self.centre.coord, self.centre.sdfo)
        receiver.start()
        yield receiver
        receiver.stop()

    def send(self, *pictures: "Picture", node: str = "PACSA") -> None:
        """Send pictures by C-STORE, in this order, and wait for their rows."""
        with self.receiving() as receiver:
            for picture in pictures:
                store(receiver, picture, node)

    def publish(self) -> int:
        """Let every study be complete and the publisher work until nothing is due."""
        self.now += 1000.0
        done = 0
        while found := self.publisher.run_once(self.now):
            done += found
            self.now += 1.0
        self.publisher.run_once(self.now)
        return done

    def pack(self) -> list[Outcome]:
        """Pack every study that has something online."""
        packer = Packer(self.centre.database, self.centre.sdfo, self.profile, self.centre.coord, lambda: self.now)
        return [packer.migrate(study.id) for study in self.studies() if study.objects]

    def studies(self) -> list[Study]:
        """All parts of all studies."""
        with self.centre.database.read() as unit:
            return sorted(studies.find_studies(unit), key=lambda study: study.id)

    def shown(self) -> dict[str, list[str]]:
        """The SOP Instance UIDs of each patient's Approved manifests: what a consultation finds."""
        gone = {link.target for objects in self.outbound.objects for link in objects.associations if link.type == RPLC}
        found: dict[str, list[str]] = {}
        for sent, objects in zip(self.outbound.sent, self.outbound.objects, strict=True):
            entry = objects.documents[0]
            if entry.id not in gone and entry.id not in self.withdrawn:
                refs = [ref.sop_uid for ref in read_manifest(sent.document).instances]
                found.setdefault(PatientId.parse(entry.patient_id).value, []).extend(refs)
        return {patient: sorted(uids) for patient, uids in found.items()}

    def given(self) -> dict[str, dict[str, str]]:
        """By patient and SOP Instance UID whose Patient ID is on the picture that each Approved manifest leads to."""
        gone = {link.target for objects in self.outbound.objects for link in objects.associations if link.type == RPLC}
        found: dict[str, dict[str, str]] = {}
        for sent, objects in zip(self.outbound.sent, self.outbound.objects, strict=True):
            entry = objects.documents[0]
            if entry.id not in gone and entry.id not in self.withdrawn:
                images = found.setdefault(PatientId.parse(entry.patient_id).value, {})
                images.update(self.fetched(read_manifest(sent.document).instances))
        return found

    def fetched(self, refs: tuple[InstanceRef, ...]) -> dict[str, str]:
        """Whose Patient ID is on each of these pictures, or why it cannot be had."""
        gathered = self.centre.fetch.retrieve(refs, deadline=0.2)
        return {
            **{ref.sop_uid: str(pydicom.dcmread(io.BytesIO(read(one.source))).PatientID) for ref, one in gathered.found.items()},
            **{ref.sop_uid: f"missing: {why}" for ref, why in gathered.missing.items()}}

    def open(self) -> list[Conflict]:
        """The open conflicts."""
        return self.conflicts.listed()

    def assign(self, conflict: int, patient: str, domain: str = DOMAINS["a"]) -> AuditFacts:
        """Settle; return what the audit record is told."""
        return self._decide(self.conflicts.assign, Decision(conflict=conflict, patient=PatientId(domain, patient)))

    def reject(self, conflict: int) -> AuditFacts:
        """Settle; return what the audit record is told."""
        return self._decide(self.conflicts.reject, Decision(conflict=conflict))

    def undo(self, conflict: int) -> AuditFacts:
        """Take it back; return what the audit record is told."""
        return self._decide(self.conflicts.undo, Decision(conflict=conflict))

    @staticmethod
    def _decide(way: Callable[[Decision, Call], Conflict], decision: Decision) -> AuditFacts:
        call = Call(caller=Caller(user="operator"), facts=AuditFacts())
        way(decision, call)
        return call.facts

    def files(self) -> set[str]:
        """All files of the online store."""
        folder = self.centre.online.folder
        return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@dataclass
class Everybody(FakeDirectory):
    """An index that knows every patient, each as a person of its own."""

    def affinity_id(self, unit: Unit, local: PatientId) -> PatientId | None:
        return PatientId(AFFINITY, f"P-{local.value}")


@dataclass(frozen=True)
class Picture:
    """A picture to be sent. Other `pixels` are other bytes; `tags` are further elements, None takes one away."""

    patient: str
    number: int = 1
    name: str = "Ye^XiaoDong"
    study: str = STUDY
    series: str = SERIES
    pixels: int = 1
    tags: tuple[tuple[str, str | None], ...] = ()

    def encoded(self) -> bytes:
        """Its Part-10 bytes."""
        dataset = dicom.ct_dataset(self.study, self.series, sop(self.number), number=self.pixels,
                                   patient=dicom.Patient(id=self.patient, name=self.name))
        for keyword, value in self.tags:
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()


def store(receiver: Receiver, picture: Picture, node: str = "PACSA") -> StoredObject | None:
    """Send one picture by C-STORE; return what it was stored as."""
    data = picture.encoded()
    meta = tags.read_meta(data)
    sink = receiver.open(dicom.sender(node), meta.sop_class, meta.sop_uid, meta.transfer_syntax)
    sink.write(data[meta.end:])
    assert sink.commit() == 0
    sink.index()
    return sink.stored


@contextmanager
def scene_in(database: Database, folder: Path, profile: Profile) -> Iterator[Scene]:
    """A scene in a folder."""
    centre = build(database, folder, profile)
    yield Scene(centre)
    assert isinstance(centre.coord, LocalCoord)
    centre.coord.close()


