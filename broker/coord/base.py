"""The one protocol of coordination. Losing it costs seconds, never data: every waiter also looks into SQL."""

import json
from contextlib import AbstractContextManager
from typing import Protocol

Body = dict[str, str | int | None]


def read_json(data: bytes) -> object:
    """Return what an announcement holds, None when it is not JSON, or JSON nested beyond reason."""
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found


class Subscription(Protocol):
    """A queue of announcements on the channels asked for, from the moment `subscribe` returned."""

    def get(self, timeout: float) -> tuple[str, Body] | None:
        """Return the next (channel, body), or None after `timeout` seconds or when the connection was lost."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Coord(Protocol):
    """Announcements and locks between the processes of one broker."""

    def publish(self, channel: str, body: Body) -> None:
        """Announce to everyone listening now. Never raises, never blocks for long: a lost message is allowed."""
        ...

    def subscribe(self, *channels: str) -> Subscription:
        """Listen on these channels."""
        ...

    def lock(self, name: str, ttl: float) -> AbstractContextManager[bool]:
        """Try to be the only one: gives True while held, False when another holds it. Freed when the holder dies

        (at once on one machine, after at most `ttl` seconds with Redis). A helper against double work, never the proof.
        """
        ...

    def state(self) -> str:
        """Say `ok`, or what is wrong, for /healthz."""
        ...


class OwnCoord(Coord, Protocol):
    """The coordination of a process, as who made it holds it."""

    def close(self) -> None:
        """Stop announcing."""
        ...
