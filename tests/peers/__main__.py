"""Real peers to work with: HDFS, Orthanc, PostgreSQL and Redis on loopback (`make peers`, `make peers-stop`).

They run until they are told to stop. All have the folder of their files in their command line or as their working folder: that
is how they are found again, also when the process that watches over them was killed.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.helpers import dicom, postgresql
from tests.helpers.hdfs.cluster import START, Cluster
from tests.helpers.ports import free_port, is_free

ROOT = Path(__file__).parents[2]
BROKER_PORT, PACS_PORT, PACS = 11112, 11113, "PACSB"      # as in the demonstration region
PATIENCE = 60.0      # seconds to end in good order


def start(state: Path) -> int:
    """Start them in the background and print their addresses; where they run, print these."""
    card = state / "addresses.txt"
    if not _processes(state):
        stop(state)
        folder = Path(tempfile.mkdtemp(prefix="broker-peers-"))
        folder.chmod(0o755)     # PostgreSQL runs as a user of its own
        state.mkdir(parents=True)
        (state / "folder").write_text(str(folder))
        with (state / "log").open("wb") as log:
            subprocess.Popen(
                [sys.executable, "-m", "tests.peers", "serve", "--state", str(state)], cwd=ROOT, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "TMPDIR": str(folder)})
    end = time.monotonic() + 2 * START
    while not card.exists():
        if not _processes(state) or time.monotonic() > end:
            sys.stderr.write((state / "log").read_text(errors="replace")[-3000:] + "\nThe peers did not start.\n")
            stop(state)
            return 1
        time.sleep(0.2)
    sys.stdout.write(card.read_text())
    return 0


def stop(state: Path) -> int:
    """End them, and take away what they left; nothing there is no error."""
    for process in _processes(state):
        if "serve" in process.cmdline():
            process.terminate()
            psutil.wait_procs([process], PATIENCE)
    left = _processes(state)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, PATIENCE)
    if (state / "folder").exists():
        shutil.rmtree((state / "folder").read_text(), ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)
    return 0


def _processes(state: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _is_ours(process, state)]


def _is_ours(process: psutil.Process, state: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        if {"serve", str(state)} <= set(words):
            return True
        folder = (state / "folder").read_text() if (state / "folder").exists() else None
        return folder is not None and any(folder in word for word in [*words, process.cwd()])
    return False


def serve(state: Path) -> int:
    """Run them until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folder = Path((state / "folder").read_text())
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(folder / "hdfs", flags=()))
        cluster.mkdir("/sdicom", mode="777")
        port = PACS_PORT if is_free(PACS_PORT) else free_port()
        stack.enter_context(dicom.Orthanc(folder / "orthanc", PACS, BROKER_PORT, port=port))
        postgres = stack.enter_context(postgresql.Postgres())
        redis = free_port()
        (folder / "redis").mkdir()
        stack.enter_context(dicom.running(
            ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            folder / "redis", redis))
        text = CARD.format(hdfs=cluster.url, web=cluster.http(), pacs=PACS, port=port, broker=BROKER_PORT, redis=redis,
                           database=postgresql.fresh(postgres.url))
        part = state / "part"
        part.write_text(text)
        part.rename(state / "addresses.txt")
        while True:
            signal.pause()


CARD = """\
# HDFS         {hdfs}, pages at {web}; one NameNode, three DataNodes, two replicas
# Orthanc      AE title {pacs} at 127.0.0.1:{port}; it sends to BROKER at 127.0.0.1:{broker}
# PostgreSQL   {database}
# Redis        redis://127.0.0.1:{redis}/0

# broker.toml that uses them:

[database]
url = "{database}"

[redis]
url = "redis://127.0.0.1:{redis}/0"

[archive]
url = "{hdfs}/sdicom"
hdfs.replication = 2

# make peers-stop ends them; what they hold is gone then.
"""
COMMANDS = {"start": start, "stop": stop, "serve": serve}


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "peers", help="where the addresses and the log lie")
    chosen = parser.parse_args()
    return COMMANDS[chosen.command](chosen.state.absolute())


if __name__ == "__main__":
    sys.exit(main())
