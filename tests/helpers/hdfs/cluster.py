"""A real HDFS of our own: NameNode and DataNodes as processes on loopback, and everything a test may do to them."""

import functools
import json
import os
import random
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from tests.helpers.hdfs import configuration, hadoop
from tests.helpers.hdfs.configuration import SUPERUSER
from tests.helpers.hdfs.hadoop import Daemon
from tests.helpers.hdfs.warm import Warm
from tests.helpers.ports import free_ports
from tests.helpers.waiting import eventually

START = 180.0       # seconds a busy machine may need until all of it is up
_TRIES = 3          # another program may take a port between our look and Hadoop's

_NAMENODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
_DATANODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"


class HdfsError(Exception):
    """What the NameNode refused, with the name of its Java exception in the text."""


class PortTaken(Exception):
    """Another program took a port before Hadoop did."""


class Cluster:
    """NameNodes and DataNodes in one folder. Use as a context manager; each server can be killed, frozen and started again.

    Two NameNodes make a name service whose first is active; they share a folder of edits, nobody fails over by itself.
    `options` are Hadoop's own, `flags` are Java's.
    """

    def __init__(self, folder: Path, *, datanodes: int = 3, namenodes: int = 1, options: Mapping[str, str] | None = None,
                 host: str = "127.0.0.1", flags: Sequence[str] = hadoop.QUICK) -> None:
        self.folder = folder
        self._counts = namenodes, datanodes
        self._extra = dict(options or {})
        self._host, self._flags = host, flags
        self._warm: Warm | None = None
        self.namenodes: list[Daemon] = []
        self.datanodes: list[Daemon] = []
        self.options: dict[str, str] = {}
        self.transfer_ports: list[int] = []     # where each DataNode takes and gives blocks

    # What a client needs.

    @property
    def url(self) -> str:
        """Where clients find it: `hdfs://host:port`, or the name service's."""
        return self.options["fs.defaultFS"]

    @property
    def namenode(self) -> Daemon:
        """The first NameNode."""
        return self.namenodes[0]

    def http(self, namenode: int = 0) -> str:
        """Return where a NameNode answers HTTP."""
        return f"http://127.0.0.1:{self._http[namenode]}"

    # Beginning and end.

    def __enter__(self) -> Self:
        for left in reversed(range(_TRIES)):
            try:
                self._begin()
            except PortTaken:
                self.stop()
                if not left:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                break
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """End all servers at once."""
        if self._warm is not None:
            self._warm.close()
            self._warm = None
        for daemon in (*self.datanodes, *self.namenodes):
            daemon.kill()

    def _begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._plan()
        self._run("nn1", _NAMENODE, "-format", "-nonInteractive", "-force")
        for daemon in (self.namenode, *self.datanodes):
            daemon.start()
        if len(self.namenodes) > 1:
            self._begin_pair()
        self.wait_whole()

    def _begin_pair(self) -> None:
        eventually(lambda: self._up(0), START)
        self._run("nn2", _NAMENODE, "-bootstrapStandby", "-nonInteractive", "-force")
        self.namenodes[1].start()
        eventually(lambda: self._up(1), START)
        self.admin("haadmin", "-transitionToActive", "nn1")

    def _plan(self) -> None:
        """Choose ports, write a configuration folder for each server and one for clients."""
        names = [f"nn{number + 1}" for number in range(self._counts[0])]
        ports = {name: (rpc, http) for name, rpc, http in zip(names, free_ports(len(names)), free_ports(len(names)), strict=True)}
        self._http = [http for _, http in ports.values()]
        alone = len(names) == 1
        where = configuration.single(*ports["nn1"], self._host) if alone else configuration.pair(ports, self.folder / "edits")
        self.options = {**configuration.COMMON, **where, "hadoop.tmp.dir": str(self.folder / "tmp"), **self._extra}
        self._configure("client", {})
        for name in names:
            own = {"dfs.namenode.name.dir": (self.folder / name).as_uri()}
            self._configure(name, own | ({} if alone else {"dfs.ha.namenode.id": name}))
        self.namenodes = [self._daemon(name, _NAMENODE) for name in names]
        self.transfer_ports = []
        self.datanodes = [self._plan_datanode(number) for number in range(self._counts[1])]

    def _plan_datanode(self, number: int) -> Daemon:
        transfer, ipc, http = free_ports(3)
        self.transfer_ports.append(transfer)
        self._configure(f"dn{number}", configuration.datanode(self.folder / f"dn{number}", transfer, ipc, http))
        return self._daemon(f"dn{number}", _DATANODE)

    def _configure(self, name: str, own: Mapping[str, str]) -> None:
        configuration.write(self.folder / "conf" / name, {**self.options, **own})

    def _daemon(self, name: str, program: str) -> Daemon:
        return Daemon(name, self._line(name, program), self.folder / f"{name}.log", self._environment())

    def _line(self, name: str, program: str, *arguments: str) -> list[str]:
        return hadoop.command(program, *arguments, classpath=[self.folder / "conf" / name], flags=self._flags)

    def _run(self, name: str, program: str, *arguments: str) -> str:
        return hadoop.run(self._line(name, program, *arguments), self._environment())

    def run(self, classes: Path, program: str, *arguments: str) -> str:
        """Return what a Java program prints whose class lies in this folder; this cluster is its default file system."""
        line = hadoop.command(program, *arguments, classpath=[classes, self.folder / "conf" / "client"], flags=self._flags)
        return hadoop.run(line, self._environment())

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "HADOOP_USER_NAME": SUPERUSER}

    # How it is.

    def jmx(self, name: str, namenode: int = 0) -> dict[str, Any]:
        """Return a bean of a NameNode's, such as `FSNamesystemState`."""
        answer = httpx.get(f"{self.http(namenode)}/jmx", params={"qry": f"Hadoop:service=NameNode,name={name}"}, timeout=5,
                           trust_env=False)
        beans: list[dict[str, Any]] = answer.raise_for_status().json()["beans"]
        return beans[0] if beans else {}

    def _up(self, namenode: int) -> bool:
        self._look(self.namenodes[namenode])
        try:
            return bool(self.jmx("NameNodeStatus", namenode))
        except (httpx.HTTPError, ValueError):
            return False

    @staticmethod
    def _look(daemon: Daemon) -> None:
        if not daemon.running:
            said = daemon.said()
            raise PortTaken(said) if "BindException" in said else AssertionError(f"{daemon.name} ended: {said}")

    def live(self) -> int:
        """Return how many DataNodes the active NameNode hears."""
        return int(self.jmx("FSNamesystemState", self.active())["NumLiveDataNodes"])

    def active(self) -> int:
        """Return the number of the active NameNode; of a single one 0."""
        return next((number for number in range(len(self.namenodes)) if self.state(number) == "active"), 0)

    def state(self, namenode: int = 0) -> str:
        """Return `active` or `standby`, or nothing when it does not answer."""
        try:
            return str(self.jmx("NameNodeStatus", namenode).get("State", ""))
        except (httpx.HTTPError, ValueError):
            return ""

    def whole(self) -> bool:
        """Whether every server runs and answers, all DataNodes are heard, and files may be written."""
        try:
            state = self.jmx("FSNamesystemState", self.active())
        except (httpx.HTTPError, ValueError):
            return False
        return (all(daemon.running for daemon in (*self.namenodes, *self.datanodes)) and state.get("FSState") == "Operational"
                and state["NumLiveDataNodes"] == len(self.datanodes)
                and state["NumStaleDataNodes"] == 0 and self._knows_blocks(state) and all(map(_listens, self.transfer_ports)))

    def _knows_blocks(self, state: Mapping[str, Any]) -> bool:
        """Whether all have told which blocks they hold since the NameNode's start; one that took over does not wait for it.

        A DataNode that came a moment ago has told of no disk yet, so that none of its is stale.
        """
        if len(self.namenodes) > 1:
            return True
        nodes = json.loads(self.jmx("NameNodeInfo")["LiveNodes"]).values()
        return state["NumStaleStorages"] == 0 and all(node["capacity"] > 0 for node in nodes)

    def wait_whole(self) -> None:
        """Return when it is whole; fail with its log when a server ended."""
        def looked() -> bool:
            for daemon in (*self.namenodes, *self.datanodes):
                self._look(daemon)
            return self.whole()
        eventually(looked, START)

    def mend(self) -> None:
        """Put back what a test hurt: thaw, start, leave safe mode, and wait until it is whole."""
        for daemon in (*self.namenodes, *self.datanodes):
            daemon.thaw()
            if not daemon.running:
                daemon.start()
        for number in range(len(self.namenodes)):
            eventually(functools.partial(self._up, number), START)
        if len(self.namenodes) > 1 and self.state(self.active()) != "active":
            self.admin("haadmin", "-transitionToActive", "nn1")
        if self.jmx("FSNamesystemState", self.active())["FSState"] != "Operational":
            self.safe_mode(False)
        self.wait_whole()

    # What an operator does.

    def promote(self, namenode: int) -> None:
        """Make a NameNode active although the other one does not answer."""
        self.admin("haadmin", "-transitionToActive", "--forceactive", self.namenodes[namenode].name)

    def admin(self, tool: str, *arguments: str) -> str:
        """Return what one of Hadoop's tools (`dfs`, `dfsadmin`, `haadmin`, `fsck`, `ec`) prints; raise ToolFailed with that."""
        return "\n".join(self.warm.run(tool, *arguments).lines)

    @property
    def warm(self) -> Warm:
        """Hadoop's own tools with this cluster's configuration, in a process that is started when first asked for."""
        if self._warm is None:
            kerberos = [flag for flag in self._flags if flag not in hadoop.QUICK]
            self._warm = Warm(self.folder / "conf" / "client", self._environment(), kerberos)
        return self._warm

    def safe_mode(self, on: bool) -> None:
        """Enter or leave safe mode."""
        self.admin("dfsadmin", "-safemode", "enter" if on else "leave")

    def rest(self, method: str, operation: str, path: str, user: str = SUPERUSER, data: bytes | None = None,
             **parameters: str | int) -> httpx.Response:
        """Return the answer of WebHDFS; raise HdfsError with what the NameNode or a DataNode said."""
        answer = httpx.request(
            method, f"{self.http(self.active())}/webhdfs/v1{path}", params={"op": operation, "user.name": user, **parameters},
            content=data, headers={"Content-Type": "application/octet-stream"}, timeout=60, follow_redirects=True,
            trust_env=False)
        if answer.is_error:
            raise HdfsError(answer.text.partition(r"\n\tat ")[0])
        return answer

    def mkdir(self, path: str, owner: str = SUPERUSER, mode: str = "755") -> None:
        """Make a folder, with those above it."""
        self.rest("PUT", "MKDIRS", path)
        self.chown(path, owner)
        self.chmod(path, mode)

    def chmod(self, path: str, mode: str) -> None:
        """Set who may do what: an octal number."""
        self.rest("PUT", "SETPERMISSION", path, permission=mode)

    def chown(self, path: str, owner: str) -> None:
        """Give it to another user, and to the group of that name."""
        self.rest("PUT", "SETOWNER", path, owner=owner, group=owner)

    def quota(self, path: str, *, names: int = -1, space: int = -1) -> None:
        """Limit a folder: files and folders in it, itself included, and bytes, each replica counted. -1 is no limit."""
        self.rest("PUT", "SETQUOTA", path, namespacequota=names, storagespacequota=space)

    def write(self, path: str, data: bytes, user: str = SUPERUSER, **parameters: str | int) -> None:
        """Write a new file."""
        self.rest("PUT", "CREATE", path, user, data, **parameters)

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        return self.rest("GET", "OPEN", path).content

    def names(self, path: str) -> list[str]:
        """Return the names in a folder."""
        rows = self.rest("GET", "LISTSTATUS", path).json()["FileStatuses"]["FileStatus"]
        return sorted(row["pathSuffix"] for row in rows)

    def delete(self, path: str) -> None:
        """Delete it with all below; nothing there is no error."""
        self.rest("DELETE", "DELETE", path, recursive="true")

    def touch(self, path: str, at: float) -> None:
        """Let a file be last written at this time (seconds since the epoch)."""
        self.rest("PUT", "SETTIMES", path, modificationtime=round(at * 1000))

    def is_written(self, datanode: int) -> bool:
        """Whether a replica is being written on a DataNode's disk now."""
        return any((self.folder / f"dn{datanode}").glob("current/BP-*/current/rbw/blk_*"))

    def blocks(self, path: str) -> list[tuple[int, list[int]]]:
        """Return the id of each block of a file and the numbers of the DataNodes that hold it."""
        located = self.rest("GET", "GET_BLOCK_LOCATIONS", path).json()["LocatedBlocks"]["locatedBlocks"]
        return [(one["block"]["blockId"], [self.transfer_ports.index(place["xferPort"]) for place in one["locations"]])
                for one in located]

    def corrupt(self, path: str, replicas: int) -> None:
        """Change a byte in the middle of so many replicas of each block, on the DataNodes' disks and behind their backs."""
        for block, places in self.blocks(path):
            for number in places[:replicas]:
                (file,) = (self.folder / f"dn{number}").rglob(f"blk_{block}")
                data = bytearray(file.read_bytes())
                data[len(data) // 2] ^= random.randrange(1, 256)
                file.write_bytes(data)


def _listens(port: int) -> bool:
    """Whether a DataNode takes blocks: one that was started again is live for the NameNode before it does."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Folder:
    """A folder of a cluster that belongs to one test."""

    cluster: Cluster
    path: str

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self.cluster.url + self.path
