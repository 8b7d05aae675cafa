"""Stores of containers for tests that run over both kinds."""

from pathlib import Path

import pytest

from broker.archive.tiers.base import ContainerStore
from broker.archive.tiers.hdfs import HdfsStore
from broker.archive.tiers.posix import PosixStore
from broker.config.settings import HdfsSection
from tests.helpers.hdfs.cluster import Folder
from tests.helpers.hdfs.configuration import REPLICATION

KINDS = ["posix", pytest.param("hdfs", marks=[pytest.mark.peer("hdfs"), pytest.mark.timeout(600)])]


def section(**changed: object) -> HdfsSection:
    """Return the settings of a store in the tests' cluster."""
    return HdfsSection.model_validate({"replication": REPLICATION, "block_size": 1 << 20, **changed})


def in_hdfs(folder: Folder, name: str = "sdicom", **changed: object) -> HdfsStore:
    """Return a store in a test's folder of the cluster."""
    return HdfsStore(f"{folder.url}/{name}", section(**changed))


def of_kind(kind: str, request: pytest.FixtureRequest) -> ContainerStore:
    """Return a new, empty store of one of `KINDS`."""
    if kind == "hdfs":
        return in_hdfs(request.getfixturevalue("hdfs"))
    folder: Path = request.getfixturevalue("tmp_path")
    return PosixStore(folder / "archive")


def put(store: ContainerStore, name: str, data: bytes) -> None:
    """Write a file."""
    file = store.create(name, len(data))
    file.write(data)
    file.close()


def got(store: ContainerStore, name: str) -> bytes:
    """Return a file's bytes, read twice in two ways."""
    reader = store.open(name)
    whole = reader.pread(0, reader.size)
    assert b"".join(reader.stream(0, reader.size)) == whole
    return whole
