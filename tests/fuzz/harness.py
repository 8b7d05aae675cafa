"""Fuzzing of everything that reads what others send: targets, their golden inputs, what workers and their watch share.

A target's reader may give a value or raise one of its allowed errors (`BrokerError` always), within bounds of time and
memory per input; it may not log an error or a warning either. Anything else is a finding: the input and its traceback
are kept as build/fuzz/<target>/<hash>.bin and .txt. A worker process that hangs, dies or outgrows its memory is ended
and replaced, and what it was reading is the finding.
"""

import hashlib
import mmap
import struct
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
BUILD = ROOT / "build" / "fuzz"

_LONGEST = 1 << 20

Reader = Callable[[bytes], str]
"""Reads one input and gives a word or two on what it was; inputs of a new kind are kept to mutate further."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader. `make` gives it, set up in a scratch folder; `golden` are folders of tests/golden.

    `allowed` are outcomes beside `BrokerError`; `slope` is seconds per byte beyond a quarter of a second, `memory` the
    bytes an input may need beyond what the worker had before, `cpu` the seconds after which it is broken off in any case
    (and the line named that was slow), `short` the inputs of a short pass.
    """

    name: str
    make: Callable[[Path], Reader]
    golden: tuple[str, ...]
    words: tuple[bytes, ...] = ()
    allowed: tuple[type[Exception], ...] = ()
    longest: int = 1 << 16
    slope: float = 5e-6
    memory: int = 256 << 20
    cpu: float = 2.0
    short: int = 300


def seeds(target: Target) -> dict[str, bytes]:
    """Return the golden inputs of a target by `folder/file`; every one has its origin told in origin.toml."""
    found: dict[str, bytes] = {}
    for folder in target.golden:
        origins = tomllib.loads((GOLDEN / folder / "origin.toml").read_text("utf-8"))
        found |= {f"{folder}/{name}": (GOLDEN / folder / name).read_bytes() for name in origins}
    return found


@dataclass(frozen=True, slots=True)
class Finding:
    """What went wrong, and the file that holds the input; `trace` is beside it with the suffix .txt."""

    target: str
    what: str
    file: Path


class Board:
    """The memory a worker and its watcher share: counts, since when which input is being read."""

    _HEAD = struct.Struct("<QQQQddI")

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the file."""
        path.write_bytes(bytes(cls._HEAD.size + _LONGEST))
        return cls(path)

    def begin(self, counts: Sequence[int], data: bytes) -> None:
        """Tell what is read now."""
        self._HEAD.pack_into(self._map, 0, *counts, time.monotonic(), time.process_time(), len(data))
        self._map[self._HEAD.size:self._HEAD.size + len(data)] = data

    def look(self) -> tuple[list[int], float, float, bytes]:
        """Return the counts, the moment (monotonic) and the worker's CPU seconds when the input was begun, and the input."""
        *counts, wall, cpu, length = self._HEAD.unpack_from(self._map)
        return counts, wall, cpu, self._map[self._HEAD.size:self._HEAD.size + length]

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()


def keep(target: str, what: str, data: bytes, trace: str, folder: Path | None = None) -> Finding:
    """Write a finding down; the same thing found again has the same name."""
    folder = (folder or BUILD) / target
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha1(what.encode(), usedforsecurity=False).hexdigest()[:12]}.bin"
    file.write_bytes(data)
    file.with_suffix(".txt").write_text(f"{what}\n{trace}", "utf-8")
    return Finding(target, what, file)
