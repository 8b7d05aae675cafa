"""Containers in a real HDFS are what others read: Hadoop's own reader, its shell, a stock MapReduce job, a Spark job."""

import hashlib
import os
import random
import sys
from pathlib import Path

import hdfs_native
import pytest

from tests.helpers.archive import STUDY, packed
from tests.helpers.hdfs import hadoop
from tests.helpers.hdfs.cluster import Folder

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.timeout(600)]

OWN = "\x01"        # how keys of the container's own records begin
Rows = list[tuple[str, int, str]]


def stored(hdfs: Folder, count: int = 2) -> tuple[list[str], Rows]:
    """Write containers of 30 images as the product does; return their paths, and uid, length and SHA-256 of every image."""
    source, paths, rows = random.Random(11), [], []
    for number in range(count):
        images = {f"{STUDY}.{number}.{n}": source.randbytes(0 if n == 3 else source.randrange(90_000)) for n in range(30)}
        data, _ = packed(images)
        paths.append(f"{hdfs.path}/{number}.seq")
        with hdfs_native.Client(hdfs.cluster.url).create(paths[-1]) as file:
            file.write(data)
        rows += [(uid, len(image), hashlib.sha256(image).hexdigest()) for uid, image in images.items()]
    return paths, rows


def rows_of(text: str) -> Rows:
    found = [line.split("\t") for line in text.splitlines()]
    return sorted((uid, int(size), digest) for uid, size, digest in found)


def test_hadoops_reader_finds_every_image_in_the_cluster(hdfs: Folder) -> None:
    (path,), rows = stored(hdfs, 1)
    found = hdfs.cluster.warm.records(path)
    assert found[-1][0] == "\x01index"
    assert [row for row in found if not row[0].startswith(OWN)] == rows


def test_the_shell_prints_a_container_in_the_cluster(hdfs: Folder) -> None:
    (path,), rows = stored(hdfs, 1)
    lines = hdfs.cluster.admin("dfs", "-text", path).splitlines()
    keys = [line.partition("\t")[0] for line in lines]
    assert keys[-1] == "\x01index"
    assert [key for key in keys if not key.startswith(OWN)] == [uid for uid, _, _ in rows]


def test_a_mapreduce_job_counts_and_digests_the_images(hdfs: Folder, tmp_path: Path) -> None:
    paths, rows = stored(hdfs)
    classes = hadoop.compiled("CountImages.java", tmp_path)
    said = hdfs.cluster.run(classes, "CountImages", f"{hdfs.path}/out", *paths)
    assert said == f"{len(rows)} images, {sum(size for _, size, _ in rows)} bytes\n"
    assert rows_of(hdfs.cluster.read(f"{hdfs.path}/out/part-r-00000").decode()) == sorted(rows)


@pytest.mark.peer("spark")
def test_a_spark_job_by_container_names_counts_and_digests_the_images(hdfs: Folder) -> None:
    paths, rows = stored(hdfs)
    job = [sys.executable, "-m", "tests.peers.spark_count", hdfs.cluster.url, *paths]
    text = hadoop.run(job, {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"})
    assert rows_of(text) == sorted(rows)
