"""Copies of packed studies that come back to the online tier, and leave it again."""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from broker.app import imaging
from broker.app.core import Core
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.base import Space
from broker.archive.tiers.online import OnlineStore
from broker.archive.tiers.posix import PosixStore
from broker.cli import _log
from broker.cli.main import cli
from broker.config import profile as profiles
from broker.config.settings import load
from broker.db import schema
from broker.imaging.archiving.drop import Outcome
from broker.imaging.fetch import Retriever
from broker.imaging.store import containers, recalls, recording, retained, setbacks, settlements, studies
from broker.imaging.store.recalls import Recall
from broker.imaging.store.retained import PIN, Retained
from broker.model.errors import Unavailable
from broker.model.imaging import InstanceRef, StoredObject
from tests.helpers.archive import STUDY, Centre, archive_of
from tests.helpers.fetch import read

IMAGES = {f"{STUDY}.1.{n}": f"image {n}".encode() * 500 for n in range(3)}
LATE = {f"{STUDY}.1.{n}": f"late {n}".encode() * 500 for n in range(10, 12)}
DAY = 86400.0


@pytest.fixture
def centre(make: Callable[..., Centre]) -> Centre:
    return make()


def packed(centre: Centre, images: dict[str, bytes] = IMAGES) -> int:
    study_id = centre.receive(images)
    assert centre.packer.migrate(study_id) is Outcome.ARCHIVED
    return study_id


def rows(centre: Centre) -> list[Recall]:
    with centre.database.read() as unit:
        return recalls.listed(unit)


def away(centre: Centre) -> None:
    """Take the archive away."""
    folder = archive_of(centre.sdfo)
    folder.rename(folder.with_name("away"))


def fresh(centre: Centre) -> Sdfo:
    """A door that remembers no index."""
    return Sdfo(centre.sdfo.online, centre.sdfo.store)


def pictures(centre: Centre) -> dict[str, bytes]:
    centre.sdfo = fresh(centre)
    return {uid: centre.read(uid) for uid in IMAGES}


def near(centre: Centre) -> list[str]:
    return [path for path in centre.files()[0] if path.startswith(".recalled/")]


def test_a_recalled_study_is_read_without_the_archive(centre: Centre) -> None:
    study_id = packed(centre)
    told: list[tuple[int, int]] = []
    size = centre.migrator.recaller.recall(study_id, 7, lambda *step: told.append(step))
    assert told[-1] == (size, size)
    away(centre)
    assert pictures(centre) == IMAGES
    assert [(row.state, row.why, row.size, row.until) for row in rows(centre)] == [
        ("near", "asked", size, centre.now + 7 * DAY)]
    assert centre.study().tier == "archive", "the archive stays the master"


def test_a_study_that_is_not_packed_is_not_recalled(centre: Centre) -> None:
    assert centre.migrator.recaller.recall(centre.receive(IMAGES), 7) == 0
    assert rows(centre) == []


def test_a_copy_is_made_once_and_stays_for_the_longest_time_asked_for(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    study_id = packed(centre)
    size = centre.migrator.recaller.recall(study_id, 7)
    monkeypatch.setattr(Sdfo, "recall", None)
    assert centre.migrator.recaller.recall(study_id, 3) == size
    assert rows(centre)[0].until == centre.now + 7 * DAY
    assert centre.migrator.recaller.recall(study_id, 30) == size
    assert rows(centre)[0].until == centre.now + 30 * DAY


def test_a_container_that_is_not_what_was_packed_makes_no_copy(centre: Centre) -> None:
    study_id = packed(centre)
    file = archive_of(centre.sdfo) / centre.files()[1][0]
    data = bytearray(file.read_bytes())
    data[data.find(b"image 0")] ^= 1
    file.write_bytes(data)
    with pytest.raises(Unavailable, match="SHA-256"):
        centre.migrator.recaller.recall(study_id, 7)
    assert near(centre) == []


def test_a_copy_that_rots_is_given_to_nobody_and_goes(centre: Centre) -> None:
    noticed: list[object] = []
    study_id = packed(centre)
    centre.migrator.recaller.recall(study_id, 7)
    file = centre.sdfo.online.folder / near(centre)[0]
    data = bytearray(file.read_bytes())
    data[data.find(b"image 0")] ^= 1
    file.write_bytes(data)
    centre.sdfo.noticed = noticed.append
    first = next(iter(IMAGES))
    with pytest.raises(OSError, match="not those that were packed"):
        centre.read(first)
    assert centre.read(first) == IMAGES[first], "from the archive"
    assert (near(centre), noticed) == ([], []), "and nothing is wrong with the archive"
    centre.migrator.recaller.expire(centre.now)
    assert centre.migrator.recaller.run(centre.now) == 1, "it is made again"
    assert len(near(centre)) == 1


def test_a_study_that_is_read_often_comes_back_for_a_while(make: Callable[..., Centre]) -> None:
    centre = make(recall_reads=3, recall_within_days=4, recall_days=10)
    study_id = packed(centre)
    for day in (0, 4, 5, 5):
        assert centre.migrator.recaller.run(centre.now + day * DAY) == 0
        with centre.database.write() as unit:
            recalls.count_use(unit, study_id, centre.now + day * DAY)
    assert centre.migrator.recaller.run(centre.now + 5 * DAY) == 1
    assert [(row.state, row.why, row.until) for row in rows(centre)] == [("near", "reads", centre.now + 15 * DAY)]


@pytest.mark.parametrize("reads", [0, 1])
def test_retrieves_of_packed_studies_are_counted_where_a_rule_counts_them(
    make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch, reads: int,
) -> None:
    centre = make(recall_reads=reads)
    packed(centre)
    centre.now += DAY       # it came yesterday
    retriever = Retriever(centre.database, centre.coord, centre.sdfo, centre.profile)
    uid = next(iter(IMAGES))
    monkeypatch.setattr("broker.imaging.fetch.time.time", lambda: centre.now)
    result = retriever.retrieve([InstanceRef(STUDY, f"{STUDY}.1", uid, "1.2.840.10008.5.1.4.1.1.2", "2.999.1.3")])
    assert [read(one.source) for one in result.found.values()] == [IMAGES[uid]]
    assert centre.migrator.recaller.run(centre.now) == reads


def test_pinned_studies_come_back_and_stay(centre: Centre) -> None:
    packed(centre)
    with centre.database.write() as unit:
        retained.keep(unit, Retained(hospital="a", study_uid=STUDY, kind=PIN, reason="teaching", set_by="li", at=centre.now))
    assert centre.migrator.recaller.run(centre.now) == 1
    assert centre.migrator.recaller.expire(centre.now + 3650 * DAY) == 0
    with centre.database.write() as unit:
        retained.release(unit, STUDY, ["a"])
    assert centre.migrator.recaller.expire(centre.now + 3650 * DAY) == 1
    assert (near(centre), rows(centre)) == ([], [])


def test_a_copy_goes_when_its_time_is_over_and_nobody_reads_it(make: Callable[..., Centre]) -> None:
    centre = make(recall_days=5)
    study_id = packed(centre)
    centre.migrator.recaller.recall(study_id, 7)
    source = centre.sdfo.open(next(iter(places(centre))))
    with centre.database.write() as unit:
        studies.touch(unit, study_id, centre.now + 6 * DAY)
    assert centre.migrator.recaller.expire(centre.now + 8 * DAY) == 0
    before = centre.files()[1]
    assert centre.migrator.recaller.expire(centre.now + 12 * DAY) == 1
    assert (near(centre), rows(centre), centre.files()[1]) == ([], [], before)
    assert b"".join(source.chunks()) in IMAGES.values(), "who is reading goes on"
    assert pictures(centre) == IMAGES


def places(centre: Centre) -> Iterator[Any]:
    container = centre.files()[1][0]
    for uid in IMAGES:
        yield centre.sdfo.locate(container, uid)


def test_copies_go_first_when_the_disk_runs_full(make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch) -> None:
    centre = make(low_water=10.0, high_water=20.0)
    centre.migrator.recaller.recall(packed(centre), 7)
    other = centre.receive({"1.2.9.1": b"x"}, study_uid="1.2.9")
    monkeypatch.setattr(OnlineStore, "space", lambda _: Space(100, 5 if near(centre) else 50))
    centre.migrator.run_due(centre.now)
    assert near(centre) == []
    with centre.database.read() as unit:
        assert studies.get(unit, other).tier == "online", "there was room enough then"


def test_nothing_is_recalled_by_rule_onto_a_disk_that_is_full(
    make: Callable[..., Centre], monkeypatch: pytest.MonkeyPatch,
) -> None:
    centre = make(recall_reads=1, low_water=10.0, high_water=20.0)
    study_id = packed(centre)
    with centre.database.write() as unit:
        recalls.count_use(unit, study_id, centre.now)
    monkeypatch.setattr(OnlineStore, "space", lambda _: Space(100, 15))
    assert centre.migrator.recaller.run(centre.now) == 0


# --- recall and everything else


def test_late_objects_make_a_new_version_and_the_copy_follows(centre: Centre) -> None:
    study_id = packed(centre)
    centre.migrator.recaller.recall(study_id, 7)
    before = near(centre)
    centre.receive(LATE)
    assert {uid: centre.read(uid) for uid in IMAGES | LATE} == IMAGES | LATE
    assert centre.migrator.run_due(centre.now) == 1
    assert near(centre) == [], "the copy of what was replaced is gone with it"
    assert centre.migrator.recaller.run(centre.now) == 1
    assert near(centre) != before
    away(centre)
    centre.sdfo = fresh(centre)
    assert {uid: centre.read(uid) for uid in IMAGES | LATE} == IMAGES | LATE


def test_a_study_that_is_packed_again_while_it_is_copied_leaves_no_stale_copy(centre: Centre) -> None:
    study_id = packed(centre)

    def meanwhile(done: int, total: int) -> None:
        if done == total:
            centre.receive(LATE)
            assert centre.packer.migrate(study_id) is Outcome.ARCHIVED

    assert centre.migrator.recaller.recall(study_id, 7, meanwhile) == 0
    assert near(centre) == []
    assert centre.migrator.recaller.run(centre.now) == 1
    away(centre)
    assert pictures(centre) == IMAGES


def test_a_study_that_was_unpacked_for_a_decision_has_no_copy_any_more(centre: Centre) -> None:
    study_id = packed(centre)
    centre.migrator.recaller.recall(study_id, 7)
    with centre.database.write() as unit:
        container = containers.current(unit, study_id)
        assert container is not None
        assert settlements.unpacked(unit, study_id, container, [], centre.now)
    centre.sdfo.drop_container(container.path)
    assert (near(centre), rows(centre)) == ([], [])


@pytest.mark.parametrize("step", ["create", "rename", "copied"])
def test_a_recall_that_is_killed_leaves_nothing_that_is_read(centre: Centre, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study_id = packed(centre)

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    owner: Any = recalls if step == "copied" else PosixStore
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(owner, step, die)
        centre.migrator.recaller.recall(study_id, 7)
    assert pictures(centre) == IMAGES
    assert [row.state for row in rows(centre)] == ["wanted"]
    assert centre.migrator.recaller.run(centre.now) == 1
    away(centre)
    assert pictures(centre) == IMAGES
    assert len(near(centre)) == 1


def test_a_stop_ends_a_recall_under_way(centre: Centre) -> None:
    study_id = packed(centre)
    with centre.database.write() as unit:
        recalls.ask(unit, study_id, recalls.ASKED, centre.now, centre.now + DAY)
    centre.migrator.stop.set()
    assert centre.migrator.recaller.run(centre.now) == 0
    assert near(centre) == []
    with centre.database.read() as unit:
        assert setbacks.listed(unit) == []


def test_two_brokers_recall_a_study_once(make: Callable[..., Centre]) -> None:
    one, two = make(), make()
    study_id = packed(one)
    with one.database.write() as unit:
        recalls.ask(unit, study_id, recalls.ASKED, one.now, one.now + DAY)
    running = [threading.Thread(target=centre.migrator.recaller.run, args=(centre.now,)) for centre in (one, two)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert len(near(one)) == 1
    assert [row.state for row in rows(one)] == ["near"]
    with one.database.read() as unit:
        assert setbacks.listed(unit) == [], "to come second is no failure"


def test_a_recall_by_command_says_that_another_process_is_at_it(centre: Centre) -> None:
    study_id = packed(centre)
    with centre.coord.lock(f"recall:{study_id}", 60.0), pytest.raises(Unavailable, match="another process"):
        centre.migrator.recaller.recall(study_id, 7)


def test_a_recall_that_failed_is_listed_with_its_reason_and_tried_again(centre: Centre) -> None:
    study_id = packed(centre)
    with centre.database.write() as unit:
        recalls.ask(unit, study_id, recalls.ASKED, centre.now, centre.now + DAY)
    away(centre)
    assert centre.migrator.recaller.run(centre.now) == 0
    with centre.database.read() as unit:
        assert [(row.work, row.subject) for row in setbacks.listed(unit)] == [("recall", str(study_id))]
    folder = archive_of(centre.sdfo)
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name("away").rename(folder)
    assert centre.migrator.recaller.run(centre.now + 3601) == 1


# --- leftovers and clocks


def unfinished(folder: Path) -> Path:
    file = folder / ".tmp" / f"{STUDY}-0123456789ab"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"SEQ")
    return file


@pytest.mark.parametrize("where", ["archive", "near"])
def test_unfinished_files_are_swept_by_the_clock_of_their_store(
    centre: Centre, where: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = archive_of(centre.sdfo) if where == "archive" else centre.sdfo.online.folder / ".recalled"
    file = unfinished(folder)
    centre.now += 3650 * DAY        # ours is wrong
    monkeypatch.setattr("time.time", lambda: centre.now)
    assert centre.sweeper.sweep() == 0
    os.utime(file, (1.0, 1.0))
    assert centre.sweeper.sweep() == 1


def test_what_is_being_written_is_not_swept_though_the_clock_says_that_it_is_old(centre: Centre) -> None:
    study_id = centre.receive(IMAGES)
    found: list[int] = []

    def meanwhile(done: int, _total: int) -> None:
        if done == 3:
            found.append(centre.sweeper.sweep(-60.0))

    assert centre.packer.migrate(study_id, meanwhile) is Outcome.ARCHIVED
    assert found == [0]


# --- the commands


def test_studies_are_held_pinned_recalled_and_released_and_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "configure", lambda _: None)      # it would hold the runner's streams for all tests to come
    config = tmp_path / "broker.toml"
    config.write_text('profile = "demo"\ndata = "data"\n', "utf-8")
    (tmp_path / "data").mkdir()
    settings, profile = load(config), profiles.load("demo")
    with contextlib.closing(Core(settings, profile)) as core:
        schema.upgrade(core.database)
        sdfo = imaging.sdfo(core)
        part = sdfo.online.begin()
        part.write(b"image" * 100)
        kept = part.commit("a", STUDY, f"{STUDY}.1.1").online
        with core.database.write() as unit:
            recording.record(unit, [stored(kept.path, kept.size, kept.sha256)], profile)
            studies.mark(unit, 1, "quiet")
        assert imaging.migrator(core, sdfo).packer.migrate(1) is Outcome.ARCHIVED

    def run(*words: str, expect: int = 0) -> Any:
        done = CliRunner().invoke(cli, ["archive", *words, "--config", str(config)])
        assert done.exit_code == expect, done.output
        return json.loads(done.stdout.splitlines()[-1]) if "--json" in words else done.output

    assert "held: no copy of it is removed" in run("hold", STUDY, "--reason", "法院")
    (pinned,) = run("pin", STUDY, "--reason", "teaching", "--json")
    assert (pinned["kind"], pinned["hospital"], pinned["reason"]) == ("pin", "a", "teaching")
    assert run("recall", STUDY, "--days", "3", "--json")["bytes"] > 500
    assert "near for 3 days" in run("recall", STUDY, "--days", "3")
    listed = run("pins", "--json")
    assert [(row["kind"], row["reason"]) for row in listed["kept"]] == [("hold", "法院"), ("pin", "teaching")]
    assert [(row["state"], row["why"]) for row in listed["recalled"]] == [("near", "asked")]
    assert "法院" in run("pins")
    assert "is released (hold, pin)" in run("release", STUDY)
    assert "neither held nor pinned" in run("release", STUDY)
    for words in (("hold", "1.2.3", "--reason", "x"), ("recall", "1.2.3"), ("pin", STUDY, "--reason", "x", "--hospital", "b")):
        assert "there is no study" in run(*words, expect=2)
    audit = "".join(file.read_text("utf-8") for file in (settings.audit_folder).glob("audit-*.xml"))
    for code in ("ARCHIVE-HOLD", "ARCHIVE-PIN", "ARCHIVE-RECALL", "ARCHIVE-RELEASE"):
        assert code in audit
    assert "A-1" in audit, "whose study it is"


def stored(path: str, size: int, sha256: str) -> Any:
    return StoredObject(
        hospital="a", study_uid=STUDY, series_uid=f"{STUDY}.1", sop_uid=f"{STUDY}.1.1", sop_class="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax="1.2.840.10008.1.2.1", path=path, size=size, sha256=sha256, tags={"PatientID": "A-1"})
