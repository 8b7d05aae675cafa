import hashlib
import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
import structlog

from broker.archive.formats.sdicom import PackImage
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.config.profile import Profile
from broker.db import Database, sql
from broker.files.sources import Octets
from broker.imaging import maker, publish
from broker.imaging.origin import Origins
from broker.imaging.patient_events import PublicationEvents
from broker.imaging.publish import FIRST_DELAY, LEASE, LOOK_AGAIN, Published, Publisher
from broker.imaging.store import publications, recording, studies, tables
from broker.imaging.store.publications import Publication
from broker.model.caller import Caller
from broker.model.errors import Problem, Rejected, TooLarge, Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import StoredObject, StudyFacts
from broker.model.metadata import RPLC, RegistryObjects
from broker.model.ports import Unit
from broker.wire.kos import read_manifest
from tests.helpers.manifests import CT, LOCAL, PATIENT, SR, FakeCoord, FakeDirectory, FakeMover, FakeOutbound, NoFetch

pytestmark = pytest.mark.slow

STUDY = "2.25.500"
TAGS = {
    "PatientID": LOCAL.value, "PatientName": "葉^曉東", "PatientBirthDate": "19790214", "PatientSex": "F",
    "StudyDate": "20240506", "StudyTime": "091500", "AccessionNumber": "ACC1", "StudyDescription": "胸部 CT",
    "InstitutionName": "第一人民医院", "Modality": "CT", "BodyPartExamined": "CHEST",
}
QUIET = 100.0       # a time at which what came at 0 is complete


def stored(number: int, hospital: str = "a", series: str = "1", sop_class: str = CT, **tags: str) -> StoredObject:
    sop = f"{STUDY}.{series}.{number}"
    return StoredObject(
        hospital=hospital, study_uid=STUDY, series_uid=f"{STUDY}.{series}", sop_uid=sop, sop_class=sop_class,
        transfer_syntax="1.2.840.10008.1.2.1", path=f"{hospital}/{sop}", size=10, sha256=hashlib.sha256(sop.encode()).hexdigest(),
        tags={**TAGS, **tags})


@dataclass
class Bench:
    """A publisher in a region where everything else does what it is told."""

    database: Database
    profile: Profile
    sdfo: Sdfo
    patients: FakeDirectory = field(default_factory=lambda: FakeDirectory({LOCAL: PATIENT}))
    outbound: FakeOutbound = field(default_factory=FakeOutbound)
    mover: FakeMover = field(default_factory=FakeMover)
    coord: FakeCoord = field(default_factory=FakeCoord)
    is_ours: bool = True
    withdrawn: list[str] = field(default_factory=list)

    @property
    def publisher(self) -> Publisher:
        origins = Origins(self.database, self.profile, self.mover, NoFetch())
        return Publisher(
            self.database, self.profile, self.patients, self.outbound, origins, self.coord, self.sdfo, "OURS",
            self.withdraw if self.is_ours else None)

    def withdraw(self, unit: Unit, entry_uuid: str, caller: Caller) -> None:
        self.withdrawn.append(entry_uuid)

    def arrived(self, unit: Unit, local: PatientId) -> None:
        PublicationEvents(self.coord).arrived(unit, local, self.patients.affinity_id(unit, local))

    def entry(self, number: int = -1) -> str:
        return self.sent[number].documents[0].id

    def receive(self, *objects: StoredObject, at: float = 0.0) -> None:
        with self.database.write() as unit:
            recording.record(unit, objects, self.profile, at)

    def row(self, hospital: str = "a") -> Publication | None:
        with self.database.read() as unit:
            found = studies.study(unit, hospital, STUDY)
            return publications.get(unit, found.id) if found else None

    @property
    def state(self) -> str:
        row = self.row()
        return row.state if row else ""

    @property
    def sent(self) -> list[RegistryObjects]:
        return self.outbound.objects


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    return Bench(database, profile, Sdfo(OnlineStore(tmp_path / "online", fsync=False), PosixStore(tmp_path / "archive")))


def test_a_quiet_study_is_published(bench: Bench) -> None:
    bench.receive(stored(1), stored(2), stored(1, series="2", sop_class=SR, Modality="SR"))
    assert bench.publisher.run_once(QUIET) == 1
    manifest = read_manifest(bench.outbound.sent[0].document)
    assert [ref.sop_uid for ref in manifest.instances] == [f"{STUDY}.1.1", f"{STUDY}.1.2", f"{STUDY}.2.1"]
    assert {ref.source_uid for ref in manifest.instances} == {"2.999.1.3"}
    assert manifest.retrieve_aes == ("OURS",)
    entry = bench.sent[0].documents[0]
    assert entry.patient_id == str(PATIENT)
    assert entry.source_patient_id == str(LOCAL)
    assert "PID-5|葉^曉東" in entry.source_patient_info
    assert entry.authors[0].institutions == ("第一人民医院",)
    assert bench.sent[0].submission_sets[0].source_id == "2.999.2"
    row = bench.row()
    assert row is not None
    assert (row.state, row.manifest_uid, row.entry_uuid, row.reason) == ("published", manifest.sop_uid, entry.id, "")
    assert row.draft is None
    assert bench.publisher.run_once(QUIET + 1e6) == 0, "once is enough"


def test_a_study_that_still_grows_is_left_alone(bench: Bench) -> None:
    bench.receive(stored(1), at=QUIET - 1)
    assert bench.publisher.run_once(QUIET) == 0
    assert bench.state == ""
    bench.receive(stored(2), at=QUIET + 1)
    assert bench.publisher.run_once(QUIET + 2) == 0
    assert bench.publisher.run_once(QUIET + 10) == 1
    assert len(read_manifest(bench.outbound.sent[0].document).instances) == 2


def test_what_an_origin_keeps_is_not_published_because_a_copy_came_by(bench: Bench) -> None:
    bench.receive(stored(1, hospital="b"))
    assert bench.publisher.run_once(QUIET) == 0
    assert bench.row("b") is None


# picture before patient

def test_a_picture_before_its_patient_waits_and_goes_on_when_the_feed_arrives(bench: Bench) -> None:
    bench.patients.known.clear()
    bench.receive(stored(1))
    assert bench.publisher.run_once(QUIET) == 0
    assert (bench.state, bench.outbound.sent) == ("waiting_patient", [])
    assert bench.publisher.run_once(QUIET + 1) == 0
    bench.patients.known[LOCAL] = PATIENT
    with bench.database.write() as unit:
        bench.arrived(unit, LOCAL)
        assert bench.coord.announced == [], "told only when the feed is durable"
    assert bench.coord.announced == [("publish", {})]
    assert bench.publisher.run_once(QUIET + 2) == 1
    assert bench.state == "published"


def test_another_patient_wakes_nothing(bench: Bench) -> None:
    bench.patients.known.clear()
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    with bench.database.write() as unit:
        bench.arrived(unit, PatientId(LOCAL.domain, "A-99"))
        bench.arrived(unit, PatientId("2.999.3.1", LOCAL.value))
    assert (bench.state, bench.coord.announced) == ("waiting_patient", [])


def test_a_feed_that_is_rolled_back_wakes_nothing(bench: Bench) -> None:
    bench.patients.known.clear()
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    with pytest.raises(KeyError), bench.database.write() as unit:
        bench.arrived(unit, LOCAL)
        raise KeyError
    assert (bench.state, bench.coord.announced) == ("waiting_patient", [])


def test_a_lost_announcement_costs_minutes(bench: Bench) -> None:
    bench.patients.known.clear()
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.patients.known[LOCAL] = PATIENT
    assert bench.publisher.run_once(QUIET + LOOK_AGAIN + 1) == 1


def test_a_picture_without_patient_id_is_shown_as_failed(bench: Bench) -> None:
    bench.receive(stored(1, PatientID=""))
    bench.publisher.run_once(QUIET)
    row = bench.row()
    assert row is not None
    assert (row.state, row.reason) == ("failed", "MissingPatientId: the images hold no Patient ID")


# refusals and retries

def test_a_repository_that_is_away_is_tried_again_with_the_same_bytes(bench: Bench) -> None:
    bench.outbound.answers = [Unavailable("repository"), Unavailable("repository")]
    bench.receive(stored(1))
    assert bench.publisher.run_once(QUIET) == 0
    row = bench.row()
    assert row is not None
    assert (row.state, row.attempts, row.next_at, row.reason) == ("due", 1, QUIET + FIRST_DELAY, "repository is not available")
    assert bench.publisher.run_once(QUIET + FIRST_DELAY - 1) == 0
    assert len(bench.outbound.sent) == 1
    assert bench.publisher.run_once(QUIET + FIRST_DELAY) == 0
    row = bench.row()
    assert row is not None
    assert row.next_at == QUIET + FIRST_DELAY + 2 * FIRST_DELAY
    assert bench.publisher.run_once(row.next_at) == 1
    assert len({sent.document for sent in bench.outbound.sent}) == 1
    assert bench.sent[0] == bench.sent[1] == bench.sent[2]
    assert bench.state == "published"


def test_waiting_between_attempts_has_a_limit(bench: Bench) -> None:
    assert publish._delay(1) == FIRST_DELAY
    assert publish._delay(50) == publish.LONGEST_DELAY


@pytest.mark.parametrize(("answer", "reason", "logged"), [
    (Rejected.of([Problem("XDSRegistryMetadataError", "typeCode 葉曉東"), Problem("XDSRegistryMetadataError", "x"),
                  Problem("XDSRegistryMetadataError", "x"), Problem("XDSPatientIdDoesNotMatch", "")]),
     "XDSRegistryMetadataError: typeCode 葉曉東; XDSRegistryMetadataError: x; XDSPatientIdDoesNotMatch",
     "XDSRegistryMetadataError: typeCode ……; XDSRegistryMetadataError: x; XDSPatientIdDoesNotMatch"),
    (Rejected("XDSRegistryMetadataError",
              "sourcePatientInfo: 'PID-5|Ye^XiaoDong' of a-20417 born 19790214, accession ACC1, is not P-1001 "
              "(Q-7^^^&2.999.1.1&ISO)"),
     "XDSRegistryMetadataError: sourcePatientInfo: 'PID-5|Ye^XiaoDong' of a-20417 born 19790214, accession ACC1, is not P-1001 "
     "(Q-7^^^&2.999.1.1&ISO)",
     "XDSRegistryMetadataError: sourcePatientInfo: 'PID-5|…^…' of … born …, accession …, is not … …"),
    (TooLarge("max_request"), "TooLarge: limit exceeded: max_request", "TooLarge: limit exceeded: max_request"),
], ids=["codes and texts", "every kind of patient data", "too large"])
def test_a_refusal_is_final_and_says_what_was_refused_but_the_log_names_no_patient(
        bench: Bench, answer: BaseException, reason: str, logged: str) -> None:
    bench.outbound.answers = [answer]
    bench.receive(stored(1, PatientName="Ye^XiaoDong=葉^曉東"))
    with structlog.testing.capture_logs() as logs:
        bench.publisher.run_once(QUIET)
    row = bench.row()
    assert row is not None
    assert (row.state, row.reason, row.draft) == ("failed", reason, None)
    assert [one["reason"] for one in logs if one["event"] == "publication refused"] == [logged]
    assert bench.publisher.run_once(QUIET + 1e6) == 0
    assert len(bench.outbound.sent) == 1
    assert "葉" not in str(logs)
    assert LOCAL.value not in str(logs)


def test_an_operator_may_have_a_failed_study_tried_again(bench: Bench) -> None:
    bench.outbound.answers = [Rejected("XDSRegistryMetadataError", "typeCode")]
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    result = bench.publisher.publish_study("a", STUDY, QUIET + 1)
    assert (result.state, result.instances) == ("published", 1)
    assert bench.sent[0].documents[0].id != bench.sent[1].documents[0].id


def test_a_study_that_is_published_at_once_is_not_taken_by_the_worker_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.receive(stored(1))
    taken: list[object] = []
    attempt = Publisher._attempt_alone

    def later(self: Publisher, study_id: int, now: float, *case: Any) -> bool:
        with bench.database.write() as unit:        # what the worker does in every second
            taken.append(publications.claim(unit, study_id, now, now + LEASE))
        return attempt(self, study_id, now, *case)

    monkeypatch.setattr(Publisher, "_attempt_alone", later)
    assert bench.publisher.publish_study("a", STUDY, QUIET).state == "published"
    assert taken == [None]


def test_new_images_have_a_failed_study_tried_again(bench: Bench) -> None:
    bench.outbound.answers = [Rejected("XDSRegistryMetadataError", "typeCode")]
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.receive(stored(2), at=QUIET)
    assert bench.publisher.run_once(2 * QUIET) == 1


def test_a_patient_merged_in_the_meantime_is_asked_for_again(bench: Bench) -> None:
    survivor = PatientId("2.999.1.1", "P-2")
    bench.outbound.answers = [Rejected("XDSUnknownPatientId", "")]
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    assert bench.state == "due"
    bench.patients.known[LOCAL] = survivor
    assert bench.publisher.run_once(QUIET + LEASE) == 1
    assert [objects.documents[0].patient_id for objects in bench.sent] == [str(PATIENT), str(survivor)]


# crashes

def test_a_crash_between_send_and_row_sends_the_same_again_and_takes_the_duplicate_for_success(
    bench: Bench, monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.receive(stored(1))
    bench.outbound.during = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.publisher.run_once(QUIET)
    row = bench.row()
    assert row is not None
    assert row.draft is not None
    bench.outbound.during = lambda: None
    bench.outbound.answers = [Rejected.of([
        Problem("XDSDuplicateUniqueIdInRegistry", "SubmissionSet"), Problem("XDSRegistryMetadataError", "id is registered")])]
    assert bench.publisher.run_once(QUIET + 1) == 0, "the dead worker's study is not taken over at once"
    assert bench.publisher.run_once(QUIET + LEASE + 1) == 1
    first, second = bench.outbound.sent
    assert first.document == second.document
    assert bench.sent[0] == bench.sent[1]
    row = bench.row()
    assert row is not None
    assert (row.state, row.entry_uuid) == ("published", bench.sent[0].documents[0].id)
    assert row.manifest_uid == bench.sent[0].documents[0].unique_id


def test_a_crash_before_the_draft_is_saved_leaves_the_study_due(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.receive(stored(1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publications, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        bench.publisher.run_once(QUIET)
    assert (bench.state, bench.outbound.sent) == ("due", [])
    assert bench.publisher.run_once(QUIET + LEASE + 1) == 1


def test_two_workers_try_a_study_once(bench: Bench) -> None:
    bench.receive(stored(1))
    other: list[int] = []
    bench.outbound.during = lambda: other.append(bench.publisher.run_once(QUIET))
    assert bench.publisher.run_once(QUIET) == 1
    assert other == [0]
    assert len(bench.outbound.sent) == 1


# manifests that no other may replace

def test_a_study_that_lost_its_images_is_withdrawn_and_published_anew_when_some_come(bench: Bench) -> None:
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    with bench.database.write() as unit:
        found = studies.study(unit, "a", STUDY)
        assert found is not None
        sql(unit).execute(tables.instance.delete())
        publications.request(unit, found.id, found.patient, QUIET)
    assert bench.publisher.run_once(QUIET + 1) == 0
    row = bench.row()
    assert row is not None
    assert (row.state, row.entry_uuid, row.digest, bench.withdrawn) == ("withdrawn", "", "", [bench.entry()])
    bench.receive(stored(2), at=QUIET + 1)
    assert bench.publisher.run_once(2 * QUIET + 2) == 1
    assert not [link for link in bench.sent[1].associations if link.type == RPLC]
    assert len(bench.withdrawn) == 1


def test_a_patient_who_is_another_person_now_takes_the_pictures_along(bench: Bench) -> None:
    other = PatientId("2.999.1.1", "P-2")
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.patients.known[LOCAL] = other
    with bench.database.write() as unit:
        bench.arrived(unit, LOCAL)
    assert bench.publisher.run_once(QUIET + 1) == 1
    assert bench.withdrawn == [bench.entry(0)]
    assert [objects.documents[0].patient_id for objects in bench.sent] == [str(PATIENT), str(other)]
    assert not [link for link in bench.sent[1].associations if link.type == RPLC], "a replacement keeps the patient"


def test_what_the_registry_moved_by_itself_is_not_sent_again(bench: Bench) -> None:
    other = PatientId("2.999.1.1", "P-2")
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.patients.known[LOCAL] = other
    with bench.database.write() as unit:
        PublicationEvents.moved(unit, [bench.entry(0)], other)
        bench.arrived(unit, LOCAL)
    assert (bench.publisher.run_once(QUIET + 1), bench.withdrawn, len(bench.sent)) == (0, [], 1)
    bench.receive(stored(2))
    bench.publisher.run_once(QUIET + 200)
    assert bench.sent[1].documents[0].patient_id == str(other)
    assert [link.target for link in bench.sent[1].associations if link.type == RPLC] == [bench.entry(0)]


def test_a_merge_moves_what_is_registered_and_nothing_is_sent_again(bench: Bench) -> None:
    survivor = PatientId("2.999.1.1", "P-2")
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.patients.known[LOCAL] = survivor
    with bench.database.write() as unit:
        bench.arrived(unit, LOCAL)
        PublicationEvents.merged(unit, PATIENT, survivor)
    assert bench.publisher.run_once(QUIET + 1) == 0
    assert (bench.state, bench.withdrawn, len(bench.outbound.sent)) == ("published", [], 1)
    bench.receive(stored(2), at=QUIET + 1)
    assert bench.publisher.run_once(2 * QUIET + 2) == 1
    assert [link.target for link in bench.sent[1].associations if link.type == RPLC] == [bench.entry(0)]


def test_a_person_who_changes_while_a_manifest_is_on_its_way(bench: Bench) -> None:
    other = PatientId("2.999.1.1", "P-2")
    bench.receive(stored(1))
    bench.outbound.during = lambda: bench.patients.known.update({LOCAL: other})
    assert bench.publisher.run_once(QUIET) == 1
    assert bench.publisher.run_once(QUIET) == 1
    assert bench.withdrawn == [bench.entry(0)]
    assert bench.sent[1].documents[0].patient_id == str(other)


def test_a_manifest_in_the_registry_of_others_cannot_be_withdrawn_and_that_is_said(bench: Bench) -> None:
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.is_ours = False
    bench.patients.known[LOCAL] = PatientId("2.999.1.1", "P-2")
    with bench.database.write() as unit:
        bench.arrived(unit, LOCAL)
    bench.publisher.run_once(QUIET + 1)
    row = bench.row()
    assert row is not None
    assert (row.state, row.entry_uuid, len(bench.outbound.sent)) == ("failed", bench.entry(), 1)
    assert row.reason.startswith("ForeignRegistry")


# late images

def test_late_images_replace_the_manifest(bench: Bench) -> None:
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.receive(stored(2), at=QUIET)
    assert bench.publisher.run_once(2 * QUIET) == 1
    old, new = (objects.documents[0] for objects in bench.sent)
    links = [(link.type, link.source, link.target) for link in bench.sent[1].associations if link.type == RPLC]
    assert links == [(RPLC, new.id, old.id)]
    assert new.unique_id != old.unique_id
    assert len(read_manifest(bench.outbound.sent[1].document).instances) == 2
    row = bench.row()
    assert row is not None
    assert row.entry_uuid == new.id


def test_the_same_images_again_replace_nothing(bench: Bench) -> None:
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.receive(stored(1), at=QUIET)
    bench.publisher.run_once(2 * QUIET)
    result = bench.publisher.publish_study("a", STUDY, 3 * QUIET)
    assert result.state == "published"
    assert len(bench.outbound.sent) == 1


def test_images_that_come_while_a_manifest_is_on_its_way_get_their_own(bench: Bench) -> None:
    bench.outbound.answers = [Unavailable("repository")]
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.receive(stored(2), at=QUIET)
    assert bench.publisher.run_once(2 * QUIET) == 1, "what was begun is finished first"
    assert bench.publisher.run_once(2 * QUIET) == 1
    assert [len(read_manifest(sent.document).instances) for sent in bench.outbound.sent] == [1, 1, 2]
    assert [bool([link for link in objects.associations if link.type == RPLC]) for objects in bench.sent] == [False, False, True]


def test_a_refused_replacement_keeps_the_first_manifest_in_mind(bench: Bench) -> None:
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.outbound.answers = [Rejected("XDSRegistryDeprecatedDocumentError", "")]
    bench.receive(stored(2), at=QUIET)
    bench.publisher.run_once(2 * QUIET)
    row = bench.row()
    assert row is not None
    assert (row.state, row.entry_uuid) == ("failed", bench.sent[0].documents[0].id)


def archive(bench: Bench, *images: StoredObject) -> None:
    """Let these images be in a container and no more online."""
    packed = bench.sdfo.pack(STUDY, [
        PackImage(
            sop_uid=image.sop_uid, series_uid=image.series_uid, sop_class=image.sop_class, transfer_syntax=image.transfer_syntax,
            sha256=hashlib.sha256(b"image").hexdigest(), source=Octets(b"image")) for image in images], {})
    with bench.database.write() as unit:
        found = studies.study(unit, "a", STUDY)
        assert found is not None
        sql(unit).execute(sa.insert(tables.container).values(
            study_id=found.id, path=packed.path, size=packed.size, sha256=packed.sha256, images=len(images), state="current",
            at=0.0))
        sql(unit).execute(sa.delete(tables.instance))
        sql(unit).execute(sa.update(tables.study).values(tier="archive"))


def test_late_images_of_an_archived_study_do_not_push_out_the_earlier_ones(bench: Bench) -> None:
    first = (stored(1), stored(1, series="2", Modality="MR"))
    bench.receive(*first)
    bench.publisher.run_once(QUIET)
    archive(bench, *first)
    bench.receive(stored(2), at=QUIET)
    assert bench.publisher.run_once(2 * QUIET) == 1
    manifest = read_manifest(bench.outbound.sent[1].document)
    assert [ref.sop_uid for ref in manifest.instances] == [f"{STUDY}.1.1", f"{STUDY}.1.2", f"{STUDY}.2.1"]
    assert [code.code for code in bench.sent[1].documents[0].codes["eventCodeList"]][:2] == ["CT", "MR"]


def test_without_the_archive_an_archived_study_waits(bench: Bench, tmp_path: Path) -> None:
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    archive(bench, stored(1))
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    bench.receive(stored(2), at=QUIET)
    bench.publisher.run_once(2 * QUIET)
    row = bench.row()
    assert row is not None
    assert (row.state, row.reason) == ("due", "a container (its file is not there) is not available")


# studies that stay where they are

def found(number: int, **changes: str) -> dict[str, str]:
    return {**TAGS, "PatientID": "B-88031", "StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.1",
            "SOPInstanceUID": f"{STUDY}.1.{number}", "SOPClassUID": CT, **changes}


@pytest.fixture
def origin(bench: Bench) -> Bench:
    bench.patients.known[PatientId("2.999.3.1", "B-88031")] = PATIENT
    bench.mover.found = [found(1), found(2)]
    return bench


def test_a_study_of_an_origin_points_back_to_it(origin: Bench) -> None:
    result = origin.publisher.publish_study("b", STUDY)
    manifest = read_manifest(origin.outbound.sent[0].document)
    assert result == Published(state="published", instances=2, manifest_uid=manifest.sop_uid)
    assert {ref.source_uid for ref in manifest.instances} == {"2.999.3.3"}
    assert manifest.retrieve_aes == ("OURS",)
    assert (manifest.patient_id, manifest.patient_domain) == ("B-88031", "2.999.3.1")
    assert origin.sent[0].submission_sets[0].source_id == "2.999.3"
    assert origin.sent[0].documents[0].source_patient_id == "B-88031^^^&2.999.3.1&ISO"


def test_an_origin_asked_again_replaces_only_when_it_has_more(origin: Bench) -> None:
    origin.publisher.publish_study("b", STUDY)
    assert origin.publisher.publish_study("b", STUDY).state == "published"
    assert len(origin.outbound.sent) == 1
    origin.mover.found = [found(1), found(2), found(3)]
    assert origin.publisher.publish_study("b", STUDY).instances == 3
    assert [link.type for link in origin.sent[1].associations][-1] == RPLC


def test_an_origins_study_waits_for_its_patient_too(origin: Bench) -> None:
    origin.patients.known.clear()
    result = origin.publisher.publish_study("b", STUDY)
    assert (result.state, result.instances, result.manifest_uid) == ("waiting_patient", 2, "")
    origin.patients.known[PatientId("2.999.3.1", "B-88031")] = PATIENT
    with origin.database.write() as unit:
        origin.arrived(unit, PatientId("2.999.3.1", "B-88031"))
    assert origin.publisher.run_once(QUIET) == 1


def test_a_repository_that_is_away_is_told_and_tried_later(origin: Bench) -> None:
    origin.outbound.answers = [Unavailable("repository")]
    result = origin.publisher.publish_study("b", STUDY, QUIET)
    assert (result.state, result.reason) == ("due", "repository is not available")
    assert origin.publisher.run_once(QUIET + FIRST_DELAY) == 1


@pytest.mark.parametrize(("hospital", "rows", "why"), [
    ("nowhere", [], "UnknownHospital"),
    ("a", [], "has sent no study"),
    ("b", [], "names no image"),
    ("b", [found(1, StudyInstanceUID="2.25.999")], "names no image"),
    ("b", [found(1, SOPInstanceUID="")], "names no image"),
])
def test_a_study_nobody_knows_is_refused(origin: Bench, hospital: str, rows: list[dict[str, str]], why: str) -> None:
    origin.mover.found = rows
    with pytest.raises(Rejected, match=why):
        origin.publisher.publish_study(hospital, STUDY)
    assert origin.outbound.sent == []


def test_a_hospital_that_left_the_profile_fails_visibly(bench: Bench, profile: Profile) -> None:
    bench.patients.known.clear()
    bench.receive(stored(1))
    bench.publisher.run_once(QUIET)
    bench.patients.known[LOCAL] = PATIENT
    bench.profile = profile.model_copy(update={"hospitals": profile.hospitals[1:]})
    bench.publisher.run_once(QUIET + LOOK_AGAIN + 1)
    row = bench.row()
    assert row is not None
    assert (row.state, row.reason) == ("failed", "UnknownHospital: there is no hospital 'a' in the profile any more")


# one study must not stop the others

def test_a_study_whose_manifest_cannot_be_made_waits_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.receive(stored(1))
    other = replace(stored(2), study_uid="2.25.501")
    bench.receive(other, at=1.0)
    made = maker.build_submission

    def draft(study: StudyFacts, *rest: Any, **named: Any) -> Any:
        if study.uid == STUDY:
            raise LookupError("patient 葉^曉東")
        return made(study, *rest, **named)

    monkeypatch.setattr(maker, "build_submission", draft)
    with structlog.testing.capture_logs() as logs:
        assert bench.publisher.run_once(QUIET) == 1
    row = bench.row()
    assert row is not None
    assert (row.state, row.attempts, row.next_at) == ("due", 1, QUIET + FIRST_DELAY)
    assert row.reason.startswith("LookupError (")
    assert "葉" not in repr(logs)
    assert "葉" not in row.reason
    bench.publisher.run_once(row.next_at)
    row = bench.row()
    assert row is not None
    assert row.next_at == QUIET + FIRST_DELAY + 2 * FIRST_DELAY, "it waits longer each time"
    monkeypatch.undo()
    assert bench.publisher.run_once(row.next_at) == 1, "and goes on by itself"


def test_text_that_does_not_fit_is_left_out_with_a_remark_and_the_study_is_published(bench: Bench) -> None:
    bench.receive(stored(1, PatientSex="男", StudyDate="未知", StudyTime="上午", InstitutionName="医" * 300))
    with structlog.testing.capture_logs() as logs:
        assert bench.publisher.run_once(QUIET) == 1
    assert [entry["remark"] for entry in logs if "remark" in entry] == [
        "StudyDate left out", "StudyTime left out", "InstitutionName shortened"]
    assert "医" not in repr(logs)
    entry = bench.sent[0].documents[0]
    assert ("PID-8|M" in entry.source_patient_info, entry.service_start_time) == (True, "")
    assert entry.authors[0].institutions == ("医" * 64,)
    manifest = pydicom.dcmread(io.BytesIO(bench.outbound.sent[0].document))
    assert (manifest.PatientSex, manifest.StudyDate, manifest.StudyTime) == ("M", "", "")
    assert manifest.get_item(0x00080080).value.decode() == "医" * 300, "the manifest copies what its element can hold"


def test_a_container_that_cannot_be_read_after_publishing_stops_no_other_study(
    bench: Bench, monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.receive(stored(1))
    bench.receive(replace(stored(2), study_uid="2.25.501"), at=1.0)

    def look(publisher: Publisher, study_id: int, now: float) -> None:
        raise Unavailable("archive")

    monkeypatch.setattr(Publisher, "_look_again", look)
    bench.publisher.run_once(QUIET)
    assert len(bench.outbound.sent) == 2
    row = bench.row()
    assert row is not None
    assert (row.state, row.attempts) == ("due", 0)
    assert "archive" in row.reason
    assert row.manifest_uid
    monkeypatch.undo()
    assert bench.publisher.run_once(QUIET + 1000) == 0
    assert (bench.state, len(bench.outbound.sent)) == ("published", 2)
