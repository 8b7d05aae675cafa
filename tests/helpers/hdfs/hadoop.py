"""Hadoop's own programs: the jars of one release, and Java processes that run what is in them."""

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

VERSION = "3.5.0"       # also in tests/peers/java/pom.xml
ROOT = Path(__file__).parents[3]
JAVA = ROOT / "tests" / "peers" / "java"
JARS = ROOT / "build" / f"hadoop-{VERSION}"

_OPENED = ("java.base/java.lang", "java.base/java.nio", "java.base/sun.nio.ch", "java.base/java.util",
           "java.security.jgss/sun.security.krb5")
_EXPORTED = ("java.base/sun.nio.ch", "java.security.jgss/sun.security.krb5")
_FLAGS = (
    *(flag for module in _OPENED for flag in ("--add-opens", f"{module}=ALL-UNNAMED")),
    *(flag for module in _EXPORTED for flag in ("--add-exports", f"{module}=ALL-UNNAMED")),
    "-Xmx256m", "-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true")

# For servers of tests: a third less processor time until they are up, and slower code. Leave it out where speed is measured.
QUICK = ("-XX:TieredStopAtLevel=1",)

# The kernel ends a server when the thread that started it ends: this one lives as long as the process that tests.
_STARTER = ThreadPoolExecutor(1, "hadoop")


def jars() -> Path:
    """Return the folder with Hadoop's jars. Who asks first fetches them from Maven's repository, 106 MB; others wait."""
    JARS.parent.mkdir(exist_ok=True)
    with (JARS.parent / f"{JARS.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not JARS.is_dir():
            part = JARS.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            run(["mvn", "-q", "-B", "-f", str(JAVA / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={part}"])
            part.rename(JARS)
    return JARS


def command(program: str, *arguments: str, classpath: Sequence[Path] = (), flags: Sequence[str] = ()) -> list[str]:
    """Return the command line that runs a class (or the source file of one) with Hadoop's jars behind these folders."""
    path = os.pathsep.join([*map(str, classpath), f"{jars()}/*"])
    return ["java", *_FLAGS, *flags, "-cp", path, program, *arguments]


def compiled(source: str, folder: Path) -> Path:
    """Compile a file of `tests/peers/java` into this folder; return the folder."""
    run(["javac", "-cp", f"{jars()}/*", "-d", str(folder), str(JAVA / source)])
    return folder


def run(line: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Return what a program wrote; fail with the end of its errors when it fails."""
    done = subprocess.run(line, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-3000:]
    return done.stdout.decode()


def spawn(line: Sequence[str], environment: Mapping[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a program that the kernel ends with us, also when we are killed or it is frozen."""
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *line], env=environment, **streams)
    return _STARTER.submit(start).result()


class Daemon:
    """A server that a test may kill, freeze and start again. It dies with the process that tests, also when that is killed."""

    def __init__(self, name: str, line: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log = name, log
        self._line, self._environment = line, environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there, be it frozen."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and return at once."""
        assert not self.running, f"{self.name} runs"
        with self.log.open("ab") as log:
            self._process = spawn(self._line, self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as a machine ends that loses its power."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self.thaw()
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Let it hold its connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def _end(self, number: int) -> None:
        self._signal(number)
        if self._process is not None:
            self._process.wait()

    def said(self) -> str:
        """Return the end of what it wrote into its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
