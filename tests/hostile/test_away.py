"""Redis gone and back in the middle of a fetch; a database that is locked: waiting costs time, never data."""

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.edge.dimse.pdata import CommandSet
from tests.helpers import dicom
from tests.helpers.bad_pacs import SUCCESS, BadPacs
from tests.helpers.dimse import Parrot
from tests.helpers.ports import free_port
from tests.helpers.region import Region
from tests.helpers.site import LIMITS, THEIRS, Site, ref
from tests.helpers.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.peer("dcmtk")]


@dataclass
class Redis:
    """A Redis that can be gone."""

    port: int
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no"], cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, BadPacs, Redis]]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server not installed")
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    redis = Redis(port, folder)
    redis.start()
    with contextlib.ExitStack() as stack:
        stack.callback(redis.kill)
        changes = {"retention.toml": {"quiet_seconds = 2": "quiet_seconds = 3600"}}
        region = stack.enter_context(Region(folder, server=LIMITS, redis_url=f"redis://127.0.0.1:{port}/0", changes=changes))
        pacs = stack.enter_context(contextlib.closing(BadPacs(region.pacs_port, region.dicom_port)))
        yield Site(region), pacs, redis


@pytest.mark.peer("redis")
def test_redis_gone_and_back_in_the_middle_of_a_fetch(far: tuple[Site, BadPacs, Redis], tmp_path: Path) -> None:
    site, pacs, redis = far
    files = dicom.ct_study(tmp_path / "far", 4)

    def interrupted(one: BadPacs, peer: Parrot, command: CommandSet, wanted: Sequence[Path]) -> None:
        one.send(wanted[:2])
        redis.kill()
        one.send(wanted[2:])
        peer.respond(command, SUCCESS)

    pacs.holds += files
    pacs.move = interrupted
    refs = [ref(file, THEIRS) for file in files]
    site.catalogue(refs)
    with site.client() as client:
        got = client.images(refs, tmp_path / "got")
    assert got.missing == ()
    assert [len(asked) for asked in pacs.asked] == [0]
    assert site.region.health()["dependencies"]["coordination"] != "ok"

    pacs.behave()                           # Redis is still away: everything works, a little later
    away = dicom.ct_study(tmp_path / "away", 2)
    pacs.holds += away
    site.catalogue([ref(file, THEIRS) for file in away])
    with site.client() as client:
        got = client.images([ref(file, THEIRS) for file in away], tmp_path / "got2")
    assert got.missing == ()
    site.goes_on(tmp_path)

    redis.start()
    site.region.wait_healthy()
    site.goes_on(tmp_path)
    back = dicom.ct_study(tmp_path / "back", 2)
    pacs.holds += back
    site.catalogue([ref(file, THEIRS) for file in back])
    with site.client() as client:
        got = client.images([ref(file, THEIRS) for file in back], tmp_path / "got3")
    assert got.missing == ()
    eventually(lambda: set(site.rows("fetch_job", "state")) == {("done",)})     # also those begun while it was away


@pytest.mark.peer("redis")
def test_a_redis_that_stands_still_holds_nobody_up(far: tuple[Site, BadPacs, Redis], tmp_path: Path) -> None:
    """It takes connections and says nothing, which is worse than being gone: who waits for it gives up in time."""
    site, pacs, redis = far
    assert redis.process is not None
    pacs.behave()
    files = dicom.ct_study(tmp_path / "still", 2)
    pacs.holds += files
    refs = [ref(file, THEIRS) for file in files]
    site.catalogue(refs)
    redis.process.send_signal(signal.SIGSTOP)
    try:
        site.goes_on(tmp_path)
        with site.client() as client:
            got = client.images(refs, tmp_path / "got")
        assert got.missing == ()
        eventually(lambda: site.region.health()["dependencies"]["coordination"] != "ok")
    finally:
        redis.process.send_signal(signal.SIGCONT)
    site.region.wait_healthy()
    site.goes_on(tmp_path)
    eventually(lambda: set(site.rows("fetch_job", "state")) == {("done",)})


def test_a_locked_database_makes_writers_wait_and_readers_go_on(site: Site, tmp_path: Path) -> None:
    done = threading.Event()
    with contextlib.closing(sqlite3.connect(site.region.data / "broker.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")

        def feed() -> None:
            site.feed("L-1")
            done.set()

        waiting = threading.Thread(target=feed)
        waiting.start()
        site.query()
        (file,) = site.store(tmp_path)      # durable in its folder, its row follows
        assert not done.wait(1.0)
        assert not site.known(ref(file).sop_uid)
        holder.execute("ROLLBACK")
    waiting.join(PATIENCE)
    assert done.is_set()
    eventually(lambda: site.known(ref(file).sop_uid))
    site.goes_on(tmp_path)
