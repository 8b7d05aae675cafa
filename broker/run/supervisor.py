"""Starts the roles of one machine as its children, starts again who ends, stops all (decision 40).

The children are forked from this process once it has imported what they need: its pages are theirs, too, and a role that ended
is back without importing anything. Until then it has one thread and no connection to anything; it makes none afterwards.
A child that had run well is started again at once; one that ends soon after its start waits longer each time.
A child holds the read end of a pipe as its standard input: when the supervisor is gone, however it went, the pipe ends and the
child stops too.
"""

import gc
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

log = structlog.get_logger("broker.supervisor")

_CALM = 5.0             # seconds after which a child counts as well started
_SHORTEST_PAUSE = 0.25
_LONGEST_PAUSE = 30.0
_STOP_SECONDS = 20.0
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
_SIGNALS = {*_STOP_SIGNALS, signal.SIGCHLD}


@dataclass
class Child:
    """A process that is to run: `pid` is 0 while it does not. Times are seconds of the monotonic clock."""

    name: str
    pid: int = 0
    started: float = 0.0
    pause: float = _SHORTEST_PAUSE
    due: float = 0.0

    def ended(self, now: float) -> None:
        """Set when it is started again: at once after it ran well, else after a pause that doubles."""
        self.pause = _SHORTEST_PAUSE if now - self.started > _CALM else min(self.pause * 2, _LONGEST_PAUSE)
        self.pid, self.due = 0, now + self.pause


def supervise(names: Iterable[str]) -> str | None:
    """Run one child per name until SIGTERM or SIGINT. Return None when all have stopped; in each child, return its name.

    A child begins in a session of its own, with the signal handlers of this process and standard input that ends with it.
    Further signals do not shorten the time children have to stop. Call from the only thread of the process.
    """
    return _Supervisor(names).run()


class _Supervisor:
    def __init__(self, names: Iterable[str]) -> None:
        self._children = [Child(name) for name in names]
        self._reader, self._writer = os.pipe()
        self._mask: set[signal.Signals | int] = set()

    def run(self) -> str | None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)       # a parent that ignores it would have ours reaped unseen
        self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))
        gc.collect()
        gc.freeze()     # a child's collector leaves alone what it shares with us, else it would copy every page
        while True:
            for child in self._children:
                if not child.pid and time.monotonic() >= child.due and self._fork(child):
                    return child.name
            if self._next_signal() in _STOP_SIGNALS:
                self._stop()
                return None
            self._reap()

    def _fork(self, child: Child) -> bool:
        """Start a child; return whether this is the child."""
        child.started = time.monotonic()
        try:
            child.pid = os.fork()
        except OSError as error:        # no memory, or too many processes: the other roles go on
            child.ended(child.started)
            log.error("a role cannot be started", name=child.name, reason=error.strerror, again_in=child.pause)
            return False
        if child.pid:
            log.info("a role starts", name=child.name, pid=child.pid)
            return False
        os.setsid()
        os.close(self._writer)
        os.dup2(self._reader, 0)
        os.close(self._reader)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        return True

    def _next_signal(self) -> int | None:
        """Return the next signal, or None when a child that ended is due."""
        due = [child.due for child in self._children if not child.pid]
        if not due:
            return signal.sigwaitinfo(_SIGNALS).si_signo
        found = signal.sigtimedwait(_SIGNALS, max(0.0, min(due) - time.monotonic()))
        return found.si_signo if found else None

    def _reap(self) -> None:
        for child in self._children:
            pid, status = os.waitpid(child.pid, os.WNOHANG) if child.pid else (0, 0)
            if pid:
                child.ended(time.monotonic())
                log.error("a role ended", name=child.name, status=os.waitstatus_to_exitcode(status), again_in=child.pause)

    def _stop(self) -> None:
        running = {child.pid for child in self._children if child.pid}
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        while running := {pid for pid in running if os.waitpid(pid, os.WNOHANG) == (0, 0)}:
            left = end - time.monotonic()
            if left <= 0:
                break
            signal.sigtimedwait(_SIGNALS, left)
        for pid in running:
            log.error("a role did not stop and is killed", pid=pid)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
