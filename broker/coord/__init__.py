"""What processes tell each other: announcements and locks. Inside one machine, or through Redis between machines."""

import hashlib
import importlib
from pathlib import Path
from urllib.parse import urlsplit

from broker.config.settings import Settings
from broker.coord.base import OwnCoord
from broker.coord.local import LocalCoord


def connect(settings: Settings) -> OwnCoord:
    """Return the coordination of this installation: Redis where a URL is set, else sockets and locks in the run folder.

    With Redis, brokers of one region on one database hear each other and nobody else. Its client is imported only then: it is
    a tenth of what a process imports.
    """
    if not settings.redis.url:
        return LocalCoord(settings.run_folder)
    store = hashlib.sha256(urlsplit(settings.database_url).path.encode()).hexdigest()[:8]
    prefix = f"broker:{Path(settings.profile).name}:{store}:"
    made: OwnCoord = importlib.import_module("broker.coord.redis").RedisCoord(settings.redis.url, prefix)
    return made
