"""Containers in an HDFS: `<path of the URL>/<name>`, by hdfs-native's calls, each within a deadline."""

import errno
import functools
import itertools
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from hdfs_native import Client, FileStatus, WriteOptions

from broker.archive.tiers import hdfs_errors, hdfs_web
from broker.archive.tiers.base import TEMPORARY, Listed, Space
from broker.archive.tiers.hdfs_files import RawFile, Reader, Writer, create
from broker.archive.tiers.hdfs_link import Deadlines, Failed, Link
from broker.config.settings import HdfsSection
from broker.files.modes import FILE, FOLDER

_PROBE = b"probe"
_KEPT_OPEN = 64         # files whose reader is kept: a few KB each
_LISTED = 1000          # files that the NameNode gives in one answer

# The client itself tries a NameNode that is away four times, for a second and a half, which a switch of NameNodes may take;
# more is our clock's. A file goes on with the DataNodes that are left.
_OPTIONS: Mapping[str, str] = {
    "dfs.client.failover.max.attempts": "4",
    "dfs.client.failover.sleep.base.millis": "100",
    "dfs.client.failover.sleep.max.millis": "500",
    "dfs.client.block.write.replace-datanode-on-failure.enabled": "true",
    "dfs.client.block.write.replace-datanode-on-failure.best-effort": "true",
}


class HdfsStore:
    """The `ContainerStore` of a folder in an HDFS. Made after a fork, never taken through one."""

    gap = 256 << 10     # half a millisecond's bytes of a stream: less than a call takes
    heals = 30.0        # dfs.namenode.stale.datanode.interval: a DataNode that says nothing for so long is offered no more

    def __init__(self, url: str, section: HdfsSection) -> None:
        split = urlsplit(url)
        self._root = split.path.rstrip("/")
        self._write_options = functools.partial(
            WriteOptions, block_size=section.block_size, replication=section.replication, permission=FILE, create_parent=False,
            overwrite=False)
        self._replication, self._web, self._readers = section.replication, section.web, _Readers()
        if section.user:
            os.environ["HADOOP_USER_NAME"] = section.user     # where hdfs-native looks for it, as Hadoop does
        self._link = Link(
            functools.partial(_connect, f"{split.scheme}://{split.netloc}", section),
            Deadlines(section.metadata_seconds, section.read_seconds, section.write_seconds, section.write_rate))

    def create(self, name: str, size: int) -> Writer:
        """Begin a new file of about `size` bytes. Raise FileExistsError when the name is taken."""
        path = self._path(name)
        return Writer(self._link, path, functools.partial(self._create, path=path), size)

    def open(self, name: str, *, cold: bool = False) -> Reader:
        """Open a closed file; the last ones opened are remembered, unless it is to be `cold`."""
        found = None if cold else self._readers.get(name)
        if found is None or not found.is_open:
            found = Reader(self._link, self._path(name))
            self._readers.put(name, found)
        return found

    def rename(self, name: str, new: str) -> bool:
        """Give a closed file another name, durable on return. False, and nothing changed, when that name is taken."""
        self._readers.forget(name)
        old_path, path = self._path(name), self._path(new)
        before = self._link.ask(lambda client: client.get_file_info(old_path))
        try:
            try:
                self._link.ask(lambda client: client.rename(old_path, path))
            except FileNotFoundError:
                self._link.ask(lambda client: self._make_folder(client, path))
                self._link.ask(lambda client: client.rename(old_path, path))
        except FileExistsError:
            return False
        except FileNotFoundError:
            # the answer to an attempt that was carried out may have been lost
            if not self._is(path, before):
                raise
        return True

    def delete(self, name: str) -> None:
        """Remove a file, durable on return. Absent: no error. Folders stay: 256 of them cost a NameNode nothing."""
        try:
            self._link.ask(lambda client: client.delete(self._path(name)))
        finally:
            self._readers.forget(name)

    def files(self, folder: str) -> Iterator[Listed]:
        """Return the files right inside a folder, those being written too; none when there is no such folder."""
        for status in self._entries(self._path(folder)):
            if not status.isdir:
                name = status.path.rpartition("/")[2]
                yield Listed(f"{folder}/{name}", status.length, status.modification_time / 1000)

    def folders(self) -> list[str]:
        """Return the names of the folders of the first level, sorted."""
        return sorted(status.path.rpartition("/")[2] for status in self._entries(self._root or "/") if status.isdir)

    def space(self) -> Space | None:
        """Return the quota of the folder, or else the room of the cluster; None where neither is told (`archive.hdfs.web`)."""
        try:
            summary = self._link.ask(lambda client: client.get_content_summary(self._root or "/"))
        except FileNotFoundError:
            summary = None
        if summary is not None and summary.space_quota < 1 << 63:      # how "none" is told
            found = Space(summary.space_quota, max(summary.space_quota - summary.space_consumed, 0))
        else:
            cluster = self._cluster()
            if cluster is None:
                return None
            found = cluster.space
        return Space(found.total // self._replication, found.free // self._replication)

    def clock(self) -> float:
        """Return the NameNode's time."""
        path = self._temporary("clock")

        def ask(client: Client) -> float:
            self._create(client, path).close()
            modified: float = client.get_file_info(path).modification_time / 1000
            client.delete(path)
            return modified
        return self._link.ask(ask)

    def health(self) -> str:
        """Return in one line what is wrong, empty when a file could be written, read and removed now."""
        path, steps = self._temporary("probe"), ["the NameNode"]

        def ask(client: Client) -> str:
            file = self._create(client, path)
            steps.append("DataNodes that are to write")
            file.write(_PROBE)
            file.close()
            steps.append("DataNodes that are to read")
            same = bytes(client.read(path).read_range(0, len(_PROBE))) == _PROBE
            steps.append("the NameNode")
            client.delete(path)
            return "" if same else "a file is not what was written"
        try:
            return self._link.once(self._link.deadlines.metadata, ask) or self._too_few()
        except Failed as failed:
            return failed.trouble.reason + (f" from {steps[-1]}" if failed.trouble is hdfs_errors.HUNG else "")
        except OSError as error:
            return hdfs_errors.of(error).reason

    def _too_few(self) -> str:
        cluster = self._cluster()
        if cluster is None or cluster.live >= self._replication:
            return ""
        return f"of the {self._replication} DataNodes that a block's copies need, {cluster.live} are live"

    def _cluster(self) -> hdfs_web.ClusterState | None:
        return hdfs_web.state(self._web, self._link.deadlines.metadata / 2)

    def end(self) -> None:
        """Let go of the client. Calls that hang are left behind."""
        self._link.end()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _create(self, client: Client, path: str) -> RawFile:
        """Begin a file, and make its folder when that is missing."""
        try:
            return create(client, path, self._write_options())
        except FileNotFoundError:
            self._make_folder(client, path)
            return create(client, path, self._write_options())

    def _make_folder(self, client: Client, path: str) -> None:
        """Make the folder of a file, each of ours by itself: hdfs-native opens those that it makes on the way to everybody."""
        for folder in (self._root, path.rpartition("/")[0]):
            client.mkdirs(folder, FOLDER, create_parent=True)

    def _temporary(self, what: str) -> str:
        return self._path(f"{TEMPORARY}/{what}-{uuid.uuid4().hex}")

    def _is(self, path: str, before: FileStatus) -> bool:
        """Whether a file has the size and the time of writing of one that was seen before: names change, these do not."""
        try:
            found = self._link.ask(lambda client: client.get_file_info(path))
        except FileNotFoundError:
            return False
        return (found.length, found.modification_time) == (before.length, before.modification_time)

    def _entries(self, path: str) -> Iterator[FileStatus]:
        entries = self._link.ask(lambda client: client.list_status(path))
        try:
            while found := self._link.ask(lambda _: list(itertools.islice(entries, _LISTED))):
                yield from found
        except FileNotFoundError:
            return


class _Readers:
    """The files last opened: containers never change, and where their blocks are need not be asked for each picture.

    One that somebody else removed is noticed when it is read, and then opened anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[str, Reader] = OrderedDict()

    def get(self, name: str) -> Reader | None:
        with self._lock:
            if name in self._found:
                self._found.move_to_end(name)
            return self._found.get(name)

    def put(self, name: str, reader: Reader) -> None:
        with self._lock:
            self._found[name] = reader
            self._found.move_to_end(name)
            if len(self._found) > _KEPT_OPEN:
                self._found.popitem(last=False)

    def forget(self, name: str) -> None:
        with self._lock:
            self._found.pop(name, None)


def _connect(url: str, section: HdfsSection) -> Client:
    """Return a new client. Raise OSError for a keytab that cannot be read, RuntimeError for options that mean nothing."""
    # a DataNode that says nothing is left for another one before a reader's deadline
    options = {**_OPTIONS, "dfs.client.socket-timeout": str(round(section.read_seconds * 1000 / 2))}
    if section.keytab and not os.access(section.keytab, os.R_OK):
        raise OSError(errno.EIO, "archive.hdfs.keytab cannot be read")
    if section.principal:
        options["hadoop.security.authentication"] = "kerberos"
    if section.protection:
        options["dfs.data.transfer.protection"] = section.protection
    return Client(url, {**options, **section.options}, kerberos_principal=section.principal or None,
                  kerberos_keytab=str(section.keytab) if section.keytab else None)
