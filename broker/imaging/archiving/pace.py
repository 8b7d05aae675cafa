"""When the worker may pack, and how fast: the hours and rates of the region."""

import threading
import time
from collections.abc import Callable

from broker.config.hours import at_zone, is_open
from broker.config.profile import Retention


class Stopped(BaseException):
    """The process stops: what is under way is given up, and begun again another time. Nobody takes it for a failure."""


class Pace:
    """Holds back whoever packs. Safe to share between threads; waiting ends with `Stopped` when `stop` is set.

    `wait` is told seconds and says whether `stop` was set meanwhile; `monotonic` counts seconds.
    """

    def __init__(
        self, retention: Retention, zone: str, stop: threading.Event, *,
        wait: Callable[[float], bool] | None = None, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hours, self._zone, self._stop = retention.hours, zone, stop
        self._wait = wait or stop.wait
        self._bytes = Rate(retention.bytes_per_second, monotonic)
        self._studies = Rate(retention.studies_per_hour / 3600.0, monotonic)

    def is_open(self, now: float) -> bool:
        """Say whether `now` (seconds since the epoch) lies in the hours of packing."""
        return is_open(self._hours, at_zone(now, self._zone))

    def study(self) -> None:
        """Return when the next study may be begun."""
        self._hold(self._studies.take(1))

    def moved(self, size: int) -> None:
        """Return when `size` further bytes may be packed."""
        self._hold(self._bytes.take(size))

    def _hold(self, seconds: float) -> None:
        if self._stop.is_set() or (seconds > 0 and self._wait(seconds)):
            raise Stopped


class Unhurried(Pace):
    """No hours and no rates: an operator asked for it, or a disk is nearly full."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__(Retention(), "+0000", stop)


class Rate:
    """So many things a second, on average; 0 = as many as come. What was not taken while nobody came is not made up for."""

    def __init__(self, each_second: float, monotonic: Callable[[], float]) -> None:
        self._each_second, self._monotonic = each_second, monotonic
        self._free_at, self._lock = 0.0, threading.Lock()

    def take(self, count: float) -> float:
        """Take so many; return in how many seconds they are free."""
        if not self._each_second:
            return 0.0
        with self._lock:
            now = self._monotonic()
            start = max(self._free_at, now)
            self._free_at = start + count / self._each_second
            return start - now
