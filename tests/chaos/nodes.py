"""The servers of the HDFS that has the archive: killed under load and started again, made older, and read at the end."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.hdfs.cluster import Cluster
from tests.helpers.hdfs.hadoop import Daemon

WEIGHTS = {"datanode": 8, "namenode": 3}
FOLDER = "/sdicom"
_PATIENCE = 8.0     # seconds to wait for one in the middle of a write
_AWAY = 8.0         # seconds, at most, until one that was killed is started again


@dataclass(frozen=True, slots=True)
class Nodes:
    """The servers of a cluster of one NameNode. One of them is away at a time: two replicas promise no more."""

    cluster: Cluster

    def kill(self, kind: str, dice: random.Random) -> set[str]:
        """Kill one, in mid-write when that is to be had in time; return what it was in the middle of when it is back."""
        until = time.monotonic() + _PATIENCE
        while not (busy := self._busy(kind)) and time.monotonic() < until:
            time.sleep(0.001)
        victim = dice.choice(busy or self._all(kind))
        victim.kill()
        time.sleep(dice.uniform(0, _AWAY))
        victim.start()
        self.cluster.wait_whole()
        return {"pack"} if busy else set()

    def written_by(self, process: psutil.Process) -> bool:
        """Whether a process writes a container now."""
        if not self._written():
            return False
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:        # it has ended
            return False
        return any(one.raddr and one.raddr.port in self.cluster.transfer_ports for one in connections)

    def make_older(self, at: float) -> None:
        """Let every file of the archive be last written at this time (seconds since the epoch)."""
        for name in self.cluster.admin("dfs", "-ls", "-C", "-R", FOLDER).splitlines():
            self.cluster.touch(name, at)

    def take_out(self, folder: Path) -> list[str]:
        """Copy the archive into a new local folder by Hadoop's own tool; return what is wrong with blocks in the cluster."""
        said = self.cluster.admin("fsck", FOLDER)
        self.cluster.admin("dfs", "-get", FOLDER, str(folder))
        return [] if "is HEALTHY" in said else [said]

    def _all(self, kind: str) -> list[Daemon]:
        return self.cluster.datanodes if kind == "datanode" else self.cluster.namenodes

    def _busy(self, kind: str) -> list[Daemon]:
        written = self._written()
        return written if kind == "datanode" or not written else self.cluster.namenodes

    def _written(self) -> list[Daemon]:
        """Return the DataNodes that write a replica now."""
        return [one for number, one in enumerate(self.cluster.datanodes) if self.cluster.is_written(number)]
