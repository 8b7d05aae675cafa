"""What every store of containers promises (`archive/tiers/base.py`), asked of a folder and of a real HDFS."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.archive.tiers.base import ContainerStore
from tests.helpers.containers import KINDS, got, of_kind, put

IMAGE = random.Random(10).randbytes(600_000)
LARGE = random.Random(11).randbytes(5 << 20)       # several blocks, and more than a reader takes at once


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[ContainerStore]:
    made = of_kind(request.param, request)
    yield made
    made.end()


def test_a_file_comes_back_as_it_was_written_in_whatever_pieces(store: ContainerStore) -> None:
    file = store.create(".tmp/1.2.3-0f", len(LARGE) + 300)
    for piece in (b"head", LARGE[:70], LARGE[70:3 << 20], b"", LARGE[3 << 20:], b"tail" * 74):
        file.write(piece)
    file.close()
    assert got(store, ".tmp/1.2.3-0f") == b"head" + LARGE + b"tail" * 74
    assert store.open(".tmp/1.2.3-0f", cold=True).pread(4, 100) == LARGE[:100]


def test_many_small_pieces(store: ContainerStore) -> None:
    pieces = [bytes([number % 256]) * (number % 97) for number in range(40_000)]
    file = store.create("aa/small.seq", 0)
    for piece in pieces:
        file.write(piece)
    file.close()
    assert got(store, "aa/small.seq") == b"".join(pieces)


def test_an_empty_file(store: ContainerStore) -> None:
    put(store, "aa/1.seq", b"")
    reader = store.open("aa/1.seq")
    assert (reader.size, reader.pread(0, 10), list(reader.stream(0, 10))) == (0, b"", [])


def test_ranges_end_with_the_file(store: ContainerStore) -> None:
    put(store, "aa/1.seq", LARGE)
    reader = store.open("aa/1.seq")
    end = reader.size
    assert end == len(LARGE)
    for offset, length in ((0, 1), (7, 1000), (1 << 20, 3 << 20), (end - 5, 5), (end - 5, 100), (0, end + 1)):
        assert reader.pread(offset, length) == LARGE[offset:offset + length]
        assert b"".join(reader.stream(offset, length)) == LARGE[offset:offset + length]
    for offset, length in ((end, 1), (end + 10, 10), (3, 0)):
        assert reader.pread(offset, length) == b""
        assert list(reader.stream(offset, length)) == []


def test_a_stream_comes_in_pieces_and_may_be_left(store: ContainerStore) -> None:
    put(store, "aa/1.seq", LARGE)
    reader = store.open("aa/1.seq")
    for _ in range(20):
        stream = reader.stream(100, len(LARGE))
        first = next(stream)
        assert 0 < len(first) <= 1 << 20
        assert LARGE[100:].startswith(first)
        del stream
    assert b"".join(reader.stream(0, len(LARGE))) == LARGE


def test_one_reader_serves_many_threads(store: ContainerStore) -> None:
    put(store, "aa/1.seq", LARGE)
    reader = store.open("aa/1.seq")
    where = [random.Random(12).randrange(len(LARGE)) for _ in range(80)]

    def read(offset: int) -> bool:
        return (reader.pread(offset, 30_000) == LARGE[offset:offset + 30_000]
                and b"".join(reader.stream(offset, 2 << 20)) == LARGE[offset:offset + (2 << 20)])
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, where))


def test_a_name_that_is_taken_is_not_written_over(store: ContainerStore) -> None:
    put(store, "aa/1.seq", IMAGE)
    with pytest.raises(FileExistsError):
        store.create("aa/1.seq", 3)
    assert got(store, "aa/1.seq") == IMAGE


def test_a_name_that_is_being_written_is_taken(store: ContainerStore) -> None:
    file = store.create("aa/1.seq", len(IMAGE))
    with pytest.raises(FileExistsError):
        store.create("aa/1.seq", 3)
    file.write(IMAGE)
    file.close()
    assert got(store, "aa/1.seq") == IMAGE


def test_a_file_that_is_not_there(store: ContainerStore) -> None:
    for name in ("aa/1.seq", "none"):
        with pytest.raises(FileNotFoundError):
            store.open(name)
        with pytest.raises(FileNotFoundError):
            store.rename(name, "bb/2.seq")
        store.delete(name)
    assert store.folders() in ([], ["bb"])
    assert list(store.files("bb")) == []


@pytest.mark.parametrize("written", [0, 5, len(IMAGE), 3 << 20])
def test_what_is_dropped_leaves_its_name_free(store: ContainerStore, written: int) -> None:
    file = store.create(".tmp/1", written)
    file.write(LARGE[:written])
    file.abort()
    file.abort()
    assert list(store.files(".tmp")) == []
    put(store, ".tmp/1", IMAGE)
    assert got(store, ".tmp/1") == IMAGE


def test_what_was_closed_may_be_dropped_too(store: ContainerStore) -> None:
    file = store.create(".tmp/1", 3)
    file.write(b"123")
    file.close()
    file.abort()
    assert list(store.files(".tmp")) == []


def test_dropping_after_a_new_name_harms_nothing(store: ContainerStore) -> None:
    file = store.create(".tmp/1", len(IMAGE))
    file.write(IMAGE)
    file.close()
    assert store.rename(".tmp/1", "aa/1.seq")
    file.abort()
    assert got(store, "aa/1.seq") == IMAGE


def test_a_new_name_in_a_new_folder(store: ContainerStore) -> None:
    put(store, ".tmp/1", IMAGE)
    assert store.rename(".tmp/1", "c3/1.2.3-0f.seq")
    assert got(store, "c3/1.2.3-0f.seq") == IMAGE
    with pytest.raises(FileNotFoundError):
        store.open(".tmp/1")


def test_a_new_name_that_is_taken_changes_nothing(store: ContainerStore) -> None:
    put(store, ".tmp/1", IMAGE)
    put(store, "aa/1.seq", b"first")
    assert store.rename(".tmp/1", "aa/1.seq") is False
    assert (got(store, ".tmp/1"), got(store, "aa/1.seq")) == (IMAGE, b"first")


def test_of_several_that_want_one_name_one_gets_it(store: ContainerStore) -> None:
    for number in range(6):
        put(store, f".tmp/{number}", str(number).encode())
    together = threading.Barrier(6)

    def rename(number: int) -> bool:
        together.wait()
        return store.rename(f".tmp/{number}", "aa/1.seq")
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(rename, range(6)))
    assert sorted(won) == [False] * 5 + [True]
    assert got(store, "aa/1.seq") == str(won.index(True)).encode()
    assert len(list(store.files(".tmp"))) == 5


def test_a_reader_outlives_the_new_name_of_its_file(store: ContainerStore) -> None:
    put(store, ".tmp/1", LARGE)
    reader = store.open(".tmp/1")
    assert store.rename(".tmp/1", "aa/1.seq")
    assert reader.pread(1 << 20, 1000) == LARGE[1 << 20:(1 << 20) + 1000]


def test_files_are_those_right_inside_a_folder(store: ContainerStore) -> None:
    before = store.clock()
    put(store, "aa/1.seq", b"12345")
    put(store, "aa/2.seq", b"")
    put(store, "aa/bb/3.seq", b"x")
    file = store.create("aa/4.seq", 10)
    found = {one.name: one for one in store.files("aa")}
    assert sorted(found) == ["aa/1.seq", "aa/2.seq", "aa/4.seq"]
    assert (found["aa/1.seq"].size, found["aa/2.seq"].size) == (5, 0)
    assert before - 1 <= found["aa/1.seq"].modified <= store.clock() + 1
    assert list(store.files("zz")) == []
    file.abort()


def test_a_name_does_not_change_when_a_file_was_written(store: ContainerStore) -> None:
    put(store, ".tmp/1", b"12345")
    (written,) = store.files(".tmp")
    store.rename(".tmp/1", "aa/1.seq")
    assert [(one.size, one.modified) for one in store.files("aa")] == [(5, written.modified)]


def test_folders_of_the_first_level(store: ContainerStore) -> None:
    assert store.folders() == []
    for name in ("c3/1.seq", "0f/2.seq", ".tmp/3", "0f/deep/4.seq"):
        put(store, name, b"1")
    put(store, "loose", b"1")
    assert store.folders() == [".tmp", "0f", "c3"]


def test_what_was_removed_is_gone_and_its_name_free(store: ContainerStore) -> None:
    put(store, "aa/1.seq", b"first")
    put(store, "aa/2.seq", b"second")
    store.delete("aa/1.seq")
    store.delete("aa/1.seq")
    with pytest.raises(FileNotFoundError):
        store.open("aa/1.seq")
    assert [one.name for one in store.files("aa")] == ["aa/2.seq"]
    put(store, "aa/1.seq", b"again")
    assert got(store, "aa/1.seq") == b"again"


def test_the_clock_goes_forward(store: ContainerStore) -> None:
    first, second = store.clock(), store.clock()
    assert first <= second
    assert list(store.files(".tmp")) == []


def test_space_and_health_of_a_store_that_is_well(store: ContainerStore) -> None:
    space = store.space()
    assert space is None or 0 < space.free <= space.total
    assert store.gap >= 0
    assert store.health() == ""
    assert list(store.files(".tmp")) == []


def test_a_store_that_has_ended_may_be_asked_again(store: ContainerStore) -> None:
    put(store, "aa/1.seq", IMAGE)
    store.end()
    assert got(store, "aa/1.seq") == IMAGE
