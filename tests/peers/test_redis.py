import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.coord.redis import RedisCoord, RedisSubscription
from tests.helpers.waiting import PATIENCE

pytestmark = pytest.mark.peer("redis")


class Server:
    """A real redis-server on a free port of this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            cwd=self.folder, stdout=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.resume()
    running.kill()


def _coord(server: Server, prefix: str = "broker:demo:1:") -> RedisCoord:
    return RedisCoord(f"redis://127.0.0.1:{server.port}/0", prefix)


@pytest.fixture
def coord(server: Server) -> Iterator[RedisCoord]:
    here = _coord(server)
    yield here
    here.close()


def _heard_again(coord: RedisCoord, subscription: RedisSubscription) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        coord.publish("landed", {"job": 9})
        if subscription.get(0.2) == ("landed", {"job": 9}):
            return True
    return False


def test_every_subscriber_of_the_channel_and_prefix_hears_it(server: Server, coord: RedisCoord) -> None:
    other_machine, other_region = _coord(server), _coord(server, "broker:other:1:")
    first, second = coord.subscribe("landed", "fetch_done"), other_machine.subscribe("landed")
    other = other_region.subscribe("landed")
    coord.publish("landed", {"job": 7, "sop": "1.2", "none": None})
    assert first.get(PATIENCE) == second.get(PATIENCE) == ("landed", {"job": 7, "sop": "1.2", "none": None})
    assert other.get(0) is None
    coord.publish("fetch_done", {"job": 7})
    assert first.get(PATIENCE) == ("fetch_done", {"job": 7})
    assert second.get(0.3) is None
    for subscription in (first, second, other):
        subscription.close()
    other_machine.close()
    other_region.close()


def test_a_lock_is_for_one_and_only_its_holder_frees_it(server: Server, coord: RedisCoord) -> None:
    other = _coord(server)
    with coord.lock("one", 10) as held:
        assert held
        with other.lock("one", 10) as second:
            assert not second
        with other.lock("one", 10) as still:
            assert not still
    with other.lock("one", 0.2) as again:
        assert again
        time.sleep(0.4)
        with coord.lock("one", 10) as expired:
            assert expired
    other.close()


def test_late_release_leaves_the_next_holder_alone(server: Server, coord: RedisCoord) -> None:
    other, third = _coord(server), _coord(server)
    late = coord.lock("one", 0.1)
    assert late.__enter__()
    time.sleep(0.3)
    with other.lock("one", 10) as held:
        assert held
        late.__exit__(None, None, None)
        with third.lock("one", 10) as stolen:
            assert not stolen
    other.close()
    third.close()


def test_redis_killed_and_back(server: Server, coord: RedisCoord) -> None:
    subscription = coord.subscribe("landed")
    assert _heard_again(coord, subscription)
    server.kill()
    for _ in range(200):
        coord.publish("landed", {"job": 1})
    assert subscription.get(0.5) is None
    assert coord.state().startswith("Redis does not answer")
    with coord.lock("one", 10) as granted:
        assert granted
    late = coord.subscribe("landed")
    server.start()
    assert coord.state() == "ok"
    assert _heard_again(coord, subscription)
    assert _heard_again(coord, late)
    subscription.close()
    late.close()


def test_silent_redis_costs_a_bounded_time(server: Server, coord: RedisCoord) -> None:
    subscription = coord.subscribe("landed")
    server.pause()
    for _ in range(1000):       # a second's wait at each would be longer than a test may take
        coord.publish("landed", {"job": 1})
    assert coord.state().startswith("Redis does not answer")
    server.resume()
    assert _heard_again(coord, subscription)
    subscription.close()


def test_no_redis_at_all(tmp_path: Path) -> None:
    coord = RedisCoord("redis://127.0.0.1:1/0", "x:")
    subscription = coord.subscribe("landed")
    coord.publish("landed", {"job": 1})
    assert subscription.get(0.3) is None
    subscription.close()
    coord.close()
