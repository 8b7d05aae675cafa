"""Runs the roles of one machine as child processes: starts, restarts with back-off, stops.

A child that had run well is started again at once; one that ends soon after its start waits longer each time.
A child holds the read end of a pipe as its standard input: when the supervisor is gone, however it went, the pipe
ends and the child stops too.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

import structlog

log = structlog.get_logger("broker.supervisor")

_CALM = 5.0             # seconds after which a child counts as well started
_SHORTEST_PAUSE = 0.25
_LONGEST_PAUSE = 30.0
_STOP_SECONDS = 20.0


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = _SHORTEST_PAUSE
    due: float = field(default=0.0)


def supervise(commands: Mapping[str, Sequence[str]]) -> int:
    """Run one child per named command until SIGTERM or SIGINT; return the exit status (0 = stopped as asked)."""
    children = [_Child(name, command) for name, command in commands.items()]
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not stop.is_set():
            for child in children:
                _tend(child)
            stop.wait(0.1)
    finally:
        _stop(children)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _tend(child: _Child) -> None:
    now = time.monotonic()
    if child.process is not None and child.process.poll() is None:
        return
    if child.process is not None:
        _close(child.process)
        child.pause = _SHORTEST_PAUSE if now - child.started > _CALM else min(child.pause * 2, _LONGEST_PAUSE)
        log.error("a role ended", name=child.name, status=child.process.returncode, again_in=child.pause)
        child.process, child.due = None, now + child.pause
    if now >= child.due:
        child.process = subprocess.Popen(child.command, stdin=subprocess.PIPE, start_new_session=True)
        child.started = now
        log.info("a role starts", name=child.name, pid=child.process.pid)


def _stop(children: Sequence[_Child]) -> None:
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    end = time.monotonic() + _STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("a role did not stop and is killed", pid=process.pid)
            process.kill()
            process.wait()
        _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
