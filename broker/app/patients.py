"""The PIX manager, and who follows what it decides: publications and the registry, inside the feed's unit of work."""

import socket
from collections.abc import Collection, Iterator, Sequence

from broker.app.core import Core
from broker.imaging.patient_events import PublicationEvents
from broker.model.caller import Caller
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.model.transaction import AnyTransaction, ServedTransaction
from broker.patients import (
    files,
    iti8_feed,
    iti9_query,
    iti21_query,
    iti30_link,
    iti44_feed,
    iti45_query,
    iti47_query,
    iti78_search,
    iti83_query,
    iti104_feed,
    iti119_match,
    steward_rest,
)
from broker.patients.actor import PixManager
from broker.patients.demographics import DemographicsSupplier
from broker.patients.desk import Desk, Settled, Wish
from broker.patients.files import Entry
from broker.patients.listed import Listed
from broker.patients.resolution import Moved, Outcome, Parted, Retired
from broker.patients.settle import Followers, Settler
from broker.patients.steward import Steward
from broker.registry.patient_events import RegistryEvents

_HERE = "127.0.0.1"     # where commands are given


def pix_manager(core: Core) -> PixManager:
    """Return the PIX manager of this process."""
    publications, registry = PublicationEvents(core.coord), RegistryEvents(core.profile.codes.scheme_aliases)

    def arrived(unit: Unit, local: PatientId) -> None:
        publications.arrived(unit, local, manager.affinity_id(unit, local))

    def merged(unit: Unit, retired: PatientId, survivor: PatientId) -> None:
        publications.merged(unit, retired, survivor)    # rows of publications before those of the registry
        registry.merged(unit, retired, survivor)

    def moved(unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId) -> None:
        publications.moved(unit, registry.moved(unit, local, before, now), now)

    def parted(
        unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId, kept: Collection[PatientId],
    ) -> Sequence[str]:
        given = registry.parted(unit, local, before, now, kept)
        publications.moved(unit, given.back, now)
        return given.staying

    followers = Followers(arrived=arrived, merged=merged, moved=moved, parted=parted)
    manager = PixManager(core.database, Settler(core.profile, core.coord, followers))
    return manager


def desk(core: Core, manager: PixManager) -> Desk:
    """Return where a steward decides."""
    return Desk(core.database, manager.settler, _effects)


def decide(core: Core, actor: Desk, name: str, wish: Wish, user: str) -> Settled:
    """Carry out one of `steward_rest.DECISIONS` for a user of this machine, through the gate like every other call."""
    return core.gate.inside(steward_rest.DECISIONS[name], actor, wish, _here(core, user))


def served_by_steward(core: Core, actor: Desk) -> tuple[AnyTransaction, ...]:
    """Return what a steward asks and decides by REST."""
    steward = Steward(core.database, core.profile.region.affinity_domain)
    looks = (ServedTransaction(row, steward) for row in (steward_rest.SHOW_ROW, steward_rest.HISTORY_ROW))
    return (*looks, *(ServedTransaction(row, actor) for row in steward_rest.DECISIONS.values()))


def load(core: Core, manager: PixManager, entry: Entry, user: str) -> None:
    """Feed a record of a file for a user of this machine, through the gate. Raise `BrokerError` for one that is refused."""
    core.gate.inside(files.LOAD_ROW, manager, entry, _here(core, user))


def export(core: Core, steward: Steward, user: str) -> Iterator[Listed]:
    """Return every active record for a user of this machine, through the gate."""
    return core.gate.inside(files.EXPORT_ROW, steward, None, _here(core, user)).records


def _here(core: Core, user: str) -> Caller:
    return Caller(node=socket.gethostname(), user=user, address=_HERE, local_node=core.settings.public_url)


def _effects(unit: Unit, outcome: Outcome) -> tuple[int, int]:
    match outcome:
        case Retired(retired, _):
            return RegistryEvents.documents(unit, retired), 0
        case Moved(local, before, _) | Parted(local, before, _, _):
            return RegistryEvents.documents(unit, before, local), PublicationEvents.studies(unit, local)
    return 0, 0


def demographics(core: Core) -> DemographicsSupplier:
    """Return the Patient Demographics Supplier of this process."""
    return DemographicsSupplier(core.database, core.profile)


def served_by_mllp(core: Core, manager: PixManager) -> tuple[AnyTransaction, ...]:
    """Return the transactions of HL7 v2."""
    return (*(ServedTransaction(module.ROW, manager) for module in (iti8_feed, iti9_query, iti30_link)),
            ServedTransaction(iti21_query.ROW, demographics(core)))


def served_by_soap(core: Core, manager: PixManager) -> tuple[AnyTransaction, ...]:
    """Return the transactions of HL7 V3."""
    device = core.profile.region.device_oid
    return (*(ServedTransaction(module.row(device), manager) for module in (iti44_feed, iti45_query)),
            ServedTransaction(iti47_query.row(device), demographics(core)))


def served_by_fhir(core: Core, manager: PixManager) -> tuple[AnyTransaction, ...]:
    """Return the transactions of FHIR."""
    affinity, supplier = core.profile.region.affinity_domain, demographics(core)
    return (ServedTransaction(iti83_query.row(affinity), manager), ServedTransaction(iti104_feed.ROW, manager),
            ServedTransaction(iti78_search.row(affinity), supplier), ServedTransaction(iti119_match.ROW, supplier))
