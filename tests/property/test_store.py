"""Any order of calls on a store of containers, against what a dictionary would hold; on a folder and on a real HDFS."""

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule, run_state_machine_as_test

from broker.archive.tiers.base import ContainerReader, ContainerStore, ContainerWriter
from broker.archive.tiers.posix import PosixStore
from tests.helpers.containers import KINDS, in_hdfs

FOLDERS = ("aa", "0f", ".tmp")
NAMES = st.sampled_from([f"{folder}/{name}" for folder in FOLDERS for name in ("1.2.3-0a.seq", "1.2.3-0b.seq", "2.5-1c.seq")])
PIECES = st.one_of(st.binary(max_size=300), st.integers(100_000, 1_500_000).map(lambda size: bytes([size % 251]) * size))


class Machine(RuleBasedStateMachine):
    """A store beside what it should hold."""

    store: ContainerStore
    writers = Bundle("writers")
    readers = Bundle("readers")

    def __init__(self, fresh: Any) -> None:
        super().__init__()
        self.store = fresh()
        self.closed: dict[str, bytes] = {}
        self.open: dict[str, bytes] = {}
        self.files: list[ContainerWriter] = []

    @initialize(target=writers, name=NAMES)
    def begin(self, name: str) -> tuple[str, ContainerWriter]:
        return self._begun(name, 0)

    @rule(target=writers, name=NAMES, size=st.integers(0, 2_000_000))
    def create(self, name: str, size: int) -> Any:
        if name in self.closed or name in self.open:
            with pytest.raises(FileExistsError):
                self.store.create(name, size)
            return "", None
        return self._begun(name, size)

    def _begun(self, name: str, size: int) -> tuple[str, ContainerWriter]:
        file = self.store.create(name, size)
        self.open[name] = b""
        self.files.append(file)
        return name, file

    @rule(writer=writers, piece=PIECES)
    def write(self, writer: Any, piece: bytes) -> None:
        name, file = writer
        if name:
            file.write(piece)
            self.open[name] += piece

    @rule(writer=consumes(writers))
    def close(self, writer: Any) -> None:
        name, file = writer
        if name:
            file.close()
            self.closed[name] = self.open.pop(name)

    @rule(writer=consumes(writers), closed=st.booleans())
    def abort(self, writer: Any, closed: bool) -> None:
        name, file = writer
        if name:
            if closed:
                file.close()
            file.abort()
            del self.open[name]

    @rule(name=NAMES, new=NAMES)
    def rename(self, name: str, new: str) -> None:
        if name in self.open or name == new:
            return
        if name not in self.closed:
            with pytest.raises(FileNotFoundError):
                self.store.rename(name, new)
        elif new in self.closed or new in self.open:
            assert self.store.rename(name, new) is False
        else:
            assert self.store.rename(name, new) is True
            self.closed[new] = self.closed.pop(name)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if name not in self.open:
            self.store.delete(name)
            self.closed.pop(name, None)

    @rule(target=readers, name=NAMES)
    def reader(self, name: str) -> tuple[bytes, ContainerReader | None]:
        if name in self.closed:
            return self.closed[name], self.store.open(name)
        if name not in self.open:
            with pytest.raises(FileNotFoundError):
                self.store.open(name)
        return b"", None

    @rule(reader=readers, start=st.floats(0, 1.1), length=st.integers(0, 1_600_000), streamed=st.booleans())
    def read(self, reader: Any, start: float, length: int, streamed: bool) -> None:
        """A file that was removed or renamed since is read in full, or is not there any more."""
        data, file = reader
        if file is None:
            return
        offset = int(start * len(data))
        try:
            found = b"".join(file.stream(offset, length)) if streamed else file.pread(offset, length)
        except FileNotFoundError:
            assert not any(held is data for held in self.closed.values())
        else:
            assert found == data[offset:offset + length]

    @invariant()
    def lists(self) -> None:
        for folder in FOLDERS:
            found = {one.name: one.size for one in self.store.files(folder)}
            assert set(found) == {name for name in (*self.closed, *self.open) if name.startswith(f"{folder}/")}
            assert {name: size for name, size in found.items() if name in self.closed} == {
                name: len(data) for name, data in self.closed.items() if name in found}

    def teardown(self) -> None:
        """What was closed is there to the last."""
        for name, data in self.closed.items():
            file = self.store.open(name)
            assert file.pread(0, file.size + 1) == data
        for writer in self.files:
            writer.abort()
        self.store.end()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_does_what_a_dictionary_does(kind: str, request: pytest.FixtureRequest, tmp_path: Any) -> None:
    folder = request.getfixturevalue("hdfs") if kind == "hdfs" else None

    def fresh() -> ContainerStore:
        name = uuid.uuid4().hex
        return in_hdfs(folder, name) if folder else PosixStore(tmp_path / name)
    run_state_machine_as_test(
        lambda: Machine(fresh),  # type: ignore[arg-type]  # it takes what makes a machine, too
        settings=settings(max_examples=12 if folder else 60, stateful_step_count=30, deadline=None,
                          suppress_health_check=list(HealthCheck)))
