"""The broker as a program: `broker --version`, start, rest and stop of `broker serve`. Lower is better, the peer is a bound.

As `make demo` installs it: numpy, which only tests need and pydicom would import, is hidden from the measured processes, and
compiled modules are kept whatever the environment says of them; the runner's first round, which is not counted, compiles.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.bench import scene
from tests.bench.harness import Figure, Notes, Pair, Round

_BROKER = [sys.executable, "-m", "broker"]
_REST = 3.0             # seconds from the first good answer of /healthz until the broker counts as at rest
_PATIENCE = 120.0
_VERSION, _READY, _STOP, _MEMORY, _SUPERVISOR = 300.0, 2000.0, 1000.0, 350.0, 30.0      # ms, ms, ms, MB, MB


def _environment(where: Path) -> dict[str, str]:
    hidden = where / "hidden"
    hidden.mkdir(exist_ok=True)
    (hidden / "numpy.py").write_text("raise ImportError('hidden')\n", "utf-8")
    found = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**found, "PYTHONPATH": str(hidden), "PYTHONPYCACHEPREFIX": str(where / "compiled")}


@contextlib.contextmanager
def _version(_notes: Notes) -> Iterator[Round]:
    with scene.folder() as where:
        environment = _environment(where)

        def once() -> Pair:
            with subprocess.Popen([*_BROKER, "--version"], env=environment, stdout=subprocess.DEVNULL) as child:
                _, status, used = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            return 1000 * (used.ru_utime + used.ru_stime), _VERSION
        yield once


class _Served:
    """One run of `broker serve` in a folder: seconds until everything answers, memory at rest, seconds until it is gone."""

    def __init__(self, where: Path) -> None:
        self.settings = scene.settings(where)
        self._command = [*_BROKER, "serve", "--config", str(where / "broker.toml")]
        self._where, self._environment = where, _environment(where)
        self.ready = self.stopped = self.memory = self.supervisor = 0.0
        self.used: list[float] = []     # seconds of processor time of all processes until everything answered

    def run(self, rest: float = 0.0) -> None:
        """Start, rest, stop."""
        began = time.monotonic()
        with (self._where / "serve.log").open("ab") as log:
            process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._await(process)
            self.ready = time.monotonic() - began
            self.used.append(sum(map(_processor_time, (process.pid, *_descendants(process.pid)))))
            time.sleep(rest)
            self.supervisor, self.memory = _pss(process.pid), sum(map(_pss, (process.pid, *_descendants(process.pid))))
        finally:
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            status = process.wait(_PATIENCE)
        self.stopped = time.monotonic() - began
        assert status == 0

    def _await(self, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            assert process.poll() is None, (self._where / "serve.log").read_text("utf-8", "replace")[-4000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(
                    f"http://127.0.0.1:{self.settings.server.http_port}/healthz", timeout=5):
                return
            time.sleep(0.01)
        raise AssertionError("the broker is not ready")


def _descendants(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _processor_time(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system + used.children_user + used.children_system)


def _pss(pid: int) -> float:
    """Return a process's share of the memory it holds, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@contextlib.contextmanager
def _serve(notes: Notes, rest: float, figure: Callable[[_Served], Pair]) -> Iterator[Round]:
    with scene.folder() as where:
        served = _Served(where)
        notes.add("SQLite, one process of each role")

        def once() -> Pair:
            served.run(rest)
            return figure(served)
        yield once
        notes.add(f"{statistics.median(served.used):.2f} s of processor time until it answers")


def _figure(name: str, unit: str, bound: float, rest: float, value: Callable[[_Served], float]) -> Figure:
    return Figure(name, "bound", unit, 1.0, 1.3, lambda notes: _serve(notes, rest, lambda served: (value(served), bound)),
                  runs=3, lower=True)


FIGURES: list[Figure] = [
    Figure("start.version", "bound", "ms of processor time", 1.0, 2.0, _version, lower=True),
    _figure("start.ready", "ms to 200 of /healthz", _READY, 0.0, lambda served: 1000 * served.ready),
    _figure("start.stop", "ms", _STOP, _REST, lambda served: 1000 * served.stopped),
    _figure("start.memory", "MB (PSS)", _MEMORY, _REST, lambda served: served.memory),
    _figure("start.memory.supervisor", "MB (PSS)", _SUPERVISOR, _REST, lambda served: served.supervisor),
]
