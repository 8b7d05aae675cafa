"""Coordination inside one machine: no hub process, only the file system.

Every subscription is a Unix datagram socket in `<run folder>/coord/`, named `<channel>+<channel>@<pid>-<token>`; to
publish is to send a datagram to each name that lists the channel. A socket that refuses has lost its process and is
removed. Locks are `flock`s, which the kernel frees when their holder dies.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import structlog

from broker.coord.base import Body, Subscription, read_json
from broker.files.modes import PRIVATE, make_folder, tighten

MAX_MESSAGE = 60_000
_LONGEST_NAME = 48
_LONGEST_PATH = 107         # sun_path of unix(7), without its closing NUL
_WAITING = 1000             # announcements held for a subscriber that is slow; further ones are lost
_ALL = "all"

log = structlog.get_logger("broker.coord")


class LocalCoord:
    """Announcements and locks between the processes that share a run folder."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / "coord"
        make_folder(self._folder, PRIVATE)
        if self._folder.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "belongs to another user", str(self._folder))
        tighten(self._folder, PRIVATE)
        self._locks = run_folder / "locks"
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def publish(self, channel: str, body: Body) -> None:
        """Announce to everyone listening now. A subscriber whose socket is full does not get it."""
        data = json.dumps([channel, body], separators=(",", ":")).encode()
        if len(data) > MAX_MESSAGE:
            log.warning("announcement too long", channel=channel, size=len(data))
            return
        try:
            names = os.listdir(self._folder)
        except OSError:
            return
        listening = [name for name in names if _listens(name, channel)]
        if listening:
            with contextlib.suppress(FileNotFoundError), _short(self._folder) as short:
                for name in listening:
                    self._send(f"{short}/{name}", data)

    def _send(self, path: str, data: bytes) -> None:
        try:
            self._sender.sendto(data, path)
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(path)
        except OSError as error:
            log.debug("announcement lost", reason=error.strerror)

    def subscribe(self, *channels: str) -> Subscription:
        """Listen on these channels; where no socket can be made, hear nothing: the listener's looks into SQL remain."""
        try:
            return LocalSubscription(self._folder, channels)
        except OSError as error:
            log.warning("cannot listen", reason=error.strerror)
            return _SilentSubscription()

    @contextlib.contextmanager
    def lock(self, name: str, ttl: float) -> Iterator[bool]:  # noqa: ARG002 - the kernel frees it, no clock needed
        """Try to be the only one on this machine; freed at once when the holder dies."""
        make_folder(self._locks, PRIVATE)
        path = self._locks / hashlib.sha256(name.encode()).hexdigest()[:32]
        handle = _take(path)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                path.unlink(missing_ok=True)
                os.close(handle)

    def state(self) -> str:
        """Say `ok`, or what is wrong."""
        return "ok" if os.access(self._folder, os.W_OK | os.X_OK) else "the run folder cannot be written"

    def close(self) -> None:
        """Stop announcing."""
        self._sender.close()


class LocalSubscription:
    """One listening socket. For one thread."""

    def __init__(self, folder: Path, channels: tuple[str, ...]) -> None:
        self._channels = frozenset(channels)
        self._heard: deque[tuple[str, Body]] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._path = _bind(self._socket, folder, channels)
        except OSError:
            self._socket.close()
            raise
        self._ready = select.poll()
        self._ready.register(self._socket, select.POLLIN)

    def get(self, timeout: float) -> tuple[str, Body] | None:
        """Return the next (channel, body), or None after `timeout` seconds."""
        until = time.monotonic() + timeout
        while True:
            self._drain()
            if self._heard:
                return self._heard.popleft()
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._ready.poll(left * 1000)

    def _drain(self) -> None:
        while len(self._heard) < _WAITING:
            try:
                data = self._socket.recv(MAX_MESSAGE + 1)
            except BlockingIOError:
                return
            announcement = _read(data)
            if announcement is not None and announcement[0] in self._channels:
                self._heard.append(announcement)

    def close(self) -> None:
        """Stop listening; the name disappears."""
        self._path.unlink(missing_ok=True)
        self._socket.close()


class _SilentSubscription:
    """Hears nothing."""

    def get(self, timeout: float) -> None:
        """Return None after `timeout` seconds."""
        time.sleep(max(0.0, timeout))

    def close(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Return a path of `folder` that is short enough for the name of a socket in it: its own, or that of a handle on it.

    Raise OSError when the folder is gone.
    """
    if len(os.fsencode(folder)) + 1 + _LONGEST_NAME <= _LONGEST_PATH:
        yield str(folder)
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def _bind(listener: socket.socket, folder: Path, channels: tuple[str, ...]) -> Path:
    make_folder(folder, PRIVATE)
    tail = f"@{os.getpid()}-{secrets.token_hex(4)}"
    head = "+".join(channels)
    path = folder / ((head if len(head + tail) <= _LONGEST_NAME else _ALL) + tail)
    # Bound under a name nobody sends to, then renamed: a half-made socket would refuse and be taken for a dead one.
    with _short(folder) as short:
        listener.bind(f"{short}/{tail}")
    (folder / tail).chmod(0o600)
    (folder / tail).rename(path)
    return path


def _listens(name: str, channel: str) -> bool:
    channels, at, _ = name.partition("@")
    return bool(at) and (channels == _ALL or channel in channels.split("+"))


def _read(data: bytes) -> tuple[str, Body] | None:
    match read_json(data):
        case [str(channel), dict(body)]:
            return channel, body
    return None


def _take(path: Path) -> int | None:
    """Return a handle that holds the lock file at `path`, or None when another has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(handle, path):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        os.close(handle)        # the holder before us removed the name between our open and our flock


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
