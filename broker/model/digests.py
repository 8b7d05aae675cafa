"""Digests computed beside the work on the same bytes: hashlib lets go of the interpreter, so a second core can do it."""

import hashlib
import queue
import threading
from typing import Self

_AHEAD = 8                  # pieces that wait to be hashed
_WORTH = 1 << 20            # bytes from which on a thread is worth starting


class Digests:
    """Updates digests in a thread of its own once there is enough to do; all are complete when the `with` is left.

    Pieces must not be changed after they were handed over.
    """

    def __init__(self) -> None:
        self._work: queue.Queue[tuple[hashlib._Hash, bytes] | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, name="digests", daemon=True)
        self._beside, self._done = False, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._beside:
            self._work.put(None)
            self._thread.join()

    def update(self, digest: "hashlib._Hash", data: bytes) -> None:
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
