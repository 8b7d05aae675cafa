"""Kills processes of a running broker with SIGKILL, in mid-work when they come to it, and waits until it is whole again."""

import contextlib
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tests.chaos import nodes
from tests.chaos.journal import Journal
from tests.chaos.nodes import Nodes
from tests.chaos.rows import opened
from tests.helpers.region import Region

WEIGHTS = {"web master": 3, "web worker": 4, "receiver": 6, "fetch": 4, "worker": 4, "mllp": 2, "command": 3, "everything": 1}
# What each may be in the middle of; where that is, when an open file tells.
WORK = {
    "web master": ("submission",), "web worker": ("submission",), "receiver": ("receive",), "fetch": ("fetch",),
    "worker": ("pack", "publish"), "mllp": ("feed",), "command": ("pack", "publish"), "everything": ("fetch",)}
# Rows that tell it: a job that is its own, a study of hospital A (others by command) that was claimed a moment ago.
ROWS = {
    "fetch": ("fetch", "SELECT count(*) FROM fetch_job WHERE state = 'running' AND owner LIKE :owner"),
    "worker": ("publish", "SELECT count(*) FROM publication p JOIN study s ON s.id = p.study_id WHERE s.hospital = 'a'"
                          " AND p.state = 'due' AND p.next_at > :lease")}
LEASE = 179.5       # a claim is for 180 seconds
PLACES = {"receive": "online/.incoming", "pack": "archive", "publish": "documents"}
PATIENCE = 8.0      # seconds to wait for a victim in the middle of its work
_LOOK_AGAIN = 0.2   # seconds between two lists of processes, which take longer than much of their work
LONGEST = 180.0     # seconds until a killed broker must be whole again


@dataclass(slots=True)
class Killer:
    """Kills and remembers: seconds until the broker was whole again, by victim; who did not come back.

    Each kind once, the servers of the archive first, the others in any order, then by weight.
    """

    region: Region
    journal: Journal
    dice: random.Random
    nodes: Nodes | None = None      # of the HDFS that has the archive
    recovered: dict[str, list[float]] = field(default_factory=dict)
    caught: Counter[str] = field(default_factory=Counter)       # kills in the middle of each work
    busy: Counter[str] = field(default_factory=Counter)         # kills in mid-work of each kind
    lost: list[str] = field(default_factory=list)
    weights: dict[str, int] = field(init=False)
    due: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = WEIGHTS | (nodes.WEIGHTS if self.nodes else {})
        self.due = list(self.weights)

    def kill(self) -> str:
        """Kill somebody; return who and in the middle of what, when everything answers again."""
        kind = self._draw()
        works, seconds = self._kill_node(kind) if kind in nodes.WEIGHTS else self._kill_process(kind)
        self.recovered.setdefault(kind, []).append(seconds)
        self.caught.update(works)
        self.busy[kind] += bool(works)
        return f"{kind}, in mid-{' and mid-'.join(sorted(works))}" if works else kind

    def _kill_node(self, kind: str) -> tuple[set[str], float]:
        """Kill a server of the archive. Without its NameNode that is away; a DataNode that is missing is not noticed."""
        assert self.nodes is not None
        with self.journal.outage() if kind == "namenode" else contextlib.nullcontext():
            works = self.nodes.kill(kind, self.dice)
            started = time.monotonic()
            self._wait(kind, lambda: True)
        return works, time.monotonic() - started

    def _kill_process(self, kind: str) -> tuple[set[str], float]:
        while True:
            before, victim, works = self._choose(kind)
            started = time.monotonic()
            try:
                self._strike(victim)
                break
            except psutil.NoSuchProcess:
                continue        # a command that had just ended
        if kind != "command":
            self._wait(kind, lambda: self._are_back(kind, victim, before))
        return works, time.monotonic() - started

    def rows(self) -> list[tuple[str, int, str]]:
        """Return victim, number of kills, how many of them in mid-work, and how fast it was whole again."""
        return [(kind, len(times), f"{self.busy[kind]} in mid-work" + ("" if kind == "command" else
                 f", whole again in {statistics.median(times):.1f} s, at most {max(times):.1f} s"))
                for kind, times in sorted(self.recovered.items())]

    def _draw(self) -> str:
        if self.due:
            servers = [kind for kind in self.due if kind in nodes.WEIGHTS]
            kind = self.dice.choice(servers or self.due)
            self.due.remove(kind)
            return kind
        return self.dice.choices(list(self.weights), list(self.weights.values()))[0]

    def _strike(self, victim: psutil.Process | None) -> None:
        if victim is None:
            self.region.kill()
            self.region.start()
        else:
            victim.kill()

    def _choose(self, kind: str) -> tuple[int, psutil.Process | None, set[str]]:
        """Return how many there are of a kind, the victim (None: all), and what it is in the middle of.

        One in the midst of its work, if that is to be had in time.
        """
        begun = time.monotonic()
        while time.monotonic() < begun + LONGEST:
            living = self._living()
            looked = time.monotonic()
            self.dice.shuffle(living[kind])
            while time.monotonic() < looked + _LOOK_AGAIN:
                late = time.monotonic() > begun + PATIENCE
                if kind == "everything":
                    works = {work for name, found in living.items() for each in found for work in self._works_on(name, each)}
                    if late or works.intersection(WORK[kind]):
                        return 0, None, works
                for victim in living[kind]:
                    works = self._works_on(kind, victim)
                    if late or works:
                        return len(living[kind]), victim, works
                time.sleep(0.001)
        raise AssertionError(f"there is no {kind} to kill")

    def _works_on(self, kind: str, process: psutil.Process) -> set[str]:
        """Say what a process is in the middle of, by the files it has open, its rows, or the request that is on its way."""
        works = {work for work in WORK[kind] if self.journal.flying[work]}
        if kind in ROWS:
            work, query = ROWS[kind]
            with opened(self.region.data) as connection:
                (rows,) = connection.execute(query, {"owner": f"%:{process.pid}:%", "lease": time.time() + LEASE}).fetchone()
            works |= {work} if rows else set()
        if "pack" in WORK[kind] and self.nodes and self.nodes.written_by(process):
            works.add("pack")
        files = _open_files(process.pid)
        return works | {work for work in WORK[kind] if work in PLACES and any(
            name.startswith(str(self.region.data / PLACES[work])) for name in files)}

    def _living(self) -> dict[str, list[psutil.Process]]:
        found: dict[str, list[psutil.Process]] = {kind: [] for kind in WEIGHTS}
        supervisor = self.region.pid
        for process in psutil.Process().children(recursive=True):
            try:
                line, parent, name = process.cmdline(), process.ppid(), process.name()
            except psutil.Error:
                continue
            if str(self.region.config) not in line:
                continue
            if name.startswith("broker-"):
                role = name.removeprefix("broker-")
                found[role if role != "web" else "web master" if parent == supervisor else "web worker"].append(process)
            elif "serve" not in line:
                found["command"].append(process)
        return found

    def _wait(self, kind: str, back: Callable[[], bool]) -> None:
        """Return when what was killed is back, and /healthz says ok."""
        until = time.monotonic() + LONGEST
        while time.monotonic() < until:
            if back() and self.region.health().get("status") == "ok":
                return
            time.sleep(0.05)
        self.lost.append(f"{kind} did not come back: {self.region.health()}")

    def _are_back(self, kind: str, victim: psutil.Process | None, before: int) -> bool:
        """Whether as many of the victim's kind work as before, without the victim."""
        fresh = [process for process in self._living()[kind] if process != victim and self._works(kind, process)]
        return len(fresh) >= before

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
    """Return the processes of a stopped broker that still live."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = process.info["cmdline"] or []
        if str(region.config) in line and process.pid != psutil.Process().pid:
            found.append(f"{process.pid} {' '.join(line[1:])}")
    return found
