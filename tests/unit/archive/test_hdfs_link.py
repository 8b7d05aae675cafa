"""Deadlines of the way to a cluster, as those have them who ask for many files."""

import threading
from typing import Any

import pytest

from broker.archive.tiers.hdfs_link import Deadlines, Link
from broker.model.errors import Unavailable

FILES = 50


def nobody() -> Any:
    """Return what stands for a client that no call looks at."""
    return None


def test_many_files_of_a_cluster_that_hangs_have_one_deadline() -> None:
    free = threading.Event()
    link, asked = Link(nobody, Deadlines(metadata=0.8)), list[int]()

    def hang(_client: Any) -> None:
        asked.append(1)
        free.wait()

    for _ in range(FILES):
        with pytest.raises(Unavailable, match="archive is not available: no answer in time"):
            link.look(hang)
    free.set()
    assert len(asked) == 1
    assert link.ask(lambda _: "an answer") == "an answer"
    assert link.look(lambda _: "an answer") == "an answer"
    link.end()


def test_what_is_wrong_with_one_file_says_nothing_of_others() -> None:
    link = Link(nobody, Deadlines())

    def denied(_client: Any) -> None:
        raise OSError("Permission denied: user=broker, access=READ")

    with pytest.raises(Unavailable, match="no permission"):
        link.look(denied)
    assert link.look(lambda _: "an answer") == "an answer"
    link.end()
