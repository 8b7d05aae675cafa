"""Rows from containers: what is entered, what is left alone, and what the drill says of it."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.archive.formats.sdicom import write_container
from broker.config import profile as profiles
from broker.db import schema
from broker.imaging.archiving.drill import drill
from broker.imaging.archiving.drop import Outcome
from broker.imaging.archiving.rebuild import Rebuilder, Rebuilt
from broker.imaging.store import containers, publications, studies
from broker.imaging.store.studies import Study
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from tests.helpers.archive import MARKER, STUDY, Centre, archive_of, image

IMAGES = {f"2.25.8.{number}": bytes([number]) * 500 for number in range(1, 4)}
RECORD = {"manifest_uid": "2.25.77", "entry_uuid": "urn:uuid:77", "digest": "d", "entry_patient": "P^^^&2.999.1.1&ISO"}


class Two:
    """A centre with packed studies, and one with the same archive whose database is new."""

    def __init__(self, folder: Path) -> None:
        for name in ("live", "new"):
            (folder / name).mkdir()
        self.live, self.new = (self._centre(folder / name) for name in ("live", "new"))
        archive = archive_of(self.new.sdfo)
        archive.parent.mkdir(exist_ok=True)
        archive.symlink_to(archive_of(self.live.sdfo), target_is_directory=True)

    @staticmethod
    def _centre(folder: Path) -> Centre:
        centre = Centre(folder, profiles.load("demo"))
        schema.upgrade(centre.database)
        return centre

    def pack(self, images: dict[str, bytes] = IMAGES, **study: str) -> int:
        study_id = self.live.receive(images, **study)
        assert self.live.packer.migrate(study_id) is Outcome.ARCHIVED
        return study_id

    def rebuild(self, **options: Any) -> Rebuilt:
        return Rebuilder(self.new.database, self.new.sdfo, self.new.profile, **options).run()

    def rows(self, hospital: str = "a", uid: str = STUDY) -> list[Study]:
        with self.new.database.read() as unit:
            return sorted(studies.find_studies(unit, hospital=hospital, study_uid=uid), key=lambda row: row.part)

    def publication(self, row: Study) -> publications.Publication:
        with self.new.database.read() as unit:
            found = publications.get(unit, row.id)
        assert found is not None
        return found

    def put(self, manifest: dict[str, Any], images: dict[str, bytes] = IMAGES, token: str = "0f", study: str = STUDY) -> str:
        """Write a container as another broker would have."""
        sink = io.BytesIO()
        write_container(sink, study, [image(uid, data) for uid, data in images.items()], manifest, MARKER)
        file = archive_of(self.live.sdfo) / f"ab/{study}-{token}.seq"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sink.getvalue())
        return f"ab/{file.name}"


MANIFEST: dict[str, Any] = {
    "study": STUDY, "hospital": "a", "part": 0, "patient": {"domain": "2.999.2.1", "value": "A-1"}, "accession": "X",
    "study_date": "20150301", "facts": {"PatientName": "葉^曉東"}, "series": [], "publication": RECORD, "version": 1,
    "packed_at": 5.0}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path)
    yield made
    made.live.close()
    made.new.close()


def test_rows_are_as_they_were(two: Two) -> None:
    two.pack()
    with two.live.database.write() as unit:
        publications.request(unit, two.live.study().id, PatientId("2.999.2.1", "A-1"), 1.0)
    found = two.rebuild()
    assert (found.containers, found.studies, found.images, found.known) == (1, 1, 3, 0)
    (row,), was = two.rows(), two.live.study()
    for name in ("hospital", "study_uid", "part", "tier", "state", "patient", "study_date", "accession", "facts", "objects",
                 "first_at", "last_at", "used_at"):
        assert getattr(row, name) == getattr(was, name), name
    with two.new.database.read() as new, two.live.database.read() as live:
        ours, theirs = containers.current(new, row.id), containers.current(live, was.id)
        assert publications.described(new, row.id) == publications.described(live, was.id) != {}
    assert ours is not None
    assert theirs is not None
    assert (ours.path, ours.size, ours.images) == (theirs.path, theirs.size, theirs.images)
    assert {uid: two.new.read(uid) for uid in IMAGES} == IMAGES


def test_late_pictures_make_a_new_version_of_what_came_back(two: Two) -> None:
    two.pack()
    two.rebuild()
    study_id = two.new.receive({"2.25.8.9": b"late"})
    assert two.new.packer.migrate(study_id) is Outcome.ARCHIVED
    assert two.new.read("2.25.8.9") == b"late"
    assert {uid: two.new.read(uid) for uid in IMAGES} == IMAGES
    assert len(two.new.files()[1]) == len(two.live.files()[1]) == 1


def test_pictures_that_came_before_the_rows_were_back_are_kept(two: Two) -> None:
    two.pack()
    study_id = two.new.receive({"2.25.8.9": b"early"})
    assert two.rebuild().studies == 1
    (row,) = two.rows()
    assert (row.id, row.tier, row.objects) == (study_id, "archive", 1)
    assert two.new.packer.migrate(study_id) is Outcome.ARCHIVED
    assert {uid: two.new.read(uid) for uid in (*IMAGES, "2.25.8.9")} == {**IMAGES, "2.25.8.9": b"early"}


def test_the_newest_version_counts_and_what_it_replaces_goes(two: Two) -> None:
    old = two.put({**MANIFEST, "version": 1, "packed_at": 9e9}, dict(list(IMAGES.items())[:2]), "01")
    new = two.put({**MANIFEST, "version": 2}, IMAGES, "02")
    found = two.rebuild()
    assert (found.studies, found.retired, found.unused) == (1, 1, {})
    (row,) = two.rows()
    assert row.state == "dropping"
    with two.new.database.read() as unit:
        current = containers.current(unit, row.id)
        assert [one.path for one in containers.retired(unit, row.id)] == [old]
    assert current is not None
    assert current.path == new
    two.new.migrator.resume(two.new.now + 1e6)
    assert two.new.files()[1] == [new]
    assert two.rows()[0].state == "complete"


def test_a_version_with_pictures_that_the_newest_lacks_is_named_and_stays(two: Two) -> None:
    other = two.put({**MANIFEST, "version": 1}, {"2.25.8.7": b"only here"}, "01")
    two.put({**MANIFEST, "version": 2}, IMAGES, "02")
    found = two.rebuild()
    assert list(found.unused) == [other]
    two.new.sweeper.sweep(0.0)
    assert other in two.new.files()[1]


def test_hospitals_and_parts_are_studies_of_their_own(two: Two) -> None:
    two.put(MANIFEST, IMAGES, "01")
    two.put({**MANIFEST, "part": 1, "patient": {"domain": "2.999.2.1", "value": "A-2"}}, IMAGES, "02")
    two.put({**MANIFEST, "hospital": "b", "patient": {"domain": "2.999.3.1", "value": "B-1"}}, IMAGES, "03")
    assert two.rebuild().studies == 3
    assert [(row.part, row.patient.value) for row in two.rows()] == [(0, "A-1"), (1, "A-2")]
    assert [row.patient.value for row in two.rows("b")] == ["B-1"]
    assert two.rebuild().known == 3


def test_containers_of_version_1_tell_enough(two: Two) -> None:
    first = {name: value for name, value in MANIFEST.items() if name not in {"part", "publication", "version", "packed_at"}}
    two.put(first, IMAGES, "01")
    two.put({**first, "patient": {"domain": "2.999.2.1", "value": "A-2"}}, IMAGES, "02")
    assert two.rebuild().studies == 2
    rows = two.rows()
    assert sorted(row.patient.value for row in rows) == ["A-1", "A-2"]
    assert [row.part for row in rows] == [0, 1]
    assert two.publication(rows[0]).state == "due"
    assert two.publication(rows[0]).manifest_uid == ""
    assert two.rebuild().known == 2


def test_a_publication_waits_for_its_patient_under_its_uids(two: Two) -> None:
    two.put(MANIFEST)
    two.rebuild()
    found = two.publication(two.rows()[0])
    assert (found.state, found.restored, found.manifest_uid, found.entry_uuid) == ("waiting_patient", 1, "2.25.77", "urn:uuid:77")
    assert found.patient == PatientId("2.999.2.1", "A-1")


def test_what_our_registry_still_has_is_not_published_again(two: Two) -> None:
    two.put(MANIFEST)
    two.rebuild(registered=lambda _, uuids: uuids)
    found = two.publication(two.rows()[0])
    assert (found.state, found.restored, found.entry_patient) == ("published", 0, RECORD["entry_patient"])


def test_a_study_that_was_not_published_is_not_now(two: Two) -> None:
    two.put({**MANIFEST, "publication": {}})
    two.rebuild()
    with two.new.database.read() as unit:
        assert publications.get(unit, two.rows()[0].id) is None


BAD: list[dict[str, Any]] = [
    {"study": "2.25.1"}, {"hospital": 5}, {"patient": []}, {"patient": {"domain": "d"}}, {"facts": {"a": 1}}, {"facts": None},
    {"series": [1]}, {"series": [{"uid": "1"}]}, {"part": -1}, {"part": "0"}, {"part": True}, {"version": 1 << 40},
    {"packed_at": "now"}, {"packed_at": -1}, {"first_at": float("nan")}, {"publication": [1]},
    {"publication": {"manifest_uid": 1}}, {"accession": None}]


@pytest.mark.parametrize("wrong", BAD)
def test_a_manifest_of_another_form_is_named_and_stops_no_other(two: Two, wrong: dict[str, Any]) -> None:
    bad = two.put({**MANIFEST, **wrong}, token="01")
    two.put({**MANIFEST, "study": "2.25.5"}, study="2.25.5")
    found = two.rebuild()
    assert (list(found.damaged), found.studies) == ([bad], 1)


SERIES = {"uid": "2.25.5", "modality": "CT", "body_part": "", "description": ""}


@pytest.mark.parametrize("wrong", [
    {"series": [SERIES, SERIES]}, {"hospital": "a" * 65}, {"accession": "X" * 65}, {"study_date": "2015-03-01"},
    {"patient": {"domain": "2" * 65, "value": "A-1"}}, {"patient": {"domain": "2.999.2.1", "value": "A" * 251}},
    {"publication": {**RECORD, "manifest_uid": "2" * 65}}, {"accession": "X\0"}])
def test_a_manifest_that_no_row_can_hold_is_named_and_stops_no_other(two: Two, wrong: dict[str, Any]) -> None:
    two.pack()
    bad = two.put({**MANIFEST, "study": "2.25.66", **wrong}, study="2.25.66")
    found = two.rebuild()
    assert (found.studies, set(found.damaged)) == (1, {bad})


def test_a_container_that_is_not_named_by_a_known_study_is_told_of(two: Two) -> None:
    two.pack()
    study_id = two.new.receive({"2.25.8.9": b"early"})
    assert two.new.packer.migrate(study_id) is Outcome.ARCHIVED     # before the rows are back
    with two.new.database.read() as unit:
        current = containers.current(unit, study_id)
    assert current is not None
    found = two.rebuild()
    assert (found.studies, found.known) == (0, 1)
    assert set(found.unused) == set(two.live.files()[1]) - {current.path}


def test_a_container_that_is_being_written_is_left_to_who_writes_it(two: Two) -> None:
    archive_of(two.live.sdfo).mkdir()
    study_id = two.new.receive(IMAGES)
    pack = two.new.sdfo.pack

    def beside(*args: Any) -> Any:
        packed = pack(*args)
        two.rebuild()
        return packed
    two.new.sdfo.pack = beside      # type: ignore[method-assign, assignment]
    assert two.new.packer.migrate(study_id) is Outcome.ARCHIVED
    assert {uid: two.new.read(uid) for uid in IMAGES} == IMAGES
    with two.new.database.read() as unit:
        assert [one.path for one in [containers.current(unit, study_id)] if one] == two.new.files()[1]


def test_damaged_containers_are_named_and_stop_no_other(two: Two) -> None:
    two.pack(study_uid="2.25.5")
    path = two.put(MANIFEST)
    file = archive_of(two.live.sdfo) / path
    file.write_bytes(file.read_bytes()[:-5])
    moved = archive_of(two.live.sdfo) / "ab/2.25.6-0f.seq"
    shutil.copy(archive_of(two.live.sdfo) / next(name for name in two.live.files()[1] if "2.25.5" in name), moved)
    found = two.rebuild()
    assert found.studies == 1
    assert sorted(found.damaged) == sorted([path, "ab/2.25.6-0f.seq"])


def test_a_rebuild_that_was_broken_off_goes_on(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.imaging.archiving.rebuild._STUDIES", 1)
    for number in range(4):
        two.pack(study_uid=f"2.25.{number}")
    opened = list[str]()
    store = two.new.sdfo.store
    open_file = store.open

    def away(name: str, *, cold: bool = False) -> Any:
        opened.append(name)
        if len(opened) == 3:
            raise Unavailable("archive")
        return open_file(name, cold=cold)

    monkeypatch.setattr(store, "open", away)
    with pytest.raises(Unavailable):
        two.rebuild()
    found = two.rebuild()
    assert found.known + found.studies == 4
    assert found.known > 0


def test_the_drill_says_what_would_not_come_back(two: Two) -> None:
    for number in range(3):
        two.pack(study_uid=f"2.25.{number}")
    clean = drill(two.live.database, two.live.sdfo, two.live.profile)
    assert (clean.rebuilt.studies, clean.different) == (3, 0)
    with two.live.database.write() as unit:
        row = studies.find_studies(unit, study_uid="2.25.0")[0]
        gone = containers.current(unit, studies.find_studies(unit, study_uid="2.25.1")[0].id)
        publications.request(unit, row.id, row.patient, 1.0)
        publications.publish(unit, row.id, manifest_uid="2.25.1000", entry_uuid="urn:uuid:1", digest="", entry_patient="")
    assert gone is not None
    two.live.sdfo.drop_container(gone.path)
    strange = two.put(MANIFEST)
    before = two.live.files()
    found = drill(two.live.database, two.live.sdfo, two.live.profile)
    assert {(one.study_uid, one.what) for one in found.differences} == {
        ("2.25.0", "entry_uuid, manifest_uid"), ("2.25.1", "lost"), (STUDY, "strange")}
    assert next(one.container for one in found.differences if one.what == "strange") == strange
    assert two.live.files() == before
