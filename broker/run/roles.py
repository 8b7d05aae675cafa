"""The kinds of process.

A role is the function `run` of the module of its name; the module is imported where the role is to run, so that no role holds
what only others need.
"""

import gc
import importlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.run.heartbeat import Heartbeat

ROLES = ("web", "receiver", "mllp", "fetch", "worker")

Work = Callable[[Settings, Profile, threading.Event], None]


def load(wanted: Iterable[str]) -> None:
    """Import what these roles need. No thread is started by that."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")      # numpy, where it is installed, starts some
    gc.disable()    # nothing that is imported is garbage
    for role in wanted:
        _work(role)
    gc.enable()


def run(role: str, settings: Settings, profile: Profile, stop: threading.Event) -> None:
    """Run one role until `stop` is set (web: until SIGTERM). Its processes are called `broker-ROLE` in `ps` and `top`."""
    Path("/proc/self/comm").write_text(f"broker-{role}", "ascii")
    work = _work(role)
    beat = Heartbeat(settings.run_folder, role)
    beat.start()
    try:
        work(settings, profile, stop)
    finally:
        beat.stop()


def _work(role: str) -> Work:
    work: Work = importlib.import_module(f"broker.run.{role}").run
    return work
