"""The receiver role: C-STORE and C-ECHO of hospitals, and what was fetched from them."""

import threading
from contextlib import closing

from broker.app import imaging
from broker.app.core import Core
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.edge.dimse.listener import Listener
from broker.run.switch_interval import short_switch_interval


def run(settings: Settings, profile: Profile, stop: threading.Event) -> None:
    """Receive until `stop` is set; the rows that wait are written before the end."""
    with closing(Core(settings, profile)) as core, short_switch_interval():
        received = imaging.receiver(core, imaging.sdfo(core))
        received.start()
        received.adopt_behind()
        try:
            Listener(received, core.gate, profile, settings).serve(stop)
        finally:
            received.stop()
