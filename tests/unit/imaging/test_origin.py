import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from pydicom.uid import UID

from broker.config.profile import Hospital, Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from broker.imaging.origin import HURRY, Origins
from broker.imaging.publish import FIRST_DELAY, Published, Publisher
from broker.imaging.receiver import Receiver
from broker.imaging.store import cases, publications, recording, studies
from broker.imaging.store.publications import Publication
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import InstanceRef, StudyFacts
from broker.model.metadata import RPLC, DocumentEntry
from broker.model.ports import Retrieved, RetrieveFailed, StudyRows, Want
from broker.wire import tags
from broker.wire.kos import read_manifest
from tests.helpers import dicom
from tests.helpers.fetch import CT, THEIRS, Centre, Pacs, build, limited, refs_of, working
from tests.helpers.manifests import PATIENT, FakeDirectory, FakeOutbound
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.slow

STUDY = "1.2.7"
DOSE = "1.2.840.10008.5.1.4.1.1.88.67"
LOCAL = PatientId("2.999.3.1", "B-88031")
NAME = "Ye^XiaoDong=葉^曉東"


@dataclass
class Silent(Pacs):
    """An origin's PACS that tells no SOP class, but for `told`. `classes` are those of its series, `name` its answer's name."""

    receiver: Receiver | None = None
    told: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    patient: str = LOCAL.value
    name: str = "Ye^XiaoDong=?^??"
    questions: int = 0

    def find_study(self, hospital: Hospital, study_uid: str) -> StudyRows:
        self.questions += 1
        return StudyRows(
            {"StudyInstanceUID": study_uid, "SeriesInstanceUID": ref.series_uid, "SOPInstanceUID": ref.sop_uid,
             "PatientID": LOCAL.value, "PatientName": self.name, "StudyDate": "20250301",
             **({"SOPClassUID": self.told[ref.sop_uid]} if ref.sop_uid in self.told else {})}
            for ref in self.holds if ref.study_uid == study_uid)

    def deliver(self, refs: Sequence[InstanceRef], hospital: str = "b") -> None:
        assert self.receiver is not None
        for ref in refs:
            sop_class = UID(self.classes.get(ref.series_uid, CT))
            dataset = dicom.ct_dataset(
                ref.study_uid, ref.series_uid, ref.sop_uid, patient=dicom.Patient(id=self.patient, name=NAME))
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
            written = io.BytesIO()
            dataset.save_as(written, enforce_file_format=True)
            data = written.getvalue()
            meta = tags.read_meta(data)
            sink = self.receiver.open(dicom.sender("PACSB"), meta.sop_class, meta.sop_uid, meta.transfer_syntax)
            sink.write(data[meta.end:])
            assert sink.commit() == 0
            sink.index()


@dataclass
class Scene:
    """A publisher, a hospital that keeps its studies, and its PACS."""

    centre: Centre
    pacs: Silent
    outbound: FakeOutbound = field(default_factory=FakeOutbound)
    patience: float = 15.0
    hurry: float = 15.0

    @property
    def publisher(self) -> Publisher:
        centre = self.centre
        origins = Origins(centre.database, centre.profile, self.pacs, centre.fetch, patience=self.patience, hurry=self.hurry)
        directory = FakeDirectory({LOCAL: PATIENT})
        return Publisher(centre.database, centre.profile, directory, self.outbound, origins, centre.coord, centre.sdfo, "OURS")

    def publish(self, now: float | None = None) -> Published:
        return self.publisher.publish_study("b", STUDY, now)

    @property
    def classes(self) -> dict[str, str]:
        """SOP class by instance, as the last manifest names it."""
        return {ref.sop_uid: ref.sop_class for ref in read_manifest(self.outbound.sent[-1].document).instances}

    @property
    def entry(self) -> DocumentEntry:
        return self.outbound.objects[-1].documents[0]

    @property
    def publication(self) -> Publication:
        with self.centre.database.read() as unit:
            study = studies.study(unit, "b", STUDY)
            row = publications.get(unit, study.id) if study else None
        assert row is not None
        return row

    @property
    def fetched(self) -> list[str]:
        return sorted(sop for want in self.pacs.asked for sop in want.sop_uids)


@pytest.fixture
def scene(database: Database, tmp_path: Path, profile: Profile) -> Iterator[Scene]:
    centre = build(database, tmp_path, limited(
        profile, connect_seconds=0.3, idle_seconds=2.0, total_seconds=20.0, back_off_seconds=0.0))
    receiver = Receiver(database, centre.online, centre.profile, centre.coord)
    receiver.start()
    yield Scene(centre, Silent(centre, refs_of(STUDY, 3, THEIRS, 2), receiver=receiver))
    receiver.stop()
    assert isinstance(centre.coord, LocalCoord)
    centre.coord.close()


def test_one_picture_of_each_series_tells_its_sop_class(scene: Scene) -> None:
    scene.pacs.classes = {f"{STUDY}.2": DOSE}
    with working(scene.centre, scene.pacs):
        result = scene.publish()
    assert (result.state, result.instances, result.reason) == ("published", 6, "")
    assert scene.fetched == [f"{STUDY}.1.1", f"{STUDY}.2.1"]
    assert scene.classes == {
        **{f"{STUDY}.1.{n}": CT for n in (1, 2, 3)}, **{f"{STUDY}.2.{n}": DOSE for n in (1, 2, 3)}}
    assert {ref.source_uid for ref in read_manifest(scene.outbound.sent[0].document).instances} == {THEIRS}
    with scene.centre.database.read() as unit:
        study = studies.study(unit, "b", STUDY)
    assert study is not None
    assert (study.tier, study.state, study.objects) == ("origin", "complete", 2), "the samples are cache"


def test_the_picture_also_tells_what_the_pacs_left_out_or_could_not_spell(scene: Scene) -> None:
    with working(scene.centre, scene.pacs):
        scene.publish()
    assert any("葉^曉東" in line for line in scene.entry.source_patient_info)
    assert "PID-7|19790214" in scene.entry.source_patient_info
    facts = _facts(scene)
    assert (facts.patient_name, facts.institution, facts.series[0].modality) == (NAME, "第一人民医院", "CT")


def test_pictures_of_another_patient_than_the_pacs_says_are_not_published(scene: Scene) -> None:
    scene.pacs.patient = "B-OLD"
    with working(scene.centre, scene.pacs):
        assert scene.publish().state == "due"
    assert scene.outbound.sent == []
    with scene.centre.database.read() as unit:
        (case,) = cases.find(unit)
        asides = cases.objects(unit, case.id)
        study = studies.study(unit, "b", STUDY)
    assert (case.kind, case.said, case.state) == ("patient", PatientId(LOCAL.domain, "B-OLD"), "open")
    assert {aside.sop_uid for aside in asides} == {f"{STUDY}.1.1", f"{STUDY}.2.1"}
    assert study is not None
    assert (study.patient, study.objects) == (LOCAL, 0)
    facts = _facts(scene)
    assert (facts.patient, facts.patient_name, facts.birth_date) == (LOCAL, "Ye^XiaoDong=?^??", "")
    assert [len(series.instances) for series in facts.series] == [2, 2], "what was sent for another patient is left out"


def test_what_the_pacs_does_tell_is_believed(scene: Scene) -> None:
    scene.pacs.told = {ref.sop_uid: CT for ref in scene.pacs.holds if ref.series_uid.endswith(".1")} | {f"{STUDY}.2.1": DOSE}
    with working(scene.centre, scene.pacs):
        assert scene.publish().state == "published"
    assert scene.fetched == [f"{STUDY}.2.2"], "asked for one whose class nobody told"
    assert scene.classes == scene.pacs.told | {f"{STUDY}.2.2": CT, f"{STUDY}.2.3": CT}


def test_a_pacs_that_tells_everything_is_not_asked_for_pictures(scene: Scene) -> None:
    scene.pacs.name = NAME
    scene.pacs.told = {ref.sop_uid: CT for ref in scene.pacs.holds}
    assert scene.publish().state == "published"
    assert scene.pacs.asked == []


def test_published_again_it_needs_no_further_picture_and_no_new_manifest(scene: Scene) -> None:
    with working(scene.centre, scene.pacs):
        scene.publish()
        before = len(scene.pacs.asked)
        assert scene.publish().state == "published"
        assert (len(scene.pacs.asked), len(scene.outbound.sent)) == (before, 1)
        scene.pacs.holds.append(InstanceRef(STUDY, f"{STUDY}.2", f"{STUDY}.2.0", CT, THEIRS))
        assert scene.publish().instances == 7
    assert scene.fetched == [f"{STUDY}.1.1", f"{STUDY}.2.1"], "what is here is read first"
    assert set(scene.classes.values()) == {CT}
    assert _facts(scene).patient_name == NAME


def test_every_picture_that_is_here_tells_its_own_class(scene: Scene) -> None:
    with working(scene.centre, scene.pacs):
        scene.publish()
        scene.pacs.classes = {f"{STUDY}.1": DOSE}
        scene.pacs.deliver([ref for ref in scene.pacs.holds if ref.sop_uid == f"{STUDY}.1.2"])
        eventually(lambda: _objects(scene) == 3)
        scene.publish()
    assert [scene.classes[f"{STUDY}.1.{n}"] for n in (1, 2, 3)] == [CT, DOSE, CT]


def test_a_picture_that_is_not_sent_leaves_the_study_due_and_says_why(scene: Scene) -> None:
    scene.pacs.script = lambda _pacs, _want, _progress: None
    with working(scene.centre, scene.pacs):
        result = scene.publish(100.0)
    assert (result.state, result.instances, scene.outbound.sent) == ("due", 6, [])
    assert "tells no SOP classes" in result.reason
    assert "did not send" in result.reason
    scene.pacs.script = None
    with working(scene.centre, scene.pacs):
        assert scene.publisher.run_once(100.0 + FIRST_DELAY) == 1
    assert set(scene.classes.values()) == {CT}


def test_where_nobody_fetches_the_wait_ends_and_names_it(scene: Scene) -> None:
    scene.patience = 0.2
    result = scene.publish(100.0)
    assert result.state == "due"
    assert "no fetch process runs" in result.reason
    scene.patience = 15.0
    with working(scene.centre, scene.pacs):
        assert scene.publisher.run_once(100.0 + FIRST_DELAY) == 1


def test_a_study_that_grows_meanwhile_is_looked_at_again(scene: Scene) -> None:
    late = InstanceRef(STUDY, f"{STUDY}.3", f"{STUDY}.3.1", CT, THEIRS)

    def grow(pacs: Pacs, want: object, progress: object) -> None:
        assert isinstance(pacs, Silent)
        pacs.holds.append(late)
        pacs.script = None
        hospital = pacs.centre.profile.hospital("b")
        assert hospital is not None
        with pacs.centre.database.write() as unit:
            recording.record_origin(unit, hospital, pacs.find_study(hospital, STUDY))
        pacs.deliver([ref for ref in pacs.holds if ref.sop_uid in {f"{STUDY}.1.1", f"{STUDY}.2.1"}])

    scene.pacs.script = grow
    with working(scene.centre, scene.pacs):
        result = scene.publish(100.0)
        assert (result.state, result.instances) == ("due", 7)
        assert "grew" in result.reason
        assert scene.publisher.run_once(100.0 + FIRST_DELAY) == 1
    assert len(scene.classes) == 7


def test_a_pacs_that_does_not_answer_is_told_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_hospital: Hospital, _study_uid: str) -> StudyRows:
        raise Unavailable("PACS")

    monkeypatch.setattr(scene.pacs, "find_study", away)
    with pytest.raises(Unavailable):
        scene.publish()


def test_a_study_the_pacs_does_not_know_is_rejected(scene: Scene) -> None:
    scene.pacs.holds.clear()
    with pytest.raises(Rejected, match="UnknownStudy"):
        scene.publish()


def _facts(scene: Scene) -> StudyFacts:
    with scene.centre.database.read() as unit:
        study = studies.study(unit, "b", STUDY)
        assert study is not None
        return studies.facts(unit, study.id)


def _objects(scene: Scene) -> int:
    with scene.centre.database.read() as unit:
        study = studies.study(unit, "b", STUDY)
        return study.objects if study else 0


# --- what nobody can send, and what a PACS cannot spell


def _without(*series: int) -> Callable[[Pacs, Want, object], None]:
    """A PACS that cannot send anything of some series."""
    names = {f"{STUDY}.{n}" for n in series}

    def script(pacs: Pacs, want: Want, _progress: object) -> None:
        found = pacs.matching(want)
        pacs.deliver([ref for ref in found if ref.series_uid not in names])
        if any(ref.series_uid in names for ref in found):
            raise RetrieveFailed("C-MOVE", Retrieved(0xC000, "unable"))
    return script


def test_a_series_that_nobody_can_send_is_left_out_and_published_when_it_comes(scene: Scene) -> None:
    scene.pacs.script, now = _without(2), time.time()
    with working(scene.centre, scene.pacs), structlog.testing.capture_logs() as logs:
        result = scene.publish(now)
        assert (result.state, result.instances, result.left_out) == ("partial", 6, 3)
        assert result.reason.startswith("published without 3 images of 1 series")
        assert sorted(scene.classes) == [f"{STUDY}.1.{n}" for n in (1, 2, 3)]
        left_out = [one for one in logs if one["event"].startswith("a series is left out")]
        assert [(one["series"], "unable" in one["reason"]) for one in left_out] == [(f"{STUDY}.2", True)]
        assert scene.fetched[-1] == f"{STUDY}.2.3", "the last one of the series was tried too"
        asked = len(scene.pacs.asked)
        assert scene.publisher.run_once(now + 200) == 0
        assert len(scene.pacs.asked) == asked, "looked at again after five minutes"
        assert scene.publisher.run_once(now + 400) == 0
        assert (len(scene.pacs.asked), len(scene.outbound.sent)) == (asked + 2, 1)
        assert scene.publication.state == "partial"
        scene.pacs.script = None
        assert scene.publisher.run_once(now + 900) == 0, "now after ten"
        assert scene.publisher.run_once(now + 1100) == 1
    assert sorted(scene.classes) == [f"{STUDY}.{s}.{n}" for s in (1, 2) for n in (1, 2, 3)]
    assert scene.outbound.objects[-1].associations[-1].type == RPLC
    assert scene.publication.state == "published"


def test_a_left_out_series_is_published_as_soon_as_the_hospital_sends_one_of_it(scene: Scene) -> None:
    scene.pacs.script = _without(2)
    with working(scene.centre, scene.pacs):
        now = time.time()
        assert scene.publish(now).state == "partial"
        scene.pacs.deliver([ref for ref in scene.pacs.holds if ref.sop_uid == f"{STUDY}.2.2"])
        eventually(lambda: _objects(scene) == 2)
        assert scene.publisher.run_once(time.time()) == 1
    assert len(scene.classes) == 6


def test_one_series_that_comes_late_waits_a_few_attempts_only(scene: Scene) -> None:
    """The PACS does not fail: it is slow. After the third attempt what is there is published."""
    scene.patience = scene.hurry = 0.5

    def slow(pacs: Pacs, want: Want, progress: Callable[[], bool]) -> None:
        pacs.deliver([ref for ref in pacs.matching(want) if ref.series_uid == f"{STUDY}.1"])
        while want.series_uids != (f"{STUDY}.1",) and progress():
            time.sleep(0.05)

    scene.pacs.script = slow
    with working(scene.centre, scene.pacs):
        states = [scene.publish(100.0).state]
        for now in (200.0, 300.0):
            scene.publisher.run_once(now)
            states.append(scene.publication.state)
    assert states == ["due", "due", "partial"]
    assert sorted(scene.classes) == [f"{STUDY}.1.{n}" for n in (1, 2, 3)]


def test_the_worker_waits_for_no_pacs(scene: Scene) -> None:
    """A PACS that hangs costs the publications of others nothing: the picture is fetched meanwhile."""
    scene.patience, scene.hurry = 0.2, HURRY
    hanging = threading.Event()

    def hang(pacs: Pacs, want: Want, progress: Callable[[], bool]) -> None:
        while not hanging.is_set() and progress():
            time.sleep(0.05)
        pacs.deliver(pacs.matching(want))

    scene.pacs.script = hang
    with working(scene.centre, scene.pacs):
        assert scene.publish(100.0).state == "due"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(scene.publisher.run_once, 110.0).result(timeout=10) == 0     # the PACS hangs for 20 seconds
        hanging.set()
        eventually(lambda: _objects(scene) == 2)
        assert scene.publisher.run_once(10000.0) == 1


@pytest.mark.parametrize(("said", "expected"), [
    ("Ye^XiaoDong=^", NAME), ("Ye^XiaoDong=", NAME), ("^", NAME), ("", NAME), ("Ye^XiaoDong=?^??", NAME),
    ("Ye^XiaoDong=\ufffd", NAME),
    ("Li^Si=李^四", "Li^Si=李^四"), ("YE^XIAODONG", "YE^XIAODONG"),
], ids=["latin-1 of Orthanc", "no group", "no character", "nothing", "question marks", "replacements", "whole", "latin only"])
def test_a_name_that_the_pacs_cannot_spell_is_read_from_a_picture(scene: Scene, said: str, expected: str) -> None:
    scene.pacs.told, scene.pacs.name = {ref.sop_uid: CT for ref in scene.pacs.holds}, said
    with working(scene.centre, scene.pacs):
        assert scene.publish().state == "published"
    assert _facts(scene).patient_name == expected
    assert len(scene.pacs.asked) == (expected == NAME)
    assert len(scene.classes) == 6


def test_where_the_first_series_cannot_be_sent_the_next_one_spells_the_name(scene: Scene) -> None:
    scene.pacs.told = {ref.sop_uid: CT for ref in scene.pacs.holds}
    scene.pacs.script = _without(1)
    with working(scene.centre, scene.pacs):
        assert scene.publish().state == "published"
    assert _facts(scene).patient_name == NAME


def test_a_name_that_nobody_can_spell_is_published_as_it_is(scene: Scene) -> None:
    scene.pacs.told = {ref.sop_uid: CT for ref in scene.pacs.holds}
    scene.pacs.script = _without(1, 2)
    with working(scene.centre, scene.pacs):
        assert scene.publish().state == "published"
    assert len(scene.classes) == 6


def test_rows_without_a_legal_uid_are_counted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.pacs.told, scene.pacs.name = {ref.sop_uid: CT for ref in scene.pacs.holds}, NAME
    find = scene.pacs.find_study
    odd = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.1", "SOPInstanceUID": "1.2.x", "PatientID": LOCAL.value}
    monkeypatch.setattr(scene.pacs, "find_study", lambda hospital, uid: StudyRows([*find(hospital, uid), odd], nameless=2))
    result = scene.publish()
    assert (result.state, result.instances, result.nameless) == ("published", 6, 3)
    monkeypatch.setattr(scene.pacs, "find_study", lambda _hospital, _uid: StudyRows([odd], nameless=2))
    with pytest.raises(Rejected, match="names no image but 3 without a legal UID"):
        scene.publish()
