"""The kinds of process.

A role is the function `run` of the module of its name; the module is imported when the role is started, so that no role holds
what only others need.
"""

import importlib
import threading
from collections.abc import Callable

from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.run.heartbeat import Heartbeat

Work = Callable[[Settings, Profile, threading.Event], None]

ROLES = ("web", "receiver", "mllp", "fetch", "worker")


def run(role: str, settings: Settings, profile: Profile, stop: threading.Event) -> None:
    """Run one role until `stop` is set (web: until SIGTERM)."""
    work = _load(role)
    beat = Heartbeat(settings.run_folder, role)
    beat.start()
    try:
        work(settings, profile, stop)
    finally:
        beat.stop()


def _load(role: str) -> Work:
    work: Work = importlib.import_module(f"broker.run.{role}").run
    return work
