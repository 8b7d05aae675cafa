"""How roles say that they live, and who reads it."""

import fcntl
import os
import threading
import time
from pathlib import Path

from broker.files.modes import FILE, PRIVATE, make_folder

_BEAT = 2.0     # seconds between two touches
_STALE = 8.0    # seconds without one after which a process hangs


class Heartbeat:
    """Says that a role of this machine lives, by a file of its own in the run folder.

    It is touched, for a process that hangs, and locked, for one that was killed: the kernel lets go at once.
    """

    def __init__(self, folder: Path, role: str) -> None:
        self._file = folder / "roles" / f"{role}.{os.getpid()}"
        self._handle = -1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        make_folder(self._file.parent, PRIVATE)
        self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self._file.touch()
        self._thread.start()

    def stop(self) -> None:
        """End; the role is gone at once."""
        self._stop.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)
        os.close(self._handle)

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT):
            self._file.touch()


def living(folder: Path) -> dict[str, int]:
    """Return the number of living processes by role."""
    now = time.time()
    found: dict[str, int] = {}
    for file in (folder / "roles").glob("*.*"):
        try:
            age, held = now - file.stat().st_mtime, _is_held(file)
        except FileNotFoundError:
            continue
        if held and age < _STALE:
            role = file.name.partition(".")[0]
            found[role] = found.get(role, 0) + 1
        elif not held and age > 60 * _STALE:
            file.unlink(missing_ok=True)
    return found


def _is_held(file: Path) -> bool:
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
