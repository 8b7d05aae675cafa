"""`broker backlog`: what waits, of whom, and why."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.app.whole import App
from broker.cli import _log
from broker.cli.main import cli
from broker.config import profile as profiles
from broker.config.settings import load
from broker.db import schema
from broker.imaging.store import publications, recording, setbacks, studies
from broker.model.imaging import StoredObject
from tests.helpers.rawdicom import CT


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "broker.toml"
    file.write_text('profile = "demo"\ndata = "data"\n', "utf-8")
    (tmp_path / "data").mkdir()
    return file


def test_it_lists_what_does_not_go_on_with_its_reason(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "configure", lambda _: None)      # it would hold the runner's streams for all tests to come
    app = App(load(config), profiles.load("demo"))
    schema.upgrade(app.database)
    with app.database.write() as unit:
        for number in range(3):
            item = StoredObject(
                hospital="a", study_uid=f"2.25.{number}", series_uid="2.25.9", sop_uid=f"2.25.9.{number}", sop_class=CT,
                transfer_syntax="1.2.840.10008.1.2.1", path=f"a/{number}", size=1, sha256="0" * 64, tags={"PatientID": "P"})
            recording.record(unit, [item], app.profile, 0.0)
            found = studies.study(unit, "a", item.study_uid)
            assert found is not None
            publications.request(unit, found.id, found.patient, 0.0)
            if number == 1:
                publications.fail(unit, found.id, "MissingPatientId")
            if number == 2:
                publications.retry(unit, found.id, 50.0, "repository is not available")
        setbacks.note(unit, "pack", "7", "a", "archive is not available", 100.0)
    app.close()
    shown = CliRunner().invoke(cli, ["backlog", "--json", "--config", str(config)])
    assert shown.exit_code == 1, "something waits for a person"
    assert [(row["work"], row["subject"], row["state"], row["reason"], row["next_at"]) for row in json.loads(shown.output)] == [
        ("publish", "2.25.1", "failed", "MissingPatientId", 0.0),
        ("publish", "2.25.2", "due", "repository is not available", 50.0),
        ("pack", "7", "due", "archive is not available", 100.0 + setbacks.FIRST_DELAY)]
    plain = CliRunner().invoke(cli, ["backlog", "--config", str(config)])
    assert "MissingPatientId" in plain.output
