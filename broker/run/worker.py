"""The worker role: publish, correct, pack, verify, mend, clear up, each a chore of its own."""

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial

from broker.app.imaging import apply_corrections
from broker.app.whole import App
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.coord.base import Subscription
from broker.edge.soap.spool import SPOOL, sweep
from broker.patients.notifier import CHANNEL
from broker.run.chores import Chore, run_all
from broker.run.stopping import announce_when


def run(settings: Settings, profile: Profile, stop: threading.Event) -> None:
    """Do all chores until `stop` is set; what is under way is finished."""
    with ExitStack() as opened:
        app = opened.enter_context(closing(App(settings, profile)))
        wake = opened.enter_context(closing(app.coord.subscribe("publish")))
        told = [opened.enter_context(closing(app.coord.subscribe(CHANNEL))) for _ in profile.consumers]
        for channel in ("publish", CHANNEL):
            announce_when(stop, app.coord, channel)
        run_all((*chores(app, wake), *notifying(app, told)), stop)


def notifying(app: App, wakes: Sequence[Subscription]) -> tuple[Chore, ...]:
    """Return the sending of notifications, a chore for each consumer: who is away or slow holds up nobody else."""
    notifier = app.notifier
    return tuple(
        Chore(f"notify {consumer.key}", 1.0, partial(notifier.run, consumer), wake)
        for consumer, wake in zip(app.profile.consumers, wakes, strict=True))


def chores(app: App, wake: Subscription) -> tuple[Chore, ...]:
    """Return the background work. `wake` hears of studies that may be published at once."""
    # made before threads share them
    publisher, migrator, repository, conflicts, _ = app.publisher, app.migrator, app.repository, app.conflicts, app.gate
    scrub, mender, notifier = app.scrub, app.mender, app.notifier
    spool = app.settings.documents_folder / SPOOL
    return (
        Chore("publish", 1.0, lambda: publisher.run_once(time.time()), wake),
        Chore("correct", 5.0, lambda: apply_corrections(app, conflicts)),
        Chore("pack", 60.0, lambda: migrator.run_due(time.time()), halt=migrator.stop.set),
        Chore("recall", 60.0, lambda: migrator.recaller.run(time.time())),
        Chore("verify", 1.0, scrub.run_due),
        Chore("mend", 300.0, mender.run_due, halt=mender.stop.set),
        Chore("recover documents", 3600.0, repository.recover),
        Chore("forget notifications", 3600.0, notifier.forget),
        Chore("sweep", 3600.0, lambda: sweep(spool)),
    )
