"""`make peers`: the real peers stand up, are what their addresses say, and nothing is left of them."""

import re
import subprocess
import sys
from pathlib import Path

import hdfs_native
import psutil
import psycopg
import pytest
import redis

from broker.config.settings import load
from tests.peers.__main__ import ROOT

pytestmark = [pytest.mark.peer("hdfs"), pytest.mark.peer("orthanc"), pytest.mark.peer("postgresql"), pytest.mark.peer("redis"),
              pytest.mark.timeout(600)]


def told(state: Path, command: str) -> str:
    done = subprocess.run([sys.executable, "-m", "tests.peers", command, "--state", str(state)], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def servers(state: Path, folder: Path) -> list[psutil.Process]:
    """The process that watches, first of all, and whom it started; PostgreSQL is nobody's child."""
    (watcher,) = [process for process in psutil.process_iter(["cmdline"])
                  if {"serve", str(state)} <= set(process.info["cmdline"] or ())]
    (pid,) = folder.glob("broker-pg-*/data/postmaster.pid")
    return [watcher, *watcher.children(recursive=True), psutil.Process(int(pid.read_text().split()[0]))]


def test_they_start_once_answer_and_stop_also_after_a_crash(tmp_path: Path) -> None:
    state = tmp_path / "peers"
    try:
        printed = told(state, "start")
        assert told(state, "start") == printed
        (tmp_path / "broker.toml").write_text(printed)
        settings = load(tmp_path / "broker.toml")
        with psycopg.connect(settings.database_url.replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT count(*) FROM study").fetchone() == (0,)
        with redis.Redis.from_url(settings.redis.url) as client:
            assert client.ping()
        place = re.fullmatch(r"(hdfs://.*?)(/.*)", settings.archive.url)
        assert place is not None
        with hdfs_native.Client(place[1]).create(f"{place[2]}/a") as file:
            file.write(b"1")
        assert settings.archive.hdfs.replication == 2
        folder = Path((state / "folder").read_text())
        started = servers(state, folder)
        assert len(started) >= 1 + 4 + 1 + 1 + 1
        started[0].kill()
    finally:
        told(state, "stop")
    assert [process for process in started if process.is_running()] == []
    assert not folder.exists()
    assert not state.exists()
    told(state, "stop")
