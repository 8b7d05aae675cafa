"""What takes pictures in, finds them, fetches, packs and corrects them."""

import socket
from typing import TypeVar

import structlog

from broker.app.core import Core
from broker.archive import tiers
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.edge.dimse.scu import Scu
from broker.imaging import rad69_retrieve
from broker.imaging.archiving import forecast
from broker.imaging.archiving.forecast import Status
from broker.imaging.archiving.keep import Keeper, Wish
from broker.imaging.archiving.mend import Mender
from broker.imaging.archiving.migrator import Migrator
from broker.imaging.archiving.pack import Packer
from broker.imaging.archiving.rebuild import Rebuilder, Registered
from broker.imaging.archiving.verify import Scrub, Verifier
from broker.imaging.conflicts import ASSIGN, Conflict, ConflictRow, Conflicts, Decision
from broker.imaging.damage import Quarantine
from broker.imaging.fetch import Retriever
from broker.imaging.rad69_retrieve import ImagingSource
from broker.imaging.receiver import Receiver
from broker.model.caller import Caller
from broker.model.errors import place_of
from broker.model.transaction import AnyTransaction, InternalTransaction, ServedTransaction

log = structlog.get_logger("broker.app")

Result = TypeVar("Result")


def sdfo(core: Core) -> Sdfo:
    """Return the door to both tiers of pictures."""
    settings = core.settings
    online = OnlineStore(settings.online_folder, settings.online.fsync, settings.online.one_commit)
    pictures = Sdfo(online, tiers.containers(settings), lambda location: quarantine(core, pictures).noticed(location))
    return pictures


def quarantine(core: Core, pictures: Sdfo) -> Quarantine:
    """Return what keeps damage of the archive from being given out."""
    return Quarantine(core.database, pictures, core.gate, _ourselves(core, "archive"))


def receiver(core: Core, pictures: Sdfo) -> Receiver:
    """Return what takes objects in; its user starts and stops it."""
    return Receiver(core.database, pictures.online, core.profile, core.coord, pictures)


def mover(core: Core, received: Receiver) -> Scu:
    """Return what asks hospitals' PACS."""
    return Scu(core.profile, core.settings, received, core.gate)


def fetch(core: Core, pictures: Sdfo) -> Retriever:
    """Return what gathers pictures from wherever they are."""
    return Retriever(core.database, core.coord, pictures, core.profile)


def migrator(core: Core, pictures: Sdfo) -> Migrator:
    """Return what packs studies."""
    return Migrator(core.database, pictures, core.profile, core.coord)


def verifier(core: Core, pictures: Sdfo) -> Verifier:
    """Return what reads containers through."""
    return Verifier(core.database, pictures, quarantine(core, pictures))


def scrub(core: Core, pictures: Sdfo) -> Scrub:
    """Return what has all containers read through in turn."""
    return Scrub(core.database, verifier(core, pictures), core.coord, core.profile.retention)


def mender(core: Core, pictures: Sdfo, gathered: Retriever, packer: Packer) -> Mender:
    """Return what replaces damaged containers."""
    return Mender(core.database, pictures, core.profile, quarantine(core, pictures), packer, gathered)


def archive_status(core: Core, pictures: Sdfo) -> Status:
    """Return how the archive is and what it will need. A folder keeps one copy, as far as we know."""
    section = core.settings.archive
    return forecast.status(core.database, pictures, section.hdfs.replication if section.url else 1)


def keeper(core: Core, archiving: Migrator) -> Keeper:
    """Return what holds, pins and recalls studies."""
    return Keeper(core.database, archiving.recaller)


def ask(core: Core, actor: Keeper, row: InternalTransaction[Keeper, Wish, Result], wish: Wish, user: str) -> Result:
    """Carry out one row of `imaging.archiving.keep` for a user of this machine, through the gate like every other call."""
    return core.gate.inside(row, actor, wish, _ourselves(core, user))


def rebuilder(core: Core, pictures: Sdfo, registered: Registered) -> Rebuilder:
    """Return what fills rows from containers."""
    return Rebuilder(core.database, pictures, core.profile, registered)


def conflicts(core: Core, pictures: Sdfo) -> Conflicts:
    """Return what settles objects that do not agree with their study."""
    return Conflicts(core.database, pictures, core.profile, core.coord)


def served(core: Core, gathered: Retriever) -> AnyTransaction:
    """Return RAD-69."""
    return ServedTransaction(rad69_retrieve.ROW, ImagingSource(gathered, core.profile))


def decide(core: Core, actor: Conflicts, row: ConflictRow, decision: Decision, user: str) -> Conflict:
    """Carry out one row of `imaging.conflicts` for a user of this machine, through the gate like every other call."""
    return core.gate.inside(row, actor, decision, _ourselves(core, user))


def _ourselves(core: Core, user: str) -> Caller:
    """Return how this machine calls what is inside it for a user."""
    return Caller(node=socket.gethostname(), user=user, local_node=core.settings.public_url)


def apply_corrections(core: Core, actor: Conflicts) -> None:
    """Assign the corrections of hospitals that may correct their pictures; each fails by itself."""
    for decision in actor.due():
        try:
            decide(core, actor, ASSIGN, decision, "profile:corrections")
        except Exception as error:  # noqa: BLE001 - the edge of one correction
            actor.failed(decision)
            log.error("a correction was not applied, will be tried again", conflict=decision.conflict, reason=place_of(error))
