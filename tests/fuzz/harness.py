"""Fuzzing of everything that reads what others send: targets, their golden inputs, and the watch over worker processes.

A target's reader may give a value or raise one of its allowed errors (`BrokerError` always), within bounds of time and
memory per input; it may not log an error or a warning either. Anything else is a finding: the input and its traceback
are kept as build/fuzz/<target>/<hash>.bin and .txt. A worker process that hangs, dies or outgrows its memory is ended
and replaced, and what it was reading is the finding.
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
BUILD = ROOT / "build" / "fuzz"

CPU_LIMIT = 2.0             # seconds of one input, asked for in the worker; it names the line that was slow
_CPU_HANG = 8.0             # seconds after which the worker itself is ended: it was deep in C
_WALL_HANG = 90.0           # the same where it waits for something
_START = 300.0              # seconds to import and set up
_LONGEST = 1 << 20

Reader = Callable[[bytes], str]
"""Reads one input and gives a word or two on what it was; inputs of a new kind are kept to mutate further."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader. `make` gives it, set up in a scratch folder; `golden` are folders of tests/golden.

    `allowed` are outcomes beside `BrokerError`; `slope` is seconds per byte beyond a quarter of a second, `memory` the
    bytes an input may need beyond what the worker had before, `short` the inputs of a short pass.
    """

    name: str
    make: Callable[[Path], Reader]
    golden: tuple[str, ...]
    words: tuple[bytes, ...] = ()
    allowed: tuple[type[Exception], ...] = ()
    longest: int = 1 << 16
    slope: float = 5e-6
    memory: int = 256 << 20
    short: int = 300


def seeds(target: Target) -> dict[str, bytes]:
    """Give the golden inputs of a target by `folder/file`; every one has its origin told in origin.toml."""
    found: dict[str, bytes] = {}
    for folder in target.golden:
        origins = tomllib.loads((GOLDEN / folder / "origin.toml").read_text("utf-8"))
        found |= {f"{folder}/{name}": (GOLDEN / folder / name).read_bytes() for name in origins}
    return found


@dataclass(frozen=True, slots=True)
class Finding:
    """What went wrong, and the file that holds the input; `trace` is beside it with the suffix .txt."""

    target: str
    what: str
    file: Path


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


class Board:
    """The memory a worker and its watcher share: counts, since when which input is being read."""

    _HEAD = struct.Struct("<QQQQddI")

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the file."""
        path.write_bytes(bytes(cls._HEAD.size + _LONGEST))
        return cls(path)

    def begin(self, counts: Sequence[int], data: bytes) -> None:
        """Tell what is read now."""
        self._HEAD.pack_into(self._map, 0, *counts, time.monotonic(), time.process_time(), len(data))
        self._map[self._HEAD.size:self._HEAD.size + len(data)] = data

    def look(self) -> tuple[list[int], float, float, bytes]:
        """Give the counts, the moment (monotonic) and the worker's CPU seconds when the input was begun, and the input."""
        *counts, wall, cpu, length = self._HEAD.unpack_from(self._map)
        return counts, wall, cpu, self._map[self._HEAD.size:self._HEAD.size + length]

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()


def keep(target: str, what: str, data: bytes, trace: str, folder: Path | None = None) -> Finding:
    """Write a finding down; the same thing found again has the same name."""
    folder = (folder or BUILD) / target
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha1(what.encode(), usedforsecurity=False).hexdigest()[:12]}.bin"
    file.write_bytes(data)
    file.with_suffix(".txt").write_text(f"{what}\n{trace}", "utf-8")
    return Finding(target, what, file)


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
        if whole or left <= 1 or number > 20:
            break
    report.findings, report.seconds = list(findings.values()), time.monotonic() - began
    return report


def _worker(
    target: Target, seconds: float, seed: int, inputs: int, folder: Path | None, report: Report,
) -> tuple[list[Finding], bool]:
    """Run one worker to its end; give its findings, and whether it came to its end by itself."""
    with _scratch() as scratch:
        board = Board.create(scratch / "board")
        board.begin((0, 0, 0, 0), b"")
        command = [sys.executable, "-m", "tests.fuzz.worker", target.name, str(scratch), str(seconds), str(seed), str(inputs)]
        with (scratch / "out").open("wb") as out:
            process = subprocess.Popen([*command, str(folder or BUILD)], stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
            try:
                reason = _watch(process, board)
            finally:
                process.kill()
                process.wait()
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


def _watch(process: "subprocess.Popen[bytes]", board: Board) -> str:
    """Wait for the worker; give what ended it, empty when it came to its own end."""
    limit = time.monotonic() + _START
    hanging = 0
    while process.poll() is None:
        time.sleep(0.05)
        counts, wall, cpu, _ = board.look()
        now = time.monotonic()
        if not (counts[0] and wall and cpu):        # not begun, or just being written
            if now > limit and not counts[0]:
                return "it does not start"
            continue
        late = now - wall > _WALL_HANG or _cpu(process.pid) - cpu > _CPU_HANG
        hanging = hanging + 1 if late else 0
        if hanging > 2:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGUSR1)     # the worker writes where it is
            time.sleep(0.5)
            return "hang"
    return "" if process.returncode == 0 else f"the worker ended with {process.returncode}"


def _cpu(pid: int) -> float:
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
