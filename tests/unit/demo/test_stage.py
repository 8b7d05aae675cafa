import os
import shutil
import socket
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from broker.demo import data as demo_data
from broker.demo import pacs as demo_pacs
from broker.demo import stage as demo_stage
from broker.demo.pacs import Node
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from tests.helpers.ports import free_port

pytestmark = pytest.mark.outside

PLAN = demo_data.StudyPlan(hospital="b", patient=PatientId("2.999.3.1", "B-1"), day=date(2026, 3, 1), slices=2, pixels=32)


def test_a_busy_default_port_is_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert demo_stage._free(port) not in (port, 0)
    assert demo_stage._free(port) == port


def test_each_run_begins_in_an_empty_folder_and_two_runs_do_not_share_one(tmp_path: Path) -> None:
    with demo_stage._folder(tmp_path) as first:
        (first / "left").touch()
        with demo_stage._folder(tmp_path) as second:
            assert first != second
            assert list(second.iterdir()) == []
    assert (first / "left").exists()
    with demo_stage._folder(tmp_path) as again:
        assert again == first
        assert list(again.iterdir()) == []


def test_the_demonstration_does_not_see_another_installations_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_DATABASE__URL", "postgresql://production")
    with demo_stage._own_environment():
        assert not any(name.startswith("BROKER_") for name in os.environ)
    assert os.environ["BROKER_DATABASE__URL"] == "postgresql://production"


@pytest.mark.parametrize("orthanc", [pytest.param(True, marks=pytest.mark.peer("orthanc")), False], ids=["orthanc", "qrscp"])
def test_a_pacs_takes_a_study_and_stops(orthanc: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not orthanc:
        monkeypatch.setattr(shutil, "which", lambda _name, path="": None)
    study = demo_data.write_study(PLAN, tmp_path / "study")
    node = Node(ae_title="PACSB", port=free_port())
    with demo_pacs.pacs(tmp_path / "a 100% pacs", node, Node(ae_title="BROKER", port=free_port())) as pacs:
        assert pacs.program == ("Orthanc" if orthanc else "pynetdicom's qrscp")
        demo_pacs.send(study.folder, pacs.node, "MODALITY")
        stored = [file for file in (tmp_path / "a 100% pacs").rglob("*") if file.is_file() and b"DICM" in file.read_bytes()[:132]]
        assert len(stored) == 2
    with socket.socket() as probe:
        assert probe.connect_ex((node.host, node.port)) != 0


@pytest.mark.parametrize("dcmtk", [pytest.param(True, marks=pytest.mark.peer("dcmtk")), False])
def test_a_receiver_that_is_not_there_is_unavailable(dcmtk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not dcmtk:
        monkeypatch.setattr(shutil, "which", lambda _name, path="": None)
    study = demo_data.write_study(PLAN, tmp_path)
    with pytest.raises(Unavailable, match="NOBODY"):
        demo_pacs.send(study.folder, Node(ae_title="NOBODY", port=free_port()), "ME")


def test_a_program_that_dies_at_once_is_told_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no')"]
    with demo_pacs.running(command, tmp_path / "log") as process, pytest.raises(Unavailable, match="it"):
        demo_pacs.await_port("127.0.0.1", free_port(), process, "it", patience=3600.0)
    assert (tmp_path / "log").read_text() == "no\n"


def test_a_running_program_is_stopped_with_its_context(tmp_path: Path) -> None:
    with demo_pacs.running([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log") as process:
        assert process.poll() is None
    assert isinstance(process, subprocess.Popen)
    assert process.returncode != 0
