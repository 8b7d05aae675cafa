"""A Spark job by container names: `URL PATH ...` prints uid, length and SHA-256 of each image, read by Python in the tasks."""

import hashlib
import sys
from collections.abc import Iterator
from typing import Any

import hdfs_native
from pyspark import SparkConf, SparkContext

from broker.archive.formats.sequencefile import Reader

LOCAL = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}


def features(uid: str, image: bytes) -> dict[str, Any]:
    """Return what a job wants to know of one image."""
    return {"uid": uid, "length": len(image), "sha256": hashlib.sha256(image).hexdigest()}


def images(url: str, path: str) -> Iterator[tuple[str, bytes]]:
    """Return the images of a container, without the container's own records."""
    file = hdfs_native.Client(url).read(path)

    def pread(offset: int, length: int) -> bytes:
        return bytes(file.read_range(offset, min(length, len(file) - offset)))

    for record in Reader(pread, len(file)).records():
        if not record.key.startswith("\x01"):
            yield record.key, pread(record.offset, record.size)


def main(url: str, *paths: str) -> None:
    """Run the job in this machine's processes."""
    with SparkContext(conf=SparkConf().setMaster("local[2]").setAll(list(LOCAL.items()))) as context:
        rows = context.parallelize(paths, len(paths)).flatMap(
            lambda path: [features(uid, image) for uid, image in images(url, path)]).collect()
    for row in rows:
        sys.stdout.write(f"{row['uid']}\t{row['length']}\t{row['sha256']}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
