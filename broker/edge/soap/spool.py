"""The folder in which attachments of requests wait, and what is left there by processes that were killed."""

import time
from pathlib import Path

from broker.files.durable import sweep_folder

SPOOL = ".spool"        # below the folder of documents
_STALE = 3600.0         # seconds after which no request needs its file any more


def sweep(folder: Path) -> None:
    """Drop what requests of killed processes left in the spool folder; files of running requests are younger."""
    sweep_folder(folder, time.time() - _STALE)
