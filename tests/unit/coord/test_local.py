import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.config.settings import Settings
from broker.coord import connect
from broker.coord.base import Body
from broker.coord.local import LocalCoord, LocalSubscription
from broker.coord.redis import RedisCoord
from tests.helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.outside

_SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def coord(tmp_path: Path) -> Iterator[LocalCoord]:
    local = LocalCoord(tmp_path / "run")
    yield local
    local.close()


def test_every_subscriber_of_the_channel_hears_it_and_nobody_else(coord: LocalCoord) -> None:
    first, second, other = coord.subscribe("landed", "fetch_done"), coord.subscribe("landed"), coord.subscribe("publish")
    body: Body = {"job": 7, "sop": "1.2.3", "none": None}
    coord.publish("landed", body)
    assert first.get(PATIENCE) == second.get(PATIENCE) == ("landed", body)
    assert other.get(0) is None
    coord.publish("fetch_done", {"job": 7})
    assert first.get(PATIENCE) == ("fetch_done", {"job": 7})
    assert second.get(0.05) is None
    for subscription in (first, second, other):
        subscription.close()


def test_publish_without_anyone_and_after_the_folder_is_gone(coord: LocalCoord, tmp_path: Path) -> None:
    coord.publish("landed", {"job": 1})
    (tmp_path / "gone").mkdir()
    other = LocalCoord(tmp_path / "gone" / "run")
    for folder in (tmp_path / "gone" / "run" / "coord", tmp_path / "gone" / "run", tmp_path / "gone"):
        if folder.exists():
            folder.rmdir()
    other.publish("landed", {"job": 1})
    other.close()
    with contextlib.closing(coord.subscribe("landed")) as later:
        assert later.get(0) is None


def test_a_slow_subscriber_never_blocks_the_publisher(coord: LocalCoord) -> None:
    slow = coord.subscribe("landed")
    for n in range(5000):       # one that waited for it would wait for ever
        coord.publish("landed", {"job": n})
    assert slow.get(0) == ("landed", {"job": 0})
    slow.close()


def test_too_long_a_message_is_dropped(coord: LocalCoord) -> None:
    subscription = coord.subscribe("landed")
    coord.publish("landed", {"sop": "x" * 70_000})
    coord.publish("landed", {"sop": "y" * 50_000})
    assert subscription.get(PATIENCE) == ("landed", {"sop": "y" * 50_000})
    subscription.close()


def test_noise_on_a_socket_is_ignored(coord: LocalCoord) -> None:
    subscription = coord.subscribe("landed")
    assert isinstance(subscription, LocalSubscription)
    noise = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for data in (b"", b"\xff\xfe", b"{}", b"[1,2]", b'["landed",3]', b"[" * 50_000, b'{"a":' * 9_000, b"NaN", b'"\\ud800"',
                 b'["landed",' + b"9" * 5_000 + b"]", b'["landed",{},1]', b'[["landed"],{}]'):
        noise.sendto(data, str(subscription._path))
        assert subscription.get(0) is None
    noise.sendto(b'["other",{}]', str(subscription._path))
    noise.close()
    coord.publish("landed", {"job": 1})
    assert subscription.get(PATIENCE) == ("landed", {"job": 1})
    subscription.close()


def test_who_cannot_listen_hears_nothing_and_goes_on(
    coord: LocalCoord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("broker.coord.local.time.sleep", slept.append)
    folder = coord._folder
    folder.rmdir()
    folder.touch()
    subscription = coord.subscribe("landed")
    assert (subscription.get(0.2), slept) == (None, [0.2])
    subscription.close()
    coord.publish("landed", {"job": 1})


def _listen_and_hang(run_folder: Path) -> None:
    LocalCoord(run_folder).subscribe("landed")
    (run_folder / "listening").touch()
    time.sleep(60)


def test_the_socket_of_a_killed_process_is_removed(coord: LocalCoord, tmp_path: Path) -> None:
    process = _SPAWN.Process(target=_listen_and_hang, args=(tmp_path / "run",))
    (tmp_path / "run").mkdir(exist_ok=True)
    process.start()
    _wait_for(tmp_path / "run" / "listening")
    folder = coord._folder
    assert len(list(folder.iterdir())) == 1
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    coord.publish("landed", {"job": 1})
    assert list(folder.iterdir()) == []


def _answer(run_folder: Path) -> None:
    coord = LocalCoord(run_folder)
    subscription = coord.subscribe("fetch")
    (run_folder / "listening").touch()
    heard = subscription.get(PATIENCE)
    assert heard is not None
    coord.publish("landed", heard[1])


def test_two_processes(coord: LocalCoord, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(exist_ok=True)
    subscription = coord.subscribe("landed")
    process = _SPAWN.Process(target=_answer, args=(tmp_path / "run",))
    process.start()
    _wait_for(tmp_path / "run" / "listening")
    coord.publish("fetch", {"job": 3})
    assert subscription.get(PATIENCE) == ("landed", {"job": 3})
    process.join()
    subscription.close()


@pytest.mark.parametrize("length", [1, 60, 150])
def test_any_length_of_run_folder(tmp_path: Path, length: int) -> None:
    coord = LocalCoord(tmp_path / ("x" * length) / "run")
    channels = ("landed", "fetch_done", "publish", "another", "and_a_very_long_one")
    subscription = coord.subscribe(*channels)
    for channel in channels:
        coord.publish(channel, {"job": 1})
        assert subscription.get(PATIENCE) == (channel, {"job": 1})
    coord.publish("unheard", {"job": 1})
    assert subscription.get(0) is None
    assert coord.state() == "ok"
    subscription.close()
    assert list(coord._folder.iterdir()) == []
    coord.close()


def test_a_lock_is_for_one(coord: LocalCoord) -> None:
    with coord.lock("pack 1.2.3", 10) as first:
        assert first
        with coord.lock("pack 1.2.3", 10) as second, coord.lock("pack 1.2.4", 10) as other:
            assert (second, other) == (False, True)
    with coord.lock("pack 1.2.3", 10) as again:
        assert again
    assert list(coord._locks.iterdir()) == []


def test_a_lock_under_contention_is_held_by_one_thread_at_a_time(coord: LocalCoord) -> None:
    inside, most, taken = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, taken
        for _ in range(100):
            with coord.lock("one", 10) as held:
                if held:
                    with guard:
                        inside += 1
                        most, taken = max(most, inside), taken + 1
                    with guard:
                        inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert taken > 0


def _hold_and_hang(run_folder: Path) -> None:
    with LocalCoord(run_folder).lock("one", 10) as held:
        assert held
        (run_folder / "holding").touch()
        time.sleep(60)


def test_a_lock_is_freed_at_once_when_its_holder_is_killed(coord: LocalCoord, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(exist_ok=True)
    process = _SPAWN.Process(target=_hold_and_hang, args=(tmp_path / "run",))
    process.start()
    _wait_for(tmp_path / "run" / "holding")
    with coord.lock("one", 10) as held:
        assert not held
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with coord.lock("one", 10) as held:
        assert held


def test_connect_takes_what_the_settings_say(tmp_path: Path) -> None:
    local = connect(Settings(data=tmp_path))
    assert isinstance(local, LocalCoord)
    local.close()
    far = connect(Settings.model_validate({"data": tmp_path, "redis": {"url": "redis://127.0.0.1:1/0"}}))
    assert isinstance(far, RedisCoord)
    far.close()


def test_brokers_on_one_redis_are_apart_unless_region_and_store_are_one(tmp_path: Path) -> None:
    def prefix(profile: str, url: str) -> str:
        coord = connect(Settings.model_validate(
            {"data": tmp_path, "profile": profile, "database": {"url": url}, "redis": {"url": "redis://127.0.0.1:1/0"}}))
        coord.close()
        assert isinstance(coord, RedisCoord)
        return coord._prefix

    assert prefix("demo", "postgresql+psycopg://u:secret@db1/broker") == prefix("demo", "postgresql+psycopg://v@db2:5433/broker")
    assert prefix("demo", "postgresql+psycopg://u@db/one") != prefix("demo", "postgresql+psycopg://u@db/two")
    assert prefix("demo", "postgresql+psycopg://u@db/one") != prefix("other", "postgresql+psycopg://u@db/one")


def _wait_for(path: Path) -> None:
    eventually(path.exists)
