"""Calls that may never come back, with calls that come back when the test says so."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.archive.tiers.hdfs_calls import Call, Calls, Channel, Hung
from tests.helpers.waiting import PATIENCE, eventually


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def hang(calls: Calls, until: threading.Event) -> Call[bool]:
    """Begin a call that comes back when the event is set, and leave it."""
    call = calls.begin(lambda: until.wait(PATIENCE))
    assert not call.wait(0)
    assert calls.leave(call)
    return call


def answer(calls: Calls) -> int:
    call = calls.begin(lambda: 7)
    assert call.wait(PATIENCE)
    return call.result()


def fail() -> None:
    raise FileNotFoundError("none")


def test_a_call_gives_what_it_returns_and_raises_what_it_raises() -> None:
    calls = Calls()
    assert answer(calls) == 7
    call = calls.begin(fail)
    assert call.wait(PATIENCE)
    with pytest.raises(FileNotFoundError):
        call.result()
    assert calls.leave(call) is False
    assert calls.left == 0


def test_a_panic_of_the_client_is_an_error_like_others() -> None:
    class Panic(BaseException):
        """hdfs-native's PanicException is no Exception."""

    def panic() -> None:
        raise Panic
    call = Calls().begin(panic)
    assert call.wait(PATIENCE)
    with pytest.raises(RuntimeError, match="Panic"):
        call.result()


def test_threads_are_used_again() -> None:
    calls = Calls()
    assert answer(calls) == 7
    with_one = threading.active_count()
    for _ in range(200):
        assert answer(calls) == 7
    assert threading.active_count() <= with_one
    calls.end()
    eventually(lambda: threading.active_count() < with_one)


def test_past_a_number_of_hung_calls_others_fail_at_once_but_for_one_now_and_then() -> None:
    clock, until = Clock(), threading.Event()
    calls = Calls(clock)
    for _ in range(16):
        hang(calls, until)
    tried = []
    for _ in range(1000):
        clock.now += 0.25
        try:
            hang(calls, until)
        except Hung:
            continue
        tried.append(clock.now)
    assert tried[:5] == [0.25, 1.25, 3.25, 7.25, 15.25]
    assert {later - earlier for earlier, later in itertools.pairwise(tried[6:])} == {30.0}
    assert calls.left == 16 + len(tried)
    until.set()
    eventually(lambda: calls.left == 0)
    assert answer(calls) == 7
    calls.end()


def test_one_answer_opens_the_way_for_all() -> None:
    """Those left behind may never come back: what counts is how many hang since the cluster last answered."""
    clock, until = Clock(), threading.Event()
    calls = Calls(clock)
    for _ in range(16):
        hang(calls, until)
    clock.now = 100.0
    assert answer(calls) == 7
    assert [answer(calls) for _ in range(5)] == [7] * 5
    for _ in range(15):
        hang(calls, until)
    assert answer(calls) == 7
    until.set()
    eventually(lambda: calls.left == 0)
    calls.end()


def test_in_all_no_more_than_256_are_left_behind() -> None:
    clock, until = Clock(), threading.Event()
    calls = Calls(clock)
    hung = 0
    for _ in range(2000):
        clock.now += 31
        try:
            hang(calls, until)
        except Hung:
            break
        hung += 1
    assert hung == 256
    until.set()
    eventually(lambda: calls.left == 0)
    assert answer(calls) == 7
    calls.end()


def test_a_channel_gives_everything_in_order_and_then_nothing() -> None:
    channel = Channel(10)
    with ThreadPoolExecutor() as pool:
        def put() -> None:
            for number in range(500):
                assert channel.put(b"%03d" % number)
            channel.full()
        putting = pool.submit(put)
        found = b""
        while pieces := channel.take(PATIENCE):
            assert len(b"".join(pieces)) <= 10
            found += b"".join(pieces)
        putting.result()
    assert found == b"".join(b"%03d" % number for number in range(500))


def test_a_channel_takes_a_piece_that_is_larger_than_it() -> None:
    channel = Channel(10)
    assert channel.put(b"x" * 1000)
    with pytest.raises(Hung):
        channel.put(b"y", 0)
    assert channel.take(0) == [b"x" * 1000]
    with pytest.raises(Hung):
        channel.take(0)


def test_a_channel_that_is_over_holds_nobody() -> None:
    channel = Channel(10)
    channel.put(b"x" * 10)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(channel.put, b"y")
        channel.over()
        assert waiting.result() is False
    assert channel.put(b"z") is False
    assert channel.take() == []
    assert channel.is_over
