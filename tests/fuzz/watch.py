"""The watch over worker processes: it ends what hangs or dies, starts another, and counts.

Workers are forked from a process that has everything imported and does nothing else.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.fuzz import worker
from tests.fuzz.harness import BUILD, Board, Finding, Target, keep

_HANG = 4.0                 # times the CPU limit of a target, after which its worker is ended: it was deep in C
_WALL_HANG = 90.0           # seconds after which it is ended where it waits for something
_START = 300.0              # seconds to set up

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.fuzz.worker"])


@dataclass(slots=True)
class Report:
    """What a target's run came to."""

    target: str
    inputs: int = 0
    values: int = 0
    refused: int = 0
    kinds: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def run(target: Target, seconds: float, seed: int, folder: Path | None = None, inputs: int = 0) -> Report:
    """Fuzz one target for some seconds, or for a number of inputs; `folder` takes the findings (else build/fuzz)."""
    report, began, number = Report(target.name), time.monotonic(), 0
    findings: dict[str, Finding] = {}
    while True:
        left = seconds - (time.monotonic() - began)
        lacking = inputs - report.inputs if inputs else 0
        found, whole = _worker(target, left, seed + number, lacking, folder, report)
        findings |= {finding.what: finding for finding in found}
        number += 1
        if whole or number > 20 or seconds - (time.monotonic() - began) <= 1:
            break
    report.findings, report.seconds = list(findings.values()), time.monotonic() - began
    return report


def _worker(
    target: Target, seconds: float, seed: int, inputs: int, folder: Path | None, report: Report,
) -> tuple[list[Finding], bool]:
    """Run one worker to its end; return its findings, and whether it came to its end by itself."""
    with _scratch() as scratch:
        board = Board.create(scratch / "board")
        board.begin((0, 0, 0, 0), b"")
        process = _SERVER.Process(
            target=worker.main, args=(target.name, scratch, folder or BUILD, seed), kwargs={"seconds": seconds, "inputs": inputs})
        process.start()
        try:
            reason = _watch(process, board, target)
        finally:
            process.kill()
            process.join()
            process.close()
        counts, _, _, data = board.look()
        board.close()
        report.inputs, report.values, report.refused = (
            before + now for before, now in zip((report.inputs, report.values, report.refused), counts[:3], strict=True))
        report.kinds = max(report.kinds, counts[3])
        said = (scratch / "out").read_text("utf-8", "replace")
    found = [
        Finding(target.name, what, Path(file)) for what, file in
        (json.loads(line.removeprefix("FINDING ")) for line in said.splitlines() if line.startswith("FINDING "))]
    if reason:
        found.append(keep(target.name, reason, data, said[-20_000:], folder))
    return found, not reason


def _watch(process: ForkServerProcess, board: Board, target: Target) -> str:
    """Wait for the worker; return what ended it, empty when it came to its own end."""
    limit = time.monotonic() + _START
    hanging = 0
    while process.is_alive():
        time.sleep(0.05)
        counts, wall, cpu, _ = board.look()
        now = time.monotonic()
        if not (counts[0] and wall and cpu):        # not begun, or just being written
            if now > limit and not counts[0]:
                return "it does not start"
            continue
        late = now - wall > _WALL_HANG or _cpu(process.pid) - cpu > _HANG * target.cpu
        hanging = hanging + 1 if late else 0
        if hanging > 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGUSR1)     # the worker writes where it is
            time.sleep(0.5)
            return "hang"
    return "" if process.exitcode == 0 else f"the worker ended with {process.exitcode}"


def _cpu(pid: int | None) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
