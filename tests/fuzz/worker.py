"""The process that reads."""

import faulthandler
import gc
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

import structlog

from broker.model.errors import BrokerError
from broker.wire.quiet_pydicom import OWN
from tests.fuzz.harness import ROOT, Board, Reader, Target, keep, seeds
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets_bad import BAD

_OURS = str(ROOT / "broker") + "/"
_CORPUS = 400               # inputs kept for their new outcome, beside the golden ones
_TRACED = 8                 # every eighth input is traced line by line


class TooSlow(BaseException):
    """An input took more CPU time than it may."""


class Run:
    """One worker's run over one target."""

    def __init__(self, target: Target, scratch: Path, seed: int, findings: Path) -> None:
        self._target, self._findings = target, findings
        self._golden = list(seeds(target).values())
        self._kept: list[bytes] = []
        self._source = random.Random(seed)
        self._mutator = Mutator(self._source, target.words, target.longest)
        self._board = Board(scratch / "board")
        self._inputs = self._values = self._refused = 0
        self._kinds: set[str] = set()
        self._lines: set[tuple[CodeType, int]] = set()
        self._told: set[str] = set()
        self._logged: list[tuple[str, str]] = []
        self._allowed: tuple[type[Exception], ...] = (BrokerError, *target.allowed)
        structlog.configure(processors=[self._listen])
        self._read: Reader = target.make(scratch)

    def go(self, seconds: float, inputs: int) -> None:
        """Read until the time is over, or this many inputs."""
        until = time.monotonic() + seconds
        for data in self._golden:
            self.read(data, must=True)
        while time.monotonic() < until and not (inputs and self._inputs >= inputs):
            corpus = self._kept if self._kept and self._source.random() < 0.5 else self._golden
            self.read(self._mutator.mutate(corpus))
        self._tell(b"")

    def read(self, data: bytes, *, must: bool = False) -> None:
        """Read one input and judge what came of it. `must`: it is good and has to give a value."""
        self._inputs += 1
        traced = self._inputs % _TRACED == 0
        self._tell(data)
        self._logged.clear()
        seen = len(self._lines)
        began = time.process_time()
        try:
            kind = self._guarded(data, traced=traced)[:200]
            self._values += 1
        except self._allowed as error:
            kind = f"{type(error).__name__} {_place(error)}"
            self._refused += 1
            if must:
                self._found(f"a golden input is refused: {error}", data, traceback.format_exc())
        except (Exception, TooSlow) as error:  # noqa: BLE001 - finding them is what this is for
            kind = f"{type(error).__name__} {_place(error)}"
            self._found(kind, data, traceback.format_exc())
        for event, trace in self._logged[:1]:
            self._found(f"it logged an error: {event}"[:300], data, f"{event}\n{trace}")
        used = time.process_time() - began
        if not traced and "TooSlow" not in kind and used > 0.25 + len(data) * self._target.slope:
            self._found(f"slow: {kind}", data, f"{used:.2f} seconds for {len(data)} bytes")
        if kind not in self._kinds or len(self._lines) > seen:
            self._kinds.add(kind)
            self._keep(data)

    def _guarded(self, data: bytes, *, traced: bool) -> str:
        signal.setitimer(signal.ITIMER_PROF, self._target.cpu * (3 if traced else 1))
        if traced:
            sys.settrace(self._trace)
        try:
            return self._read(data)
        finally:
            sys.settrace(None)
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _trace(self, frame: FrameType, _event: str, _arg: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        code, lines = frame.f_code, self._lines

        def line(frame: FrameType, event: str, _arg: Any) -> Callable[..., Any]:
            if event == "line":
                lines.add((code, frame.f_lineno))
            return line
        return line

    def _keep(self, data: bytes) -> None:
        if len(self._kept) < _CORPUS:
            self._kept.append(data)
        else:
            self._kept[self._source.randrange(_CORPUS)] = data

    def _tell(self, data: bytes) -> None:
        self._board.begin((self._inputs, self._values, self._refused, len(self._kinds)), data)

    def _found(self, what: str, data: bytes, trace: str) -> None:
        if what not in self._told:
            self._told.add(what)
            finding = keep(self._target.name, what, data, trace, self._findings)
            sys.stdout.write(f"FINDING {json.dumps([what, str(finding.file)])}\n")
            sys.stdout.flush()

    def _listen(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        if method in {"error", "exception", "critical"}:
            self._logged.append((repr(event), traceback.format_exc()))
        raise structlog.DropEvent


def _place(error: BaseException) -> str:
    """Return the last place in our own code that the error came through."""
    steps = [step for step in traceback.extract_tb(error.__traceback__) if step.filename.startswith(_OURS)]
    return f"{steps[-1].filename.removeprefix(_OURS)}:{steps[-1].lineno}" if steps else "tests"


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


def work(target: Target, scratch: Path, findings: Path, seed: int, *, seconds: float, inputs: int = 0) -> NoReturn:
    """Read in this process, which has nothing else to do and ends with it. `scratch` holds the board."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    run = Run(target, scratch, seed, findings)
    signal.signal(signal.SIGPROF, _too_slow)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", module=OWN)
    gc.collect()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + target.memory, resource.RLIM_INFINITY))
    run.go(seconds, inputs)
    sys.stdout.flush()
    os._exit(0)     # threads of what was read by are still there


def main(name: str, scratch: Path, findings: Path, seed: int, *, seconds: float, inputs: int) -> NoReturn:
    """Read with the target of this name; what is said goes into the file `out` of the scratch folder."""
    out = os.open(scratch / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    target = next(target for target in (*TARGETS, *BAD) if target.name == name)
    work(target, scratch, findings, seed, seconds=seconds, inputs=inputs)
