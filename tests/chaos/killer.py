"""Kills processes of a running broker with SIGKILL, in mid-work when they come to it, and waits until it is whole again."""

import contextlib
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil

from tests.chaos.journal import Journal
from tests.chaos.rows import opened
from tests.helpers.region import Region

WEIGHTS = {"web master": 3, "web worker": 4, "receiver": 6, "fetch": 4, "worker": 4, "mllp": 2, "command": 3, "everything": 1}
WORK = {
    "web master": "submission", "web worker": "submission", "receiver": "receive", "fetch": "fetch", "worker": "pack",
    "mllp": "feed", "command": "pack", "everything": "fetch"}
PATIENCE = 2.0      # seconds to wait for a victim in the middle of its work
LONGEST = 180.0     # seconds until a killed broker must be whole again


@dataclass(slots=True)
class Killer:
    """Kills and remembers: seconds until the broker was whole again, by victim; who did not come back.

    Each kind once in any order, then by weight.
    """

    region: Region
    journal: Journal
    dice: random.Random
    recovered: dict[str, list[float]] = field(default_factory=dict)
    caught: Counter[str] = field(default_factory=Counter)       # kills in the middle of each kind of work
    lost: list[str] = field(default_factory=list)
    due: list[str] = field(default_factory=lambda: list(WEIGHTS))

    def kill(self) -> str:
        """Kill somebody; return who and in the middle of what, when everything answers again."""
        kind, victims, works = self._choose()
        started = time.monotonic()
        before = self._living()
        if kind == "everything":
            self.region.kill()
            self.region.start()
        else:
            victims[0].kill()
        if kind != "command":
            self._wait(kind, victims, before)
        self.recovered.setdefault(kind, []).append(time.monotonic() - started)
        self.caught.update(works)
        return f"{kind}, in mid-{' and mid-'.join(sorted(works))}" if works else kind

    def rows(self) -> list[tuple[str, int, str]]:
        """Give victim, number of kills, and how fast it was whole again."""
        return [(kind, len(times), "" if kind == "command" else
                 f"whole again in {statistics.median(times):.1f} s, at most {max(times):.1f} s")
                for kind, times in sorted(self.recovered.items())]

    def _choose(self) -> tuple[str, list[psutil.Process], set[str]]:
        """Give a kind, the victim, and what it is in the middle of: one in the midst of its work, if that is to be had."""
        if self.due:
            kind = self.due.pop(self.dice.randrange(len(self.due)))
        else:
            (kind,) = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        begun = time.monotonic()
        while True:
            living = self._living()
            late = time.monotonic() > begun + PATIENCE
            if kind == "everything":
                works = {work for name, found in living.items() for each in found for work in self._works_on(name, each)}
                if late or WORK[kind] in works:
                    return kind, [], works
            victims = living[kind]
            self.dice.shuffle(victims)
            for victim in victims:
                works = self._works_on(kind, victim)
                if late or WORK[kind] in works:
                    return kind, [victim], works
            if time.monotonic() > begun + LONGEST:
                raise AssertionError(f"there is no {kind} to kill")
            time.sleep(0.01)

    def _works_on(self, kind: str, process: psutil.Process) -> set[str]:
        """Say what a process is in the middle of, by the files it has open, its row, or the request that is on its way."""
        work = WORK[kind]
        if work in {"submission", "feed"}:
            return {work} if self.journal.flying[work] else set()
        if kind == "fetch":
            with opened(self.region.data) as connection:
                (running,) = connection.execute(
                    "SELECT count(*) FROM fetch_job WHERE state = 'running' AND owner LIKE ?", (f"%:{process.pid}:%",)).fetchone()
            return {work} if running else set()
        place = str(self.region.data / ("archive" if work == "pack" else "online/.incoming"))
        return {work} if any(name.startswith(place) for name in _open_files(process.pid)) else set()

    def _living(self) -> dict[str, list[psutil.Process]]:
        found: dict[str, list[psutil.Process]] = {kind: [] for kind in WEIGHTS}
        supervisor = self.region.pid
        for process in psutil.Process().children(recursive=True):
            try:
                line, parent = process.cmdline(), process.ppid()
            except psutil.Error:
                continue
            if str(self.region.config) not in line:
                continue
            if "--role" in line:
                role = line[line.index("--role") + 1]
                name = role if role != "web" else "web master" if parent == supervisor else "web worker"
                found[name].append(process)
            elif "serve" not in line:
                found["command"].append(process)
        return found

    def _wait(self, kind: str, victims: list[psutil.Process], before: dict[str, list[psutil.Process]]) -> None:
        """Return when as many of the victim's kind work as before, without the victim, and /healthz says ok."""
        until = time.monotonic() + LONGEST
        gone = {process.pid for process in victims}
        while time.monotonic() < until:
            fresh = [process for process in self._living()[kind] if process.pid not in gone and self._works(kind, process)]
            if len(fresh) >= len(before[kind]) and self.region.health().get("status") == "ok":
                return
            time.sleep(0.05)
        self.lost.append(f"{kind} did not come back: {self.region.health()}")

    def _works(self, kind: str, process: psutil.Process) -> bool:
        """Say whether a process is past its start: it says so by a file."""
        return kind == "web worker" or (self.region.data / "run" / "roles" / f"{kind.partition(' ')[0]}.{process.pid}").exists()


def _open_files(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):      # closed meanwhile
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def leftovers(region: Region) -> list[str]:
    """Give the processes of a stopped broker that still live."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = process.info["cmdline"] or []
        if str(region.config) in line and process.pid != psutil.Process().pid:
            found.append(f"{process.pid} {' '.join(line[1:])}")
    return found
