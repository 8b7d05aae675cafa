"""Digests out of the way of the work on the same bytes: beside it (hashlib lets go of the interpreter), or after it."""

import hashlib
import queue
import threading
from collections import deque
from typing import Self

_AHEAD = 8                  # pieces that wait to be hashed
_WORTH = 1 << 20            # bytes from which on a thread is worth starting
_LATE = 1 << 20             # bytes whose SHA-256 may wait

_free: deque[memoryview] = deque(maxlen=64)     # fresh memory for each object would cost more than the copy


class Digests:
    """Updates digests in a thread of its own once there is enough to do; all are complete when the `with` is left.

    Pieces must not be changed after they were handed over.
    """

    def __init__(self) -> None:
        self._work: queue.Queue[tuple[hashlib._Hash, bytes | memoryview] | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, name="digests", daemon=True)
        self._beside, self._done = False, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._beside:
            self._work.put(None)
            self._thread.join()

    def update(self, digest: "hashlib._Hash", data: bytes | memoryview) -> None:
        """Add to a digest, at once or some time soon."""
        if self._beside:
            self._work.put((digest, data))
            return
        digest.update(data)
        self._done += len(data)
        if self._done >= _WORTH:
            self._thread.start()
            self._beside = True

    def _run(self) -> None:
        while (piece := self._work.get()) is not None:
            piece[0].update(piece[1])


class LateSha256:
    """A SHA-256 that takes a copy of the bytes, and hashes the last ones, up to 1 MB, when it is asked for."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._late: memoryview | None = None
        self._waiting = 0

    def update(self, data: bytes | memoryview) -> None:
        """Add to it."""
        if self._waiting + len(data) > _LATE:
            self._catch_up()
        if len(data) > _LATE:
            self._digest.update(data)
            return
        if self._late is None:
            self._late = _buffer()
        end = self._waiting + len(data)
        self._late[self._waiting:end] = data
        self._waiting = end

    def hexdigest(self) -> str:
        """Return it as it is now."""
        self._catch_up()
        return self._digest.hexdigest()

    def _catch_up(self) -> None:
        if self._late is not None:
            self._digest.update(self._late[:self._waiting])
            _free.append(self._late)
            self._late, self._waiting = None, 0


def _buffer() -> memoryview:
    try:
        return _free.pop()
    except IndexError:
        return memoryview(bytearray(_LATE))
