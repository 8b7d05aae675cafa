"""How a role that listens to announcements hears of its own end at once."""

import threading

from broker.coord.base import Coord


def announce_when(stop: threading.Event, coord: Coord, channel: str) -> None:
    """Announce something empty on `channel` as soon as `stop` is set: who listens there looks up, and sees it."""
    def announce() -> None:
        stop.wait()
        coord.publish(channel, {})
    threading.Thread(target=announce, name="stop", daemon=True).start()
