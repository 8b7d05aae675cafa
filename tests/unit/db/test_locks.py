"""Named locks: their order everywhere, and on PostgreSQL what waits for what."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

from broker.db import Database, Lock, lock, lock_all
from tests.helpers.postgresql import Postgres, fresh

SOON = 0.3      # seconds a thread that need not wait may take to say so, tried again and again up to MOST
MOST = 20.0


@pytest.fixture(scope="module")
def on_postgres(postgres: Postgres) -> Iterator[Database]:
    with contextlib.closing(Database(fresh(postgres.url))) as store:
        yield store


def test_locks_are_taken_in_their_order(database: Database) -> None:
    with database.write() as unit:
        lock(unit, Lock.PATIENT_INDEX)
        lock(unit, Lock.REGISTRY_PATIENT, ["a", "b"])
        lock(unit, Lock.REGISTRY_PATIENT, ["c"])
        with pytest.raises(AssertionError, match="PATIENT_INDEX is taken after REGISTRY_PATIENT"):
            lock(unit, Lock.PATIENT_INDEX)


def test_locks_of_several_kinds_keep_the_order_too(database: Database) -> None:
    with database.write() as unit:
        lock_all(unit, {Lock.REGISTRY_OBJECT: ["1.2"], Lock.REGISTRY_PATIENT: ["a"]})
        with pytest.raises(AssertionError, match="REGISTRY_PATIENT is taken after REGISTRY_OBJECT"):
            lock_all(unit, {Lock.REGISTRY_PATIENT: ["b"], Lock.REGISTRY_OBJECT: ["1.3"]})


def passes(store: Database, kind: Lock, names: tuple[str, ...], held: Lock, held_names: tuple[str, ...]) -> bool:
    """Say whether a second unit gets its lock while the first one holds its own."""
    got = threading.Event()

    def other() -> None:
        with store.write() as unit:
            lock(unit, kind, names)
            got.set()

    thread = threading.Thread(target=other)
    with store.write() as unit:
        lock(unit, held, held_names)
        thread.start()
        early = got.wait(SOON if kind == held and set(names) & set(held_names) else MOST)
    thread.join()
    assert got.is_set()
    return early


@pytest.mark.peer("postgresql")
@pytest.mark.parametrize(("kind", "names", "held", "held_names", "free"), [
    (Lock.REGISTRY_PATIENT, ("p",), Lock.PATIENT_INDEX, ("",), True),
    (Lock.REGISTRY_PATIENT, ("p",), Lock.REGISTRY_PATIENT, ("q",), True),
    (Lock.REGISTRY_PATIENT, ("p",), Lock.REGISTRY_PATIENT, ("q", "p"), False),
    (Lock.REGISTRY_OBJECT, ("1.2", "1.3"), Lock.REGISTRY_OBJECT, ("1.4",), True),
    (Lock.REGISTRY_OBJECT, ("1.2", "1.3"), Lock.REGISTRY_OBJECT, ("1.3", "1.1"), False),
    (Lock.DOCUMENT, ("1.2",), Lock.REGISTRY_OBJECT, ("1.2",), True),
    (Lock.PATIENT_INDEX, ("",), Lock.PATIENT_INDEX, ("",), False),
], ids=str)
def test_who_waits_for_whom(
    on_postgres: Database, kind: Lock, names: tuple[str, ...], held: Lock, held_names: tuple[str, ...], free: bool,
) -> None:
    assert passes(on_postgres, kind, names, held, held_names) is free


@pytest.mark.peer("postgresql")
@pytest.mark.parametrize(("held", "name", "free"), [
    (Lock.REGISTRY_PATIENT, "p", False),
    (Lock.REGISTRY_OBJECT, "1.3", False),
    (Lock.REGISTRY_OBJECT, "p", True),
], ids=str)
def test_each_lock_of_several_is_waited_for(on_postgres: Database, held: Lock, name: str, free: bool) -> None:
    got = threading.Event()

    def other() -> None:
        with on_postgres.write() as unit:
            lock_all(unit, {Lock.REGISTRY_PATIENT: ["p"], Lock.REGISTRY_OBJECT: ["1.2", "1.3"]})
            got.set()

    thread = threading.Thread(target=other)
    with on_postgres.write() as unit:
        lock(unit, held, [name])
        thread.start()
        early = got.wait(MOST if free else SOON)
    thread.join()
    assert got.is_set()
    assert early is free
