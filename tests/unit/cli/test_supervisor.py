import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import sys
from broker.cli.supervisor import supervise
sys.exit(supervise({"child": [sys.executable, "-c", sys.argv[1]]}))
"""
CHILD = """
import os, sys, signal, pathlib
pathlib.Path({folder!r}, str(os.getpid())).touch()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while os.read(0, 100): pass
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PARENT, CHILD.format(folder=str(folder))], stderr=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL)


def wait_children(folder: Path, count: int) -> list[int]:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        pids = [int(file.name) for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime_ns)]
        if len(pids) >= count:
            return pids
        time.sleep(0.05)
    pytest.fail("no child")


def gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_killed_child_is_started_again_and_sigterm_stops_all(tmp_path: Path) -> None:
    parent = start(tmp_path)
    (first,) = wait_children(tmp_path, 1)
    os.kill(first, signal.SIGKILL)
    second = wait_children(tmp_path, 2)[-1]
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20) == 0
    assert gone(second)


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    parent = start(tmp_path)
    (child,) = wait_children(tmp_path, 1)
    parent.kill()
    parent.wait()
    assert gone(child)
