"""What is made is for our user and its group, whatever the umask is; what was looser is tightened."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.archive.tiers.online import OnlineStore
from broker.audit.spool import AuditLog
from broker.coord.local import LocalCoord
from broker.db import Database
from broker.files.modes import FILE, FOLDER, PRIVATE, make_file, make_folder, tighten, too_loose
from broker.model.caller import AuditFacts, Caller
from broker.model.transaction import Outcome
from broker.run.heartbeat import Heartbeat
from broker.web.health import writable
from tests.helpers.soap import ASK, bench, keep, mtom
from tests.helpers.waiting import PATIENCE


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def loose(folder: Path) -> list[tuple[str, str]]:
    """Return what others may do more with than they should."""
    return [(str(path), oct(mode(path))) for path in folder.rglob("*")
            if mode(path) & ~(FOLDER if path.is_dir() else FILE) & 0o777 and not path.is_socket()]


def test_a_folder_and_its_parents_are_as_tight_as_asked(tmp_path: Path, umask: int) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "run", PRIVATE)
    make_file(tmp_path / "a" / "file")
    make_file(tmp_path / "a" / "file")
    assert loose(tmp_path) == []
    assert mode(tmp_path / "a" / "run") == PRIVATE & ~umask
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a" / "file")


def test_everything_that_keeps_patient_data_makes_it_tight(tmp_path: Path, umask: int) -> None:
    with_rows = Database(f"sqlite:///{tmp_path / 'database' / 'broker.db'}")
    with with_rows.write() as unit:
        unit.connection.exec_driver_sql("CREATE TABLE patient (name TEXT)")
    part = OnlineStore(tmp_path / "online").begin()
    part.write(b"picture")
    part.commit("a", "1.2", "1.3")
    AuditLog(tmp_path / "audit", "us", "here").record(ASK, Caller(), AuditFacts(), Outcome.SUCCESS)
    ready = bench(tmp_path / "web")
    seen = mtom(keep("cid:a"), "urn:test:Keep", ("a", b"document"))
    assert ready.post("/keep", b"".join(seen), seen.content_type).status == 200
    (tmp_path / "probe").mkdir(FOLDER)
    writable(tmp_path / "probe")
    beat = Heartbeat(tmp_path / "run", "web")
    beat.start()
    try:
        assert (tmp_path / "database" / "broker.db-wal").exists()
        assert loose(tmp_path) == []
    finally:
        beat.stop()
        with_rows.close()


@pytest.mark.parametrize("length", [1, 150])
def test_where_processes_meet_is_ours_alone(tmp_path: Path, umask: int, length: int) -> None:
    """A folder that was there, as loose as can be, is tightened; nothing is made in the temporary folder of all."""
    run = tmp_path / ("x" * length) / "run"
    (run / "coord").mkdir(parents=True)
    (run / "coord").chmod(0o777)
    coord = LocalCoord(run)
    subscription = coord.subscribe("landed")
    with coord.lock("one", 1.0) as held:
        assert held
        assert [mode(path) & 0o077 for path in (run / "coord", run / "locks")] == [0, 0]
        assert [mode(path) & 0o077 for path in (run / "coord").iterdir()] == [0]
    coord.publish("landed", {"job": 1})
    assert subscription.get(PATIENCE) == ("landed", {"job": 1})
    subscription.close()
    coord.close()


def test_a_meeting_place_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "coord").mkdir(parents=True)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="another user"):
        LocalCoord(tmp_path / "run")


@pytest.mark.parametrize(("found", "most", "after"), [
    (0o777, FOLDER, 0o750), (0o755, FOLDER, 0o750), (0o700, FOLDER, 0o700), (0o750, PRIVATE, 0o700), (0o770, FOLDER, 0o750),
])
def test_what_is_looser_is_tightened_and_what_is_tighter_stays(tmp_path: Path, found: int, most: int, after: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(found)
    assert too_loose(folder, most) is (found != after)
    assert tighten(folder, most)
    assert mode(folder) == after


def test_the_temporary_folder_of_all_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    assert not tighten(folder, FOLDER)
    assert mode(folder) == 0o1777
    assert tighten(tmp_path / "absent", FOLDER)
