"""Writers of SQLite that wait together share one commit, and each is still all or nothing."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from broker.db.shared_commit import SharedWriter
from broker.db.unit import SqlUnit
from broker.model.errors import Unavailable

TOGETHER = 5


class Store:
    """A database with one table, and every transaction statement its writer sent."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "store.db"
        self.seen: list[str] = []
        engine = sa.create_engine(f"sqlite:///{self.path}", connect_args={"check_same_thread": False}, poolclass=sa.NullPool)
        self.connection = engine.connect()
        driver = self.connection.connection.driver_connection
        assert driver is not None
        self.driver = driver
        driver.isolation_level = None
        driver.execute("PRAGMA journal_mode=WAL")
        driver.execute("CREATE TABLE probe (n INTEGER, fill TEXT)")
        driver.set_trace_callback(self.seen.append)

    def writer(self, *, share: bool = True) -> SharedWriter:
        return SharedWriter(lambda: self.connection, share=share, open_for=3600)    # whoever waits is not late

    def rows(self) -> list[int]:
        engine = sa.create_engine(f"sqlite:///{self.path}")
        with engine.connect() as connection:
            found = [n for (n,) in connection.exec_driver_sql("SELECT n FROM probe ORDER BY n")]
        engine.dispose()
        return found

    def commits(self) -> int:
        return self.seen.count("COMMIT")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.connection.close()


def together(writer: SharedWriter, works: list[Callable[[SqlUnit], None]]) -> list[BaseException | None]:
    """Run works in order of the list, all waiting before the first one ends; return how each ended."""
    ends: list[BaseException | None] = [None] * len(works)
    everyone_waits = threading.Event()

    def run(number: int) -> None:
        try:
            with writer.unit() as unit:
                everyone_waits.wait(30)
                works[number](unit)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            ends[number] = error

    threads = []
    for number in range(len(works)):
        threads.append(threading.Thread(target=run, args=(number,)))
        threads[-1].start()
        while number and writer.waiting < number:
            time.sleep(0.001)
    everyone_waits.set()
    for thread in threads:
        thread.join()
    return ends


def insert(n: int, fill: str = "") -> Callable[[SqlUnit], None]:
    return lambda unit: unit.driver.execute("INSERT INTO probe VALUES (?, ?)", (n, fill))


def fail(unit: SqlUnit) -> None:
    insert(99)(unit)
    raise ZeroDivisionError


def test_those_that_wait_share_one_commit(store: Store) -> None:
    assert together(store.writer(), [insert(n) for n in range(TOGETHER)]) == [None] * TOGETHER
    assert (store.rows(), store.commits()) == (list(range(TOGETHER)), 1)


def test_without_sharing_each_has_its_own(store: Store) -> None:
    assert together(store.writer(share=False), [insert(n) for n in range(TOGETHER)]) == [None] * TOGETHER
    assert (store.rows(), store.commits()) == (list(range(TOGETHER)), TOGETHER)


@pytest.mark.parametrize("place", range(3))
def test_a_unit_that_fails_takes_back_its_own_and_nothing_else(store: Store, place: int) -> None:
    works = [insert(0), insert(1)]
    works.insert(place, fail)
    ends = together(store.writer(), works)
    assert isinstance(ends.pop(place), ZeroDivisionError)
    assert ends == [None, None]
    assert store.rows() == [0, 1]


def test_nobody_hears_success_when_the_commit_they_share_fails(store: Store) -> None:
    def end_it_all(unit: SqlUnit) -> None:      # as SQLite does by itself when a disk is full
        unit.driver.execute("ROLLBACK")
        raise ZeroDivisionError

    ends = together(store.writer(), [insert(0), insert(1), end_it_all, insert(3)])
    assert [type(end) for end in ends] == [Unavailable, Unavailable, ZeroDivisionError, type(None)]
    assert store.rows() == [3]


def test_a_full_disk_refuses_what_does_not_fit(store: Store) -> None:
    (pages,) = store.driver.execute("PRAGMA page_count").fetchone()
    store.driver.execute(f"PRAGMA max_page_count={pages + 4}")
    ends = together(store.writer(), [insert(0), insert(1, "x" * 100_000), insert(2)])
    assert isinstance(ends[1], Exception)
    assert store.rows() == [number for number in (0, 2) if ends[number] is None]
    assert ends[2] is None


def test_a_transaction_that_is_open_for_long_takes_no_further_unit(store: Store) -> None:
    writer = SharedWriter(lambda: store.connection, open_for=0)
    assert together(writer, [insert(0), insert(1)]) == [None, None]
    assert (store.rows(), store.commits()) == ([0, 1], 2)


def test_a_writer_goes_on_after_a_failure_of_the_connection(store: Store) -> None:
    writer = store.writer()
    assert isinstance(together(writer, [fail])[0], ZeroDivisionError)
    assert together(writer, [insert(1)]) == [None]
    assert store.rows() == [1]


def test_a_connection_that_cannot_even_take_back_is_not_used_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Store(store.path.parent / "second").connection
    connections = iter((store.connection, second))
    writer = SharedWriter(lambda: next(connections), open_for=3600)

    def no_disk() -> None:
        raise sa.exc.OperationalError("ROLLBACK", {}, sqlite3.OperationalError("disk I/O error"))

    monkeypatch.setattr(store.connection, "rollback", no_disk)
    assert [type(end) for end in together(writer, [insert(0), fail])] == [type(None), ZeroDivisionError]
    assert (store.rows(), store.connection.invalidated) == ([0], True)
    assert together(writer, [insert(1)]) == [None]
    assert second.exec_driver_sql("SELECT n FROM probe").scalars().all() == [1]
    writer.close()


class _NoDisk:
    """A driver's connection whose transaction can be ended neither way."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def execute(self, statement: str) -> sqlite3.Cursor:
        if statement in {"COMMIT", "ROLLBACK"}:
            raise sqlite3.OperationalError("disk I/O error")
        return self._driver.execute(statement)

    @property
    def in_transaction(self) -> bool:
        return self._driver.in_transaction


def test_a_connection_that_stays_in_a_transaction_of_the_drivers_own_statements_is_not_used_again(
    store: Store, monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = Store(store.path.parent / "second").connection
    connections = iter((store.connection, second))
    writer = SharedWriter(lambda: next(connections), open_for=3600)
    record = store.connection.connection
    monkeypatch.setattr(type(record), "driver_connection", property(lambda held: _NoDisk(store.driver) if held is record else (
        held.dbapi_connection)))

    (end,) = together(writer, [lambda unit: unit.driver.execute("INSERT INTO probe VALUES (0, '')")])
    assert isinstance(end, sqlite3.OperationalError)
    assert store.connection.invalidated
    assert together(writer, [insert(1)]) == [None]
    assert second.exec_driver_sql("SELECT n FROM probe").scalars().all() == [1]
    writer.close()


def test_a_transaction_that_sqlite_ended_is_no_success(store: Store) -> None:
    ends = together(store.writer(), [lambda unit: unit.driver.execute("ROLLBACK"), insert(1)])
    assert [type(end) for end in ends] == [Unavailable, type(None)]
    assert store.rows() == [1]
