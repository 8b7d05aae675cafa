"""For how long the lock of a migration may be relied on. Who held it for longer may have been taken for dead."""

import time
from collections.abc import Callable

from broker.model.errors import Unavailable

SECONDS = 3600.0            # a study of the usual kind is packed and read twice in a small part of that time
_SLOWEST = 500_000.0        # bytes/s: a study that takes longer is packed again
_MARGIN = 0.9


def seconds_for(size: int, bytes_per_second: int = 0) -> float:
    """Return for how long a study of so many bytes is to be locked, where so many bytes a second may be packed (0: any)."""
    return SECONDS + size / _SLOWEST + (size / bytes_per_second if bytes_per_second else 0.0)


class Lease:
    """Begins when it is made, which is after the lock was taken. Rows defend themselves; files have only this."""

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic, self._until = monotonic, monotonic() + seconds * _MARGIN

    def check(self) -> None:
        """Raise `Unavailable` when another process may work on the study by now."""
        if self._monotonic() >= self._until:
            raise Unavailable("the lock of the study, which was held for too long,")
