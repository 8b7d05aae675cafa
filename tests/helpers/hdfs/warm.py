"""Hadoop's own tools in one Java process that stays, as another reader of what we wrote and as what we are measured against."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.helpers.hdfs import hadoop


class ToolFailed(Exception):
    """What a tool printed when it failed."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and the seconds it took inside Java."""

    seconds: float
    lines: tuple[str, ...]


class Warm:
    """The process of `tests/peers/java/Warm.java` with a cluster's client configuration. Use as a context manager."""

    def __init__(self, configuration: Path, environment: Mapping[str, str] | None = None, flags: Sequence[str] = ()) -> None:
        line = hadoop.command(str(hadoop.JAVA / "Warm.java"), classpath=[configuration], flags=flags)
        self._errors = (configuration / "warm.log").open("ab")
        self._process = hadoop.spawn(line, environment or os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self._errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with self._process:     # waits, and closes its pipes
            self._errors.close()

    def run(self, *command: str) -> Answer:
        """Return the answer to one command; raise ToolFailed with what it printed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(("\t".join(command) + "\n").encode())
        stdin.flush()
        head = stdout.readline().decode().split("\t")
        if len(head) != 3:
            raise ToolFailed(f"the Java process ended: {Path(self._errors.name).read_text(errors='replace')[-2000:]}")
        lines = tuple(stdout.readline().decode().removesuffix("\n") for _ in range(int(head[2])))
        if head[0] != "ok":
            raise ToolFailed("\n".join(lines))
        return Answer(float(head[1]), lines)

    def put(self, file: Path, path: str) -> float:
        """Copy a file, or a folder with all below, into HDFS by `hdfs dfs -put`; return seconds."""
        return self.run("dfs", "-put", "-f", str(file), path).seconds

    def get(self, path: str, file: Path) -> float:
        """Copy a file out of HDFS by `hdfs dfs -get`; return seconds."""
        return self.run("dfs", "-get", "-f", path, str(file)).seconds

    def read(self, path: str) -> tuple[float, int]:
        """Read a file to its end; return seconds and bytes."""
        answer = self.run("read", path)
        return answer.seconds, int(answer.lines[0])

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file (hex)."""
        return self.run("digest", path).lines[0]

    def records(self, path: str) -> list[tuple[str, int, str]]:
        """Return key, length and SHA-256 (hex) of each record as Hadoop's `SequenceFile.Reader` finds them."""
        rows = (line.split("\t") for line in self.run("records", path).lines)
        return [(key, int(length), digest) for key, length, digest in rows]
