"""The mllp role: HL7 v2 feeds and queries."""

import threading
from contextlib import closing

from broker.app import patients
from broker.app.core import Core
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.edge.mllp.server import MllpServer


def run(settings: Settings, profile: Profile, stop: threading.Event) -> None:
    """Answer until `stop` is set."""
    with closing(Core(settings, profile)) as core:
        served = patients.served_by_mllp(core, patients.pix_manager(core))
        MllpServer(served, core.gate, settings, (profile.region.application, profile.region.facility)).serve(stop)
