"""`python -m tests.chaos [--kills N] [--seed S] [--hdfs]`: kill processes under load, then check what was acknowledged."""

import argparse
import contextlib
import shutil
import sys
from pathlib import Path

from rich.console import Console

from tests.chaos.run import run
from tests.helpers.hdfs.cluster import Cluster

OUT = Path("build/chaos")


def main() -> int:
    """Run, print the table; 1 when anything was lost or is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hdfs", action="store_true", help="the archive is in an HDFS, whose servers are killed too")
    options = parser.parse_args()
    console = Console(width=150)
    folder = (OUT / "region").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Cluster(OUT.resolve() / "cluster") if options.hdfs else contextlib.nullcontext() as cluster:
        report = run(folder, OUT, kills=options.kills, seed=options.seed, tell=console.print, cluster=cluster)
    report.show(console)
    console.print(f"{report.wrong} wrong; report, journal and log are in {OUT}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
