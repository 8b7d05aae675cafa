"""Wrong patients, corrections, and what an operator decides about them."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.archive.formats.sequencefile import Damaged
from broker.config.profile import Profile
from broker.db import Database, sql
from broker.imaging import maker
from broker.imaging.archiving.drop import Outcome
from broker.imaging.receiver import Receiver
from broker.imaging.store import containers, studies
from broker.imaging.store.tables import conflict
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.imaging import InstanceRef
from broker.wire.kos import read_manifest
from tests.helpers.archive import archive_of
from tests.helpers.conflicts import DOMAINS, NODES, SERIES, STUDY, Picture, Scene, scene_in, sop, store, with_hospital
from tests.helpers.damage import quarantine, spoil
from tests.helpers.fetch import OURS, THEIRS

pytestmark = pytest.mark.slow

A, B = Picture("MA"), Picture("MB", 2)


@pytest.fixture
def scene(database: Database, tmp_path: Path, profile: Profile) -> Iterator[Scene]:
    with scene_in(database, tmp_path, profile) as made:
        yield made


def send_all(door: Receiver, pictures: list[Picture]) -> None:
    for picture in pictures:
        store(door, picture)


def applying(scene: Scene, key: str = "a") -> Scene:
    scene.centre.profile = with_hospital(scene.profile, key, corrections="apply")
    return scene


# two patients under one Study Instance UID

def test_pictures_of_two_patients_are_never_shown_together(scene: Scene) -> None:
    scene.send(A, B)
    assert scene.publish() == 1
    assert scene.given() == {"P-MA": {sop(1): "MA"}}
    (found,) = scene.open()
    assert (found.kind, found.state, found.hospital, found.study_uid) == ("patient", "open", "a", STUDY)
    assert (found.here.patient.value, found.here.images, found.came.patient.value, found.came.images) == ("MA", 1, "MB", 1)
    assert found.came.facts["PatientName"] == "Ye^XiaoDong"
    assert any(path.startswith(f".conflict/a/{STUDY}/{sop(2)}.") for path in scene.files()), "nothing is lost"


@pytest.mark.parametrize("moment", ["same batch", "after its row", "after publication", "after packing", "after a restart"])
def test_the_second_patient_at_any_moment(scene: Scene, moment: str) -> None:
    if moment == "same batch":
        scene.send(A, B)
    else:
        scene.send(A)
        if moment in {"after publication", "after packing"}:
            scene.publish()
        if moment == "after packing":
            assert scene.pack() == [Outcome.ARCHIVED]
        scene.send(B)
    if moment == "after a restart":
        with scene.receiving() as receiver:
            assert receiver._indexer.adopt() == 0
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}}
    assert [(one.kind, one.came.patient.value) for one in scene.open()] == [("patient", "MB")]


def test_a_crash_before_the_rows_leaves_the_same_conflict(scene: Scene) -> None:
    scene.send(A)
    receiver = scene.receiving()
    with receiver as door:
        door.stop()
        store(door, B)      # durable, and nobody writes its row any more
    with scene.receiving() as door:
        assert door._indexer.adopt() in {1, 2}, "the file that was put aside meanwhile may be seen too"
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}}
    assert len(scene.open()) == 1


def test_two_receivers_at_once_take_one_patient(scene: Scene) -> None:
    pictures = [[Picture(patient, number) for number in range(start, start + 8)] for patient, start in (("MA", 1), ("MB", 11))]
    with scene.receiving() as one, scene.receiving() as other:
        threads = [threading.Thread(target=send_all, args=pair)
                   for pair in zip((one, other), pictures, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    scene.publish()
    (found,) = scene.open()
    assert found.came.images == 8
    ((patient, given),) = scene.given().items()
    assert set(given.values()) == {patient.removeprefix("P-")}
    assert len(given) == 8


@pytest.mark.parametrize("other", [" MA", "MA ", "MA\u3000", "\tMA"])
def test_padding_makes_no_other_patient(scene: Scene, other: str) -> None:
    scene.send(A, Picture(other, 2))
    scene.publish()
    assert scene.shown() == {"P-MA": [sop(1), sop(2)]}
    assert scene.open() == []


@pytest.mark.parametrize("other", ["ma", "MA0", "0MA", "M A", "MA-1"])
def test_another_id_is_another_patient(scene: Scene, other: str) -> None:
    scene.send(A, Picture(other, 2))
    scene.publish()
    assert scene.shown() == {"P-MA": [sop(1)]}
    assert [one.came.patient.value for one in scene.open()] == [other]


def test_an_id_of_another_hospitals_authority_is_another_patient(scene: Scene) -> None:
    imported = Picture("MA", 2, tags=(("IssuerOfPatientID", "HOSPB"),))
    scene.send(A, imported)
    scene.publish()
    assert scene.shown() == {"P-MA": [sop(1)]}
    assert [one.came.patient for one in scene.open()] == [PatientId(DOMAINS["b"], "MA")]


def test_an_issuer_nobody_knows_is_the_hospitals_own(scene: Scene) -> None:
    scene.send(A, Picture("MA", 2, tags=(("IssuerOfPatientID", "PACS-1"),)))
    assert scene.open() == []


def test_the_same_picture_again_makes_no_second_conflict(scene: Scene) -> None:
    for _ in range(3):
        scene.send(A, B)
    assert [one.came.images for one in scene.open()] == [1]
    assert len(scene.files()) == 2


def test_a_picture_sent_twice_takes_no_other_one_along(scene: Scene) -> None:
    """The second time its row is late: what it was is aside, and another patient's picture has its name by now."""
    scene.send(A)
    with scene.receiving() as door:
        sent = store(door, B)
    with scene.receiving() as door:
        door.stop()
        store(door, Picture("MA", 2))       # durable, its row is on its way
    with scene.receiving() as door:
        assert sent is not None
        door._indexer.add(sent, conflict=False)
    with scene.receiving() as door:
        door._indexer.adopt()
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(2): "MA"}}
    assert [(one.came.patient.value, one.came.images) for one in scene.open()] == [("MB", 1)]


def test_many_that_cannot_be_kept_aside_hold_up_nobody(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float | None] = []

    class Going(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return self.is_set()

    def away(_: object) -> None:
        raise Unavailable("online store")

    scene.send(A)
    monkeypatch.setattr(scene.centre.online, "keep_as_conflict", away)
    with scene.receiving() as door:
        door.stop()
        for number in range(2, 8):
            store(door, Picture("MB", number))
        index = door._indexer
        index._stopping = Going()
        assert index._enter([index._waiting.get() for _ in range(6)])
    assert len(pauses) < 3, "those of the batch, none for each object"
    assert len(index._later) == 6


def test_many_of_one_patient_are_one_conflict(scene: Scene) -> None:
    scene.send(A, *(Picture("MB", number) for number in range(2, 8)), Picture("MC", 9))
    assert [(one.came.patient.value, one.came.images) for one in scene.open()] == [("MB", 6), ("MC", 1)]


# facts of a study

def test_any_objects_patient_id_completes_the_study(scene: Scene) -> None:
    nothing = ("StudyDate", "AccessionNumber", "PatientSex", "PatientBirthDate")
    bare = Picture("", 1, name="", tags=tuple((keyword, "") for keyword in nothing))
    scene.send(bare)
    assert scene.publish() == 0
    scene.send(Picture("MX", 2))
    assert scene.publish() == 1
    assert scene.shown() == {"P-MX": [sop(1), sop(2)]}
    entry = scene.outbound.objects[-1].documents[0]
    assert {"PID-5|Ye^XiaoDong", "PID-7|19790214", "PID-8|F"} <= set(entry.source_patient_info)
    assert entry.service_start_time
    assert any("ACC1" in reference for reference in entry.reference_id_list)
    assert scene.open() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_the_answer_does_not_depend_on_the_order_of_arrival(scene: Scene, order: tuple[int, ...]) -> None:
    pictures = [
        Picture("", 1, name=""), Picture("MX", 2, name="Ye^X"), Picture("MX", 3, name="Ye^XiaoDong", tags=(("StudyDate", ""),)),
        Picture("MX", 4, name="?^?", tags=(("StudyDescription", "plain"), ("BodyPartExamined", "")))]
    for number in order:
        scene.send(pictures[number])
    (study,) = scene.studies()
    assert study.patient.value == "MX"
    assert (study.facts["PatientName"], study.facts["StudyDate"], study.study_date) == ("Ye^XiaoDong", "20250301", "20250301")
    assert (study.facts["StudyDescription"], study.facts["PatientID"]) == ("胸部 CT" if len("胸部 CT") > 5 else "plain", "MX")
    with scene.centre.database.read() as unit:
        (series,) = studies.facts(unit, study.id).series
    assert (series.modality, series.body_part, len(series.instances)) == ("CT", "CHEST", 4)


# what an operator decides

def test_assigned_to_whom_the_pictures_name(scene: Scene) -> None:
    scene.send(A, B)
    scene.publish()
    facts = scene.assign(1, "MB")
    assert {patient.value for patient in facts.patients} == {"MA", "MB"}
    assert facts.studies == {STUDY: [sop(2)]}
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}, "P-MB": {sop(2): "MB"}}
    assert scene.open() == []
    (found,) = scene.conflicts.listed(settled=True)
    assert (found.state, found.decided_by, found.assigned) == ("assigned", "operator", PatientId(DOMAINS["a"], "MB"))
    scene.send(Picture("MB", 3), Picture("MA", 4), Picture("MC", 5))
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(4): "MA"}, "P-MB": {sop(2): "MB", sop(3): "MB"}}
    assert [one.came.patient.value for one in scene.open()] == ["MC"]


def test_assigned_to_the_patient_of_the_study(scene: Scene) -> None:
    scene.send(A, B)
    scene.publish()
    scene.assign(1, "MA")
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(2): "MB"}}
    assert len(scene.outbound.sent) == 2
    assert scene.withdrawn == []


def test_assigned_to_a_third_patient_whose_name_nobody_told(scene: Scene) -> None:
    scene.send(A, B)
    scene.assign(1, "MC")
    scene.publish()
    assert scene.shown() == {"P-MA": [sop(1)], "P-MC": [sop(2)]}
    entry = next(one.documents[0] for one in scene.outbound.objects if one.documents[0].patient_id.startswith("P-MC"))
    assert not [info for info in entry.source_patient_info if info.startswith(("PID-5", "PID-7", "PID-8"))]
    assert entry.source_patient_id.startswith("MC^")


def test_rejected_stays_aside_and_comes_to_nobody(scene: Scene) -> None:
    scene.send(A, B)
    scene.reject(1)
    scene.send(B)
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}}
    assert scene.open() == []
    assert any(path.startswith(f".conflict/a/{STUDY}/{sop(2)}.") for path in scene.files())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("patient", ["MA", "MB", "MC"])
def test_undo_restores_what_was_shown(scene: Scene, patient: str, packed: bool) -> None:
    scene.send(A, B)
    scene.publish()
    before = scene.given()
    scene.assign(1, patient)
    scene.publish()
    if packed:
        assert set(scene.pack()) == {Outcome.ARCHIVED}
    facts = scene.undo(1)
    assert "MB" in {one.value for one in facts.patients}
    scene.publish()
    assert scene.given() == before
    assert [(one.id, one.state) for one in scene.open()] == [(1, "open")]
    scene.assign(1, "MB")
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}, "P-MB": {sop(2): "MB"}}


def test_undo_of_a_rejection(scene: Scene) -> None:
    scene.send(A, B)
    scene.reject(1)
    scene.undo(1)
    assert [one.state for one in scene.open()] == ["open"]


def test_undo_takes_along_what_came_since_for_the_same_patient(scene: Scene) -> None:
    scene.send(A, B)
    scene.assign(1, "MB")
    scene.send(Picture("MB", 3))
    scene.publish()
    scene.undo(1)
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}}
    assert [one.came.images for one in scene.open()] == [2]


@pytest.mark.parametrize(("decide", "code"), [
    (lambda scene: scene.assign(7, "MB"), "UnknownConflict"), (lambda scene: scene.undo(0), "UnknownConflict"),
    (lambda scene: scene.undo(1), "NotSettled"),
    (lambda scene: (scene.reject(1), scene.assign(1, "MB")), "Settled"),
    (lambda scene: (scene.assign(1, "MB"), scene.reject(1)), "Settled"),
])
def test_what_cannot_be_decided_is_refused_and_changes_nothing(scene: Scene, decide: object, code: str) -> None:
    scene.send(A, B)
    with pytest.raises(Rejected) as caught:
        decide(scene)  # type: ignore[operator]
    assert caught.value.problems[0].code == code


def test_a_decision_while_a_manifest_is_on_its_way(scene: Scene) -> None:
    scene.send(A, B, Picture("MA", 3))
    seen: list[int] = []

    def during() -> None:
        if not seen:
            seen.append(1)
            scene.send(Picture("MB", 1, pixels=2))      # the hospital corrects a picture
            scene.assign(1, "MB")
    scene.outbound.during = during
    scene.publish()
    scene.publish()
    assert scene.given() == {"P-MA": {sop(3): "MA"}, "P-MB": {sop(1): "MB", sop(2): "MB"}}


# corrections

@pytest.mark.parametrize("packed", [False, True])
def test_a_corrected_patient_is_proposed_and_does_not_move_the_study(scene: Scene, packed: bool) -> None:
    scene.send(A, Picture("MA", 2))
    scene.publish()
    if packed:
        scene.pack()
    scene.send(Picture("MB", 1), Picture("MB", 2))
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(2): "MA"}}
    assert [(one.kind, one.came.patient.value, one.came.images) for one in scene.open()] == [("correction", "MB", 2)]
    assert scene.conflicts.due() == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_correction_that_an_operator_takes(scene: Scene, packed: bool) -> None:
    scene.send(A, Picture("MA", 2))
    scene.publish()
    old = scene.outbound.objects[0].documents[0].id
    if packed:
        scene.pack()
    scene.send(Picture("MB", 1), Picture("MB", 2))
    scene.assign(1, "MB")
    scene.publish()
    assert scene.given() == {"P-MB": {sop(1): "MB", sop(2): "MB"}}
    assert scene.withdrawn == [old], "a replacement keeps the patient: the old one is withdrawn"
    assert len([path for path in scene.files() if path.startswith(".conflict/")]) == 4, "the old bytes are history"
    scene.pack()
    assert scene.given() == {"P-MB": {sop(1): "MB", sop(2): "MB"}}, "what is packed is what is shown"
    scene.send(A)       # the old version once more
    scene.publish()
    assert scene.given() == {"P-MB": {sop(1): "MB", sop(2): "MB"}}
    assert scene.open() == []
    scene.send(Picture("MA", 9))        # a late picture with the wrong id
    assert [(one.kind, one.came.patient.value) for one in scene.open()] == [("patient", "MA")]
    scene.undo(1)
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(2): "MA"}}


def test_a_corrected_part_moves_and_the_rest_stays(scene: Scene) -> None:
    scene.send(A, Picture("MA", 2))
    scene.publish()
    scene.send(Picture("MB", 2))
    scene.assign(1, "MB")
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}, "P-MB": {sop(2): "MB"}}
    assert scene.withdrawn == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_hospital_that_may_correct_its_pictures(scene: Scene, packed: bool) -> None:
    applying(scene).send(A, Picture("MA", 2))
    scene.publish()
    if packed:
        scene.pack()
    scene.send(Picture("MB", 1), Picture("MB", 2))
    scene.now = time.time()
    assert scene.conflicts.due() == [], "not before it is complete"
    scene.now += 5000
    for decision in scene.conflicts.due():
        scene._decide(scene.conflicts.assign, decision)
    scene.publish()
    assert scene.given() == {"P-MB": {sop(1): "MB", sop(2): "MB"}}
    scene.undo(1)
    scene.now += 1000
    assert scene.conflicts.due() == [], "what an operator took back is not done again"
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(2): "MA"}}


@pytest.mark.parametrize("late", [Picture("MB", 1), Picture("MA", 2), Picture("", 2)], ids=["first", "second", "nobody"])
@pytest.mark.parametrize("readable", [True, False])
def test_a_picture_that_is_packed_for_another_part_does_not_come_twice(scene: Scene, late: Picture, readable: bool) -> None:
    scene.send(A, B)
    scene.assign(1, "MB")
    scene.publish()
    scene.pack()
    archive = archive_of(scene.centre.sdfo)
    if not readable:
        scene.centre.sdfo._indexes = type(scene.centre.sdfo._indexes)(1)     # as in a process that did not read it before
        archive.rename(archive.with_name("away"))
    scene.send(late)
    if not readable:
        archive.with_name("away").rename(archive)
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}, "P-MB": {sop(2): "MB"}}
    assert [one.came.patient.value for one in scene.open()] == [late.patient]


def test_a_correction_of_a_packed_study_that_comes_in_two_halves(scene: Scene) -> None:
    applying(scene).send(A, Picture("MA", 2))
    scene.publish()
    for number in (1, 2):
        scene.pack()
        scene.send(Picture("MB", number))
        scene.now += 5000
        for decision in scene.conflicts.due():
            scene._decide(scene.conflicts.assign, decision)
        scene.publish()
    assert scene.given() == {"P-MB": {sop(1): "MB", sop(2): "MB"}}
    assert scene.open() == []


def test_another_patient_is_no_correction_whatever_the_profile_says(scene: Scene) -> None:
    applying(scene).send(A, Picture("MB", 1, pixels=2), B)
    scene.now += 1000
    assert scene.conflicts.due() == []
    assert [one.kind for one in scene.open()] == ["patient"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("changed", [
    {"name": "Lin^A"}, {"tags": (("PatientBirthDate", "19800101"),)}, {"tags": (("PatientSex", "M"),)}])
def test_a_corrected_name_is_shown_in_a_new_manifest(scene: Scene, changed: dict[str, object], packed: bool) -> None:
    applying(scene).send(A, Picture("MA", 2))
    scene.publish()
    if packed:
        scene.pack()
    corrected = [Picture("MA", number, **changed) for number in (1, 2)]  # type: ignore[arg-type]
    scene.send(*corrected)
    if packed:      # the archive is asked when the late objects are packed
        scene.publish()
        scene.pack()
    assert [one.kind for one in scene.open()] == ["correction"]
    scene.now += 1000
    for decision in scene.conflicts.due():
        scene._decide(scene.conflicts.assign, decision)
    scene.publish()
    entry = scene.outbound.objects[-1].documents[0]
    wanted = {"PID-5|Lin^A"} if "name" in changed else {"PID-7|19800101", "PID-8|M"}
    assert wanted & set(entry.source_patient_info)
    assert scene.shown() == {"P-MA": [sop(1), sop(2)]}
    assert scene.withdrawn == [], "the same patient: it is replaced"
    (study,) = [one for one in scene.studies() if one.state != "moved"]
    with scene.centre.database.read() as unit:
        shown = {row.sop_uid: row.online for row in studies.instances(unit, study.id)}
    assert {key: scene.centre.online.path(one.path).read_bytes()[-4:] for key, one in shown.items()}.keys() == {sop(1), sop(2)}
    scene.undo(1)
    scene.publish()
    assert "PID-5|Ye^XiaoDong" in scene.outbound.objects[-1].documents[0].source_patient_info


def test_other_bytes_of_the_same_patient_wait_for_an_operator(scene: Scene) -> None:
    applying(scene).send(A, Picture("MA", 1, pixels=7))
    scene.now += 1000
    assert [one.kind for one in scene.open()] == ["bytes"]
    assert scene.conflicts.due() == []
    scene.assign(1, "MA")
    (study,) = scene.studies()
    with scene.centre.database.read() as unit:
        (row,) = studies.instances(unit, study.id)
    assert scene.centre.online.path(row.online.path).read_bytes().endswith(b"\x07\x00")


def test_what_came_in_the_place_of_a_damaged_picture_is_shown_when_somebody_says_so(scene: Scene, tmp_path: Path) -> None:
    scene.send(A, Picture("MA", 2))
    scene.publish()
    assert scene.pack() == [Outcome.ARCHIVED]
    (study,) = scene.studies()
    with scene.centre.database.read() as unit:
        container = containers.current(unit, study.id)
    assert container is not None
    keeping = quarantine(scene.centre.database, scene.centre.sdfo, tmp_path)
    spoil(scene.centre.sdfo, container.path, sop(1))
    keeping.enter(container.path, [sop(1)], "its bytes are not those that were packed")
    scene.send(Picture("MA", 1, pixels=7))
    scene.publish()
    with pytest.raises(Damaged, match="no good copy"):
        scene.pack()
    assert [one.kind for one in scene.open()] == ["bytes"]
    scene.assign(1, "MA")
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(2): "MA"}}
    assert scene.pack() == [Outcome.ARCHIVED]
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(2): "MA"}}
    assert not (archive_of(scene.centre.sdfo) / container.path).exists()


def test_a_study_with_damaged_pictures_is_not_brought_back_for_others(scene: Scene, tmp_path: Path) -> None:
    scene.send(A, Picture("MA", 2))
    scene.publish()
    scene.pack()
    (study,) = scene.studies()
    with scene.centre.database.read() as unit:
        container = containers.current(unit, study.id)
    assert container is not None
    quarantine(scene.centre.database, scene.centre.sdfo, tmp_path).enter(container.path, [sop(2)], "a reason")
    scene.send(Picture("MB", 1))
    with pytest.raises(Unavailable, match="whose archived copy is damaged"):
        scene.assign(1, "MB")
    assert (archive_of(scene.centre.sdfo) / container.path).exists()


def test_what_an_older_broker_kept_aside_can_be_settled(scene: Scene) -> None:
    scene.send(A, Picture("MA", 1, pixels=7))
    with scene.centre.database.write() as unit:
        sql(unit).execute(conflict.update().values(series_uid="", sop_class="", transfer_syntax="", size=0))
    scene.assign(1, "MA")
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}}
    (study,) = scene.studies()
    with scene.centre.database.read() as unit:
        (row,) = studies.instances(unit, study.id)
    assert (row.series_uid, row.sop_class) == (SERIES, "1.2.840.10008.5.1.4.1.1.2")
    assert scene.centre.online.path(row.online.path).stat().st_size == row.online.size == study.bytes


def test_a_later_decision_on_the_same_pictures_is_undone_first(scene: Scene) -> None:
    scene.send(A)
    scene.send(Picture("MB", 1))
    scene.assign(1, "MB")
    scene.send(Picture("MC", 1))
    scene.assign(2, "MC")
    scene.publish()
    assert scene.given() == {"P-MC": {sop(1): "MC"}}
    with pytest.raises(Rejected) as caught:
        scene.undo(1)
    assert caught.value.problems[0].code == "ChangedSince"
    scene.undo(2)
    scene.publish()
    assert scene.given() == {"P-MB": {sop(1): "MB"}}
    scene.undo(1)
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}}


def test_a_study_that_is_packed_just_now_is_not_settled(scene: Scene) -> None:
    scene.send(A, B)
    (study,) = scene.studies()
    with scene.centre.coord.lock(f"migrate:{study.id}", 60) as held, pytest.raises(Unavailable):
        assert held
        scene.assign(1, "MB")
    assert len(scene.open()) == 1


def test_undo_takes_nobody_elses_pictures_along(scene: Scene) -> None:
    scene.send(A, B)
    scene.assign(1, "MC")
    scene.send(Picture("MC", 3))
    scene.undo(1)
    assert [(one.came.patient.value, one.came.images) for one in scene.open()] == [("MB", 1), ("MC", 1)]
    scene.assign(1, "MB")
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}, "P-MB": {sop(2): "MB"}}
    scene.assign(2, "MC")
    scene.publish()
    assert scene.given()["P-MC"] == {sop(3): "MC"}


def test_undo_waits_for_a_decision_that_gave_the_same_patient_more(scene: Scene) -> None:
    scene.send(A, B, Picture("MC", 3))
    scene.assign(1, "MB")
    scene.assign(2, "MB")
    with pytest.raises(Rejected) as caught:
        scene.undo(1)
    assert caught.value.problems[0].code == "ChangedSince"
    scene.undo(2)
    scene.undo(1)
    assert [(one.came.patient.value, one.came.images) for one in scene.open()] == [("MB", 1), ("MC", 1)]


@pytest.mark.parametrize("patient", ["", "x" * 251])
def test_nothing_is_assigned_to_what_is_no_patient_id(scene: Scene, patient: str) -> None:
    scene.send(A, B)
    with pytest.raises(Rejected) as caught:
        scene.assign(1, patient)
    assert caught.value.problems[0].code == "NotAPatient"
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}}
    assert len(scene.open()) == 1


def test_packing_a_part_leaves_the_files_of_the_others(scene: Scene) -> None:
    scene.send(A, Picture("MB", 1))
    scene.reject(1)
    with pytest.raises(Rejected):
        scene.assign(1, "MB")           # refused, after what it would have replaced was kept aside
    scene.send(Picture("MC", 3))
    scene.assign(2, "MC")
    scene.publish()
    scene.send(Picture("MA", 2))
    assert scene.pack() == [Outcome.NOTHING, Outcome.ARCHIVED], "the first part just receives"
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA", sop(2): "MA"}, "P-MC": {sop(3): "MC"}}


# hospitals that keep their studies

def row(number: int, patient: str) -> dict[str, str]:
    return {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": sop(number),
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "PatientID": patient, "PatientName": f"N^{patient}", "Modality": "CT"}


def test_what_an_origin_sends_for_another_patient_is_not_given_and_named(scene: Scene) -> None:
    scene.mover.found = [row(1, "MA"), row(2, "MA")]
    assert scene.publisher.publish_study("b", STUDY, scene.now).state == "published"
    scene.send(Picture("MA", 1), Picture("MB", 2), node="PACSB")
    given = scene.given()["P-MA"]
    assert given[sop(1)] == "MA"
    assert given[sop(2)].startswith("missing:")
    assert "conflict 1" in given[sop(2)]
    assert [(one.hospital, one.kind, one.came.patient.value) for one in scene.open()] == [("b", "patient", "MB")]
    scene.publisher.publish_study("b", STUDY, scene.now + 1)
    assert scene.shown() == {"P-MA": [sop(1)]}, "published without what nobody can have"
    scene.assign(1, "MB", DOMAINS["b"])
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}, "P-MB": {sop(2): "MB"}}
    scene.undo(1)
    scene.publish()
    assert scene.shown() == {"P-MA": [sop(1)]}


def test_an_origin_that_lists_two_patients_shows_the_larger_part(scene: Scene) -> None:
    scene.mover.found = [row(1, "MB"), row(2, "MA"), row(3, "MA")]
    scene.publisher.publish_study("b", STUDY, scene.now)
    assert scene.shown() == {"P-MA": [sop(2), sop(3)]}
    assert [(one.kind, one.came.patient.value, one.came.images) for one in scene.open()] == [("patient", "MB", 1)]
    scene.assign(1, "MB", DOMAINS["b"])
    scene.publish()
    assert scene.shown() == {"P-MA": [sop(2), sop(3)], "P-MB": [sop(1)]}
    assert {ref.source_uid for sent in scene.outbound.sent for ref in read_manifest(sent.document).instances} == {THEIRS}
    scene.publisher.publish_study("b", STUDY, scene.now + 1)
    assert scene.shown() == {"P-MA": [sop(2), sop(3)], "P-MB": [sop(1)]}
    scene.send(Picture("MB", 1), Picture("MA", 2), Picture("MB", 3), node="PACSB")
    given = scene.given()
    assert (given["P-MB"], given["P-MA"][sop(2)]) == ({sop(1): "MB"}, "MA"), "both are had, each under its own"
    assert "conflict 2" in given["P-MA"][sop(3)]


@pytest.mark.parametrize("kinds", [(1, "MA"), (2, "MB")])
def test_an_origin_that_mixes_up_two_patients_of_one_study_gives_neither(scene: Scene, kinds: tuple[int, str]) -> None:
    scene.mover.found = [row(1, "MB"), row(2, "MA"), row(3, "MA")]
    scene.publisher.publish_study("b", STUDY, scene.now)
    scene.assign(1, "MB", DOMAINS["b"])
    scene.publish()
    number, patient = kinds
    scene.send(Picture(patient, number), node="PACSB")
    assert [one.came.patient.value for one in scene.open()] == [patient]
    assert all(text.startswith("missing:") for given in scene.given().values() for text in given.values())


@pytest.mark.parametrize("policy", ["propose", "apply"])
def test_a_patient_corrected_at_the_origin_does_not_move_the_study_silently(scene: Scene, policy: str) -> None:
    scene.centre.profile = with_hospital(scene.profile, "b", corrections=policy)
    scene.mover.found = [row(1, "MA"), row(2, "MA")]
    scene.publisher.publish_study("b", STUDY, scene.now)
    scene.mover.found = [row(1, "MB"), row(2, "MB")]
    scene.publisher.publish_study("b", STUDY, scene.now + 1)
    assert scene.shown() == {"P-MA": [sop(1), sop(2)]}
    assert [(one.kind, one.came.patient.value, one.came.images) for one in scene.open()] == [("correction", "MB", 2)]
    scene.now += 1000
    due = scene.conflicts.due()
    assert [one.patient for one in due] == ([] if policy == "propose" else [PatientId(DOMAINS["b"], "MB")])
    scene.assign(1, "MB", DOMAINS["b"])
    scene.publish()
    assert scene.shown() == {"P-MB": [sop(1), sop(2)]}
    assert len(scene.withdrawn) == 1
    scene.publisher.publish_study("b", STUDY, scene.now + 1)
    assert scene.shown() == {"P-MB": [sop(1), sop(2)]}
    scene.undo(1)
    scene.publish()
    assert scene.shown() == {"P-MA": [sop(1), sop(2)]}


# one Study Instance UID from two hospitals

@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["sends", "hosted"])
@pytest.mark.parametrize("first", ["PACSA", "PACSC"])
def test_a_manifest_leads_to_the_object_of_its_own_hospital(scene: Scene, kind: str, first: str, packed: bool) -> None:
    scene.centre.profile = with_hospital(scene.profile, "c", kind=kind)
    second = "PACSC" if first == "PACSA" else "PACSA"
    scene.send(Picture("MA", 1), node=first)
    scene.publish()
    scene.send(Picture("MC", 1), node=second)
    scene.publish()
    if packed:
        scene.pack()
    assert scene.given() == {"P-MA": {sop(1): "MA"}, "P-MC": {sop(1): "MC"}}
    assert scene.open() == []
    uids = [{ref.source_uid for ref in read_manifest(sent.document).instances} for sent in scene.outbound.sent]
    other = "c" if second == "PACSC" else "a"
    hospital = scene.profile.hospital(other)
    assert hospital is not None
    assert uids == [{OURS}, {maker.second_location(hospital, scene.profile)}]


def test_our_own_source_never_leads_to_the_second_hospital(scene: Scene) -> None:
    scene.centre.profile = with_hospital(scene.profile, "c")
    scene.send(Picture("MA", 1), node="PACSA")
    scene.send(Picture("MC", 2), node="PACSC")
    ref = InstanceRef(STUDY, SERIES, sop(2), source_uid=OURS)
    assert scene.fetched((ref,))[sop(2)].startswith("missing:")


@pytest.mark.parametrize("first", ["a", "c"])
def test_a_hospital_with_a_source_of_its_own_keeps_it(scene: Scene, first: str) -> None:
    scene.centre.profile = with_hospital(scene.profile, "c", source_uid="2.999.4.3")
    for key in sorted("ac", key=lambda key: key != first):
        scene.send(Picture(f"M{key.upper()}", 1), node=NODES[key])
    scene.publish()
    assert scene.given() == {"P-MA": {sop(1): "MA"}, "P-MC": {sop(1): "MC"}}
    uids = {ref.source_uid for sent in scene.outbound.sent for ref in read_manifest(sent.document).instances}
    hospital = scene.profile.hospital("a")
    assert hospital is not None
    # manifests of before its hospital had a source may name ours: only the first is had under ours
    assert uids == {"2.999.4.3", OURS if first == "a" else maker.second_location(hospital, scene.profile)}
