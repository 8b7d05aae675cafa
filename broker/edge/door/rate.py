"""How slow a peer may be in mid-message: silence has a deadline of its own, a drip of single bytes needs this one."""


class MinimumRate:
    """Watches the bytes of one message. Only the time spent waiting for the peer counts, never our own work."""

    def __init__(self, rate: int, window: float) -> None:
        self._least, self._window = rate * window, window
        self._waited, self._got = 0.0, 0

    def received(self, waited: float, count: int) -> None:
        """Take note that `count` bytes came after `waited` seconds.

        Raise `TimeoutError` when less than `rate` bytes a second came over `window` seconds of waiting.
        """
        self._waited += waited
        self._got += count
        if self._waited < self._window:
            return
        if self._got < self._least:
            raise TimeoutError("the peer sends too slowly")
        self._waited, self._got = 0.0, 0

    def begin(self) -> None:
        """Start over: the next message begins."""
        self._waited, self._got = 0.0, 0
