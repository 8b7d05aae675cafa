"""A slow line between a sender and the broker, which breaks now and then: what is under way stays so for long."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

from tests.chaos.journal import Journal

_CHUNK = 8192


class Link:
    """Carries connections of a port of its own to `target`, `rate` bytes a second each; one in a few breaks on the way.

    `free` ends both, for what comes after the load; `held` stops all bytes for a while. Use as a context manager.
    """

    def __init__(self, target: int, rate: int, dice: random.Random, journal: Journal, *, breaks: float = 0.05) -> None:
        self._target, self._rate, self._breaks, self._dice, self._journal = target, rate, breaks, dice, journal
        self._free, self._moving = threading.Event(), threading.Event()
        self._moving.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="link", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._free.set()
        self._moving.set()
        self._listener.close()

    def free(self) -> None:
        """Be as fast and as reliable as the machine from now on."""
        self._free.set()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Carry nothing until left: whoever waits for the other side goes on waiting."""
        self._moving.clear()
        try:
            yield
        finally:
            self._moving.set()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(peer,), name="link", daemon=True).start()

    def _connect(self, peer: socket.socket) -> None:
        """Carry one connection, both ways, until it is over."""
        with peer, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target), 5) as broker:
            broken_after = self._dice.randrange(500, 100_000) if self._dice.random() < self._breaks else 1 << 62
            for end in (peer, broker):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._carry, args=(broker, peer, 1 << 62), name="link", daemon=True)
            back.start()
            self._carry(peer, broker, broken_after)
            back.join()

    def _carry(self, source: socket.socket, sink: socket.socket, most: int) -> None:
        """Carry one direction until either side ends or `most` bytes went; then the connection is over both ways."""
        with contextlib.suppress(OSError):
            while most > 0 and (data := source.recv(min(_CHUNK, most))):
                self._moving.wait()
                sink.sendall(data)
                if not self._free.is_set():
                    most -= len(data)
                    time.sleep(len(data) / self._rate)
        if most <= 0:
            self._journal.count("lines broken in mid-association")
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
