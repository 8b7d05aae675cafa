import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.run.supervisor import Child
from tests.helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.outside

PARENT = """
import os, pathlib, signal, sys, time
from broker.run.supervisor import supervise
folder = pathlib.Path(sys.argv[1])
name = supervise(sys.argv[3:])
if name is not None:
    def end(*_):
        (folder / f"told-{os.getpid()}").touch()
        exec(ENDING)
    ENDING = sys.argv[2]
    signal.signal(signal.SIGTERM, end)
    if "descriptors" in ENDING:
        (folder / "descriptors").write_text(" ".join(sorted(os.listdir("/proc/self/fd"), key=int)))
    (folder / f"{name}-{os.getpid()}").touch()
    while os.read(0, 100): pass
"""
ENDS = "sys.exit(0)"
SLOW = "time.sleep(1.5); (folder / f'ended-{os.getpid()}').touch(); sys.exit(0)"


@contextmanager
def supervised(folder: Path, ending: str = ENDS, names: tuple[str, ...] = ("child",)) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(folder), ending, *names], stderr=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def started(folder: Path, name: str = "child") -> list[int]:
    """Return the pids of the children so far, in order."""
    files = sorted(folder.glob(f"{name}-*"), key=lambda file: file.stat().st_mtime_ns)
    return [int(file.name.rpartition("-")[2]) for file in files]


def wait_children(folder: Path, count: int, name: str = "child") -> list[int]:
    eventually(lambda: len(started(folder, name)) >= count)
    return started(folder, name)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_killed_child_is_started_again_and_sigterm_stops_all(tmp_path: Path) -> None:
    with supervised(tmp_path, names=("child", "other")) as parent:
        (first,) = wait_children(tmp_path, 1)
        (other,) = wait_children(tmp_path, 1, "other")
        os.kill(first, signal.SIGKILL)
        second = wait_children(tmp_path, 2)[-1]
        assert started(tmp_path, "other") == [other]
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(PATIENCE) == 0
        assert gone(second)
        assert gone(other)
        assert {file.name for file in tmp_path.glob("told-*")} == {f"told-{second}", f"told-{other}"}


def test_a_second_signal_does_not_shorten_the_time_to_stop(tmp_path: Path) -> None:
    with supervised(tmp_path, SLOW) as parent:
        (child,) = wait_children(tmp_path, 1)
        parent.send_signal(signal.SIGTERM)
        eventually((tmp_path / f"told-{child}").exists)
        parent.send_signal(signal.SIGTERM)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(PATIENCE) == 0
        assert (tmp_path / f"ended-{child}").exists(), "it was killed"


def test_a_child_that_does_not_stop_is_killed_in_the_end(tmp_path: Path) -> None:
    program = "from broker.run import supervisor\nsupervisor._STOP_SECONDS = 0.5\n" + PARENT
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path), "pass", "child"], stderr=subprocess.DEVNULL) as parent:
        (child,) = wait_children(tmp_path, 1)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(PATIENCE) == 0
        assert gone(child)


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    """Also the first one, when others were forked after it: none of them holds the end of its pipe."""
    with supervised(tmp_path, names=("child", "other")) as parent:
        children = wait_children(tmp_path, 1) + wait_children(tmp_path, 1, "other")
        parent.kill()
        parent.wait()
        eventually(lambda: all(gone(child) for child in children))


def test_a_child_holds_nothing_of_the_supervisor_but_its_standard_input(tmp_path: Path) -> None:
    with supervised(tmp_path, "sys.exit(0)  # descriptors"):
        wait_children(tmp_path, 1)
        held = (tmp_path / "descriptors").read_text().split()
        assert held[:3] == ["0", "1", "2"]
        assert len(held) == 4, "and the folder that was listed"


def test_a_supervisor_that_was_started_with_signals_of_children_ignored_sees_them_end(tmp_path: Path) -> None:
    program = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + PARENT
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path), ENDS, "child"], stderr=subprocess.DEVNULL) as parent:
        (first,) = wait_children(tmp_path, 1)
        os.kill(first, signal.SIGKILL)
        wait_children(tmp_path, 2)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(PATIENCE) == 0


def test_a_child_that_cannot_be_forked_is_tried_again_and_the_others_go_on(tmp_path: Path) -> None:
    """What ends a role may be that memory is short, which a new one needs, too."""
    program = """
import errno, os
fork, failures = os.fork, [errno.ENOMEM, errno.EAGAIN]
def try_to_fork():
    if failures and list(pathlib.Path(sys.argv[1]).glob("other-*")):
        raise OSError(failures.pop(), "none is left")
    return fork()
os.fork = try_to_fork
""" + PARENT
    with subprocess.Popen([sys.executable, "-c", "import pathlib, sys" + program, str(tmp_path), ENDS, "child", "other"],
                          stderr=subprocess.DEVNULL) as parent:
        (first,) = wait_children(tmp_path, 1)
        (other,) = wait_children(tmp_path, 1, "other")
        os.kill(first, signal.SIGKILL)
        wait_children(tmp_path, 2)
        assert started(tmp_path, "other") == [other]
        assert not gone(other)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(PATIENCE) == 0


@pytest.mark.parametrize(("lived", "pauses"), [
    (1.0, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]), (6.0, [0.25, 0.25, 0.25]),
])
def test_a_child_that_ran_well_comes_back_at_once_and_one_that_does_not_waits_longer(lived: float, pauses: list[float]) -> None:
    now, child, seen = 100.0, Child("child"), []
    for _ in pauses:
        child.pid, child.started = 7, now
        now += lived
        child.ended(now)
        assert child.pid == 0
        seen.append(child.due - now)
        now = child.due
    assert seen == pauses


def test_children_that_end_at_once_are_started_again_and_again_and_the_supervisor_still_stops(tmp_path: Path) -> None:
    program = PARENT.replace("    while os.read(0, 100): pass", "    sys.exit(3)")
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path), ENDS, "child"], stderr=subprocess.DEVNULL) as parent:
        wait_children(tmp_path, 3)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(PATIENCE) == 0
