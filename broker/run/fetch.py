"""The fetch role: C-MOVE and C-GET within the hospitals' limits. What comes by C-GET is received here."""

import threading
from contextlib import closing

from broker.app import imaging
from broker.app.core import Core
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.imaging.fetch_worker import FetchWorker
from broker.run.stopping import announce_when
from broker.run.switch_interval import short_switch_interval


def run(settings: Settings, profile: Profile, stop: threading.Event) -> None:
    """Work on the queue of jobs until `stop` is set; jobs under way are given back to it."""
    with closing(Core(settings, profile)) as core, short_switch_interval():
        received = imaging.receiver(core, imaging.sdfo(core))
        received.start()
        received.adopt_behind()
        try:
            announce_when(stop, core.coord, "fetch")
            FetchWorker(core.database, core.coord, imaging.mover(core, received), profile).run(stop)
        finally:
            received.stop()
