"""What processes tell each other: announcements and locks. Inside one machine, or through Redis between machines."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from broker.config.settings import Settings
from broker.coord.local import LocalCoord
from broker.coord.redis import RedisCoord

__all__ = ["LocalCoord", "RedisCoord", "connect"]


def connect(settings: Settings) -> LocalCoord | RedisCoord:
    """Return the coordination of this installation: Redis where a URL is set, else sockets and locks in the run folder.

    With Redis, brokers of one region on one database hear each other and nobody else.
    """
    if not settings.redis.url:
        return LocalCoord(settings.run_folder)
    store = hashlib.sha256(urlsplit(settings.database_url).path.encode()).hexdigest()[:8]
    return RedisCoord(settings.redis.url, f"broker:{Path(settings.profile).name}:{store}:")
