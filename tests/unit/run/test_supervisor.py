import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from broker.run import supervisor
from tests.helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.outside

PARENT = """
import sys
from broker.run.supervisor import supervise
sys.exit(supervise({"child": [sys.executable, "-c", sys.argv[1]]}))
"""
CHILD = """
import os, sys, signal, pathlib
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path({folder!r}, str(os.getpid())).touch()
while os.read(0, 100): pass
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PARENT, CHILD.format(folder=str(folder))], stderr=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL)


def wait_children(folder: Path, count: int) -> list[int]:
    eventually(lambda: len(list(folder.iterdir())) >= count)
    return [int(file.name) for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime_ns)]


def await_end(pid: int) -> None:
    eventually(lambda: not psutil.pid_exists(pid))


def test_a_killed_child_is_started_again_and_sigterm_stops_all(tmp_path: Path) -> None:
    parent = start(tmp_path)
    (first,) = wait_children(tmp_path, 1)
    os.kill(first, signal.SIGKILL)
    second = wait_children(tmp_path, 2)[-1]
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(PATIENCE) == 0
    await_end(second)


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    parent = start(tmp_path)
    (child,) = wait_children(tmp_path, 1)
    parent.kill()
    parent.wait()
    await_end(child)


@pytest.mark.parametrize(("lived", "pauses"), [
    (1.0, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]), (6.0, [0.25, 0.25, 0.25]),
])
def test_a_child_that_ran_well_comes_back_at_once_and_one_that_does_not_waits_longer(
    monkeypatch: pytest.MonkeyPatch, lived: float, pauses: list[float],
) -> None:
    now = 100.0
    monkeypatch.setattr("broker.run.supervisor.time.monotonic", lambda: now)
    child = supervisor._Child("child", [sys.executable, "-c", ""])
    seen = []
    for _ in pauses:
        supervisor._tend(child)
        assert child.process is not None
        child.process.wait()
        now += lived
        supervisor._tend(child)
        seen.append(child.due - now)
        now = child.due
    assert seen == pauses
