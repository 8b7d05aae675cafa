"""Background work: each kind by itself, again and again, until it is told to stop."""

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog

from broker.app.whole import App
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.run import worker
from broker.run.chores import Chore, run_all
from tests.helpers.waiting import PATIENCE, eventually


def test_a_kind_of_work_that_takes_long_holds_up_no_other() -> None:
    stop, packing, published = threading.Event(), threading.Event(), list[int]()

    def pack() -> None:
        packing.set()
        stop.wait(20)

    def fail() -> None:
        raise LookupError("葉")

    wake: Any = SimpleNamespace(get=lambda _seconds: stop.wait(0.01))
    rows = (Chore("publish", 1.0, lambda: published.append(1), wake), Chore("pack", 60.0, pack),
            Chore("recover documents", 3600.0, fail))
    with structlog.testing.capture_logs() as logs:
        running = threading.Thread(target=run_all, args=(rows, stop))
        running.start()
        assert packing.wait(PATIENCE)
        seen = len(published)
        eventually(lambda: len(published) > seen + 2)
        stop.set()
        running.join(PATIENCE)
    assert not running.is_alive()
    assert [entry["work"] for entry in logs if entry["event"] == "background work failed"] == ["recover documents"]
    assert "葉" not in repr(logs)


def test_the_worker_publishes_corrects_packs_verifies_and_clears_up(tmp_path: Path, profile: Profile) -> None:
    with contextlib.closing(App(Settings(data=tmp_path), profile)) as app, contextlib.closing(
            app.coord.subscribe("publish")) as wake:
        rows = worker.chores(app, wake)
    assert {row.name: (row.period, row.wake is wake) for row in rows} == {
        "publish": (1.0, True), "correct": (5.0, False), "pack": (60.0, False), "recall": (60.0, False),
        "recover documents": (3600.0, False), "forget notifications": (3600.0, False), "sweep": (3600.0, False),
        "verify": (1.0, False), "mend": (300.0, False)}
