"""Where pictures lie: original files online, containers in a folder or in HDFS."""

import importlib

from broker.archive.tiers.base import ContainerStore
from broker.archive.tiers.posix import PosixStore
from broker.config.settings import Settings


def containers(settings: Settings) -> ContainerStore:
    """Return the store of containers of this installation: an HDFS where a URL is set, else a folder.

    The client of HDFS is imported only then: it is a fifth of the memory of a process that needs little.
    """
    if not settings.archive.url:
        return PosixStore(settings.archive_folder)
    hdfs = importlib.import_module("broker.archive.tiers.hdfs")
    made: ContainerStore = hdfs.HdfsStore(settings.archive.url, settings.archive.hdfs)
    return made
