"""`broker archive`: what it says, as text and for programs, and its exit status."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.app.whole import App
from broker.archive.tiers.posix import PosixStore
from broker.cli import _log
from broker.cli.main import cli
from broker.config import profile as profiles
from broker.config.settings import load
from broker.db import schema
from broker.imaging.archiving.drop import Outcome
from broker.imaging.store import containers, studies
from broker.model.errors import Unavailable
from tests.helpers.archive import Centre
from tests.helpers.damage import flip, spoil

PICTURES = {f"2.25.9.{number}": bytes([number]) * 40_000 for number in range(1, 4)}


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """The parts of a broker with two packed studies, one of each hospital."""
    monkeypatch.setattr(_log, "configure", lambda _: None)      # it would hold the runner's streams for all tests to come
    (tmp_path / "broker.toml").write_text('profile = "demo"\ndata = "data"\n', "utf-8")
    (tmp_path / "data").mkdir()
    made = App(load(tmp_path / "broker.toml"), profiles.load("demo"))
    schema.upgrade(made.database)
    centre = Centre(tmp_path / "data", made.profile)
    for hospital, uid in (("a", "2.25.1"), ("b", "2.25.2")):
        study = centre.receive(PICTURES, hospital=hospital, study_uid=uid)
        assert centre.packer.migrate(study) is Outcome.ARCHIVED
    centre.close()
    yield made
    made.close()


def run(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["archive", *arguments, "--config", str(tmp_path / "broker.toml")])


def told(tmp_path: Path, *arguments: str, expect: int) -> dict[str, Any]:
    done = run(tmp_path, *arguments, "--json")
    assert done.exit_code == expect, done.output
    found: dict[str, Any] = json.loads(done.output.splitlines()[-1])      # what the log says comes before it
    return found


def container(app: App, uid: str) -> str:
    with app.database.read() as unit:
        found = containers.current(unit, studies.find_studies(unit, study_uid=uid)[0].id)
    assert found is not None
    return found.path


def test_a_whole_archive(app: App, tmp_path: Path) -> None:
    found = told(tmp_path, "verify", "--days", "0", expect=0)
    assert (found["containers"], found["left"], found["damaged"], found["stopped"]) == (2, 0, [], "")
    assert found["bytes"] > 2 * 3 * 40_000
    assert told(tmp_path, "verify", expect=0)["containers"] == 0, "it was read a moment ago"
    assert "1 of 1 containers read" in run(tmp_path, "verify", "--study", "2.25.2").output
    assert "1 of 1 containers read" in run(tmp_path, "verify", "--sample", "1", "--rate", "100").output
    assert app.verifier.todo(days=1.0) == []


def test_a_damaged_picture_is_named_and_the_status_is_one(app: App, tmp_path: Path) -> None:
    path = container(app, "2.25.1")
    spoil(app.sdfo, path, "2.25.9.2")
    found = told(tmp_path, "verify", "--study", "2.25.1", expect=1)
    one, = found["damaged"]
    assert (one["container"], one["hospital"], one["study"], one["images"]) == (path, "a", "2.25.1", ["2.25.9.2"])
    assert (one["state"], one["mended"]) == ("damaged", False)
    shown = run(tmp_path, "verify", "--mend")
    assert shown.exit_code == 1
    assert "2.25.9.2" in shown.output
    assert "not mended: a container (1 of its 3 pictures have no good copy: hospital a has no PACS" in shown.output
    status = told(tmp_path, "status", expect=1)
    assert (status["damaged_images"], status["damaged_containers"], status["mended"]) == (1, 1, 0)


def test_a_container_that_can_be_mended_is(app: App, tmp_path: Path) -> None:
    flip(tmp_path / "data" / "archive" / container(app, "2.25.2"), 40)
    found = told(tmp_path, "verify", "--days", "0", "--mend", expect=0)
    assert [(one["study"], one["images"], one["mended"]) for one in found["damaged"]] == [("2.25.2", [], True)]
    assert told(tmp_path, "verify", "--days", "0", expect=0)["damaged"] == []
    status = told(tmp_path, "status", expect=0)
    assert (status["damaged_images"], status["damaged_containers"], status["mended"]) == (0, 0, 1)


def test_a_store_that_is_away_stops_it(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> object:
        raise Unavailable("archive")

    assert isinstance(app.sdfo.store, PosixStore)
    monkeypatch.setattr(PosixStore, "open", fail)
    monkeypatch.setattr(PosixStore, "health", lambda _: "connection refused")
    found = told(tmp_path, "verify", "--days", "0", expect=1)
    assert (found["containers"], found["left"], found["damaged"]) == (0, 2, [])
    assert found["stopped"] == "archive is not available"
    status = told(tmp_path, "status", expect=1)
    assert (status["trouble"], status["space"]) == ("connection refused", None)
    assert status["total"]["images"] == 6
    assert "store: connection refused" in run(tmp_path, "status").output


def test_an_unknown_study_is_wrong_use(app: App, tmp_path: Path) -> None:
    assert app.verifier.todo(study_uid="2.25.77") == []
    assert run(tmp_path, "verify", "--study", "2.25.77").exit_code == 2


def test_the_status_counts_and_forecasts(app: App, tmp_path: Path) -> None:
    found = told(tmp_path, "status", expect=0)
    assert (found["trouble"], found["damaged_containers"]) == ("", 0)
    assert found["space"]["total"] > found["space"]["free"] > 0
    assert found["hospitals"].keys() == {"a", "b"}
    assert [found["hospitals"][key][name] for key in "ab" for name in ("containers", "images", "heap")] == [1, 3, 298] * 2
    assert found["total"]["bytes"] == sum(file.stat().st_size for file in (tmp_path / "data" / "archive").rglob("*.seq"))
    assert found["namenode"] == {"objects_used": 4, "objects_spared": 8}
    # packed within one day: as much again on each of 365
    year = found["in_a_year"]
    assert (year["days"], year["total"]["containers"], year["hospitals"]["a"]["images"]) == (1.0, 732, 1098)
    assert year["total"]["disk"] == year["total"]["bytes"] == 366 * found["total"]["bytes"]
    assert "NameNode objects: 4 used, 8 spared" in run(tmp_path, "status").output
    assert app.sdfo.store.health() == ""


def test_a_container_is_shown(app: App, tmp_path: Path) -> None:
    path = container(app, "2.25.1")
    found = told(tmp_path, "inspect", path, "--prove", expect=0)
    assert (found["version"], found["images"], found["manifest"]["hospital"]) == (2, 3, "a")
    assert [one["uid"] for one in found["series"][0]["images"]] == list(PICTURES)
    file = tmp_path / "data/archive" / path
    shown = run(tmp_path, "inspect", str(file))
    assert (shown.exit_code, "hospital: a" in shown.output, "3 images" in shown.output) == (0, True, True)
    one = json.loads(run(tmp_path, "inspect", str(file), "--image", "2.25.9.2").output)
    assert (one["image"], one["size"], one["attributes"]) == ("2.25.9.2", 40_000, {})
    assert run(tmp_path, "inspect", str(file), "--image", "1.2.3").exit_code == 2


def test_a_container_that_is_none_is_said(app: App, tmp_path: Path) -> None:
    path = container(app, "2.25.1")
    spoil(app.sdfo, path, "2.25.9.2")
    assert run(tmp_path, "inspect", path).exit_code == 0
    proven = run(tmp_path, "inspect", path, "--prove")
    assert (proven.exit_code, "2.25.9.2" in proven.output) == (1, True)
    assert run(tmp_path, "inspect", "ab/1.2-00.seq").exit_code == 1
    assert run(tmp_path, "inspect", "/etc/hostname").exit_code == 1


def test_the_index_is_rebuilt_and_drilled(app: App, tmp_path: Path) -> None:
    assert told(tmp_path, "drill", expect=0)["different"] == 0
    app.close()
    for file in (tmp_path / "data").glob("broker.db*"):
        file.unlink()
    found = told(tmp_path, "rebuild-index", expect=0)
    assert (found["containers"], found["studies"], found["images"], found["known"]) == (2, 2, 6, 0)
    assert told(tmp_path, "rebuild-index", expect=0)["known"] == 2
    assert told(tmp_path, "verify", "--days", "0", expect=0)["containers"] == 2
    (tmp_path / "data/archive" / found_path(tmp_path)).write_bytes(b"SEQ")
    assert len(told(tmp_path, "rebuild-index", expect=1)["damaged"]) == 1
    drilled = told(tmp_path, "drill", expect=1)
    assert [one["what"] for one in drilled["differences"]] == ["lost"]
    assert "would not come back" in run(tmp_path, "drill").output


def found_path(tmp_path: Path) -> str:
    """A container of the archive."""
    return next(str(file.relative_to(tmp_path / "data/archive")) for file in (tmp_path / "data/archive").rglob("*.seq"))
