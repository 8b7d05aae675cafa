"""`make demo HDFS=1`: the demonstration with its archive in a real HDFS that is started for it and ends with it."""

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers.hdfs.cluster import Cluster

NEEDS = ("java", "mvn", "setpriv")      # Debian: openjdk-17-jre-headless, maven, util-linux


def main() -> int:
    """Play it; options are the demonstration's own. 2 when this machine lacks a program."""
    missing = [program for program in NEEDS if shutil.which(program) is None]
    if missing:
        sys.stderr.write(f"make demo HDFS=1 needs {' and '.join(missing)}; make demo needs neither Java nor Maven.\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="broker-demo-hdfs-") as folder, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write("starting an HDFS of one NameNode and three DataNodes (its programs are fetched once, 106 MB) …\n")
        sys.stdout.flush()
        with Cluster(Path(folder) / "cluster") as cluster:
            cluster.mkdir("/sdicom", mode="777")
            sys.stdout.write(f"its pages are at {cluster.http()}\n")
            sys.stdout.flush()
            return _play([sys.executable, "-m", "broker", "demo", "--hdfs", f"{cluster.url}/sdicom", *sys.argv[1:]])
    return 0


def _play(command: list[str]) -> int:
    """Run it until it ends by itself or by Ctrl-C, which it hears, too."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


if __name__ == "__main__":
    sys.exit(main())
