"""The PIX manager, and who follows what it decides: publications and the registry, inside the feed's unit of work."""

from collections.abc import Collection

from broker.app.core import Core
from broker.imaging.patient_events import PublicationEvents
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.model.transaction import AnyTransaction, ServedTransaction
from broker.patients import iti8_feed, iti9_query, iti21_query, iti44_feed, iti45_query, iti83_query, iti104_feed
from broker.patients.actor import PixManager
from broker.patients.demographics import DemographicsSupplier
from broker.registry.patient_events import RegistryEvents


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

    manager = PixManager(core.database, core.profile, arrived, merged, moved)
    return manager


def demographics(core: Core) -> DemographicsSupplier:
    """Return the Patient Demographics Supplier of this process."""
    return DemographicsSupplier(core.database, core.profile)


def served_by_mllp(core: Core, manager: PixManager) -> tuple[AnyTransaction, ...]:
    """Return the transactions of HL7 v2."""
    return (*(ServedTransaction(module.ROW, manager) for module in (iti8_feed, iti9_query)),
            ServedTransaction(iti21_query.ROW, demographics(core)))


def served_by_soap(core: Core, manager: PixManager) -> tuple[AnyTransaction, ...]:
    """Return the transactions of HL7 V3."""
    device = core.profile.region.device_oid
    return tuple(ServedTransaction(module.row(device), manager) for module in (iti44_feed, iti45_query))


def served_by_fhir(core: Core, manager: PixManager) -> tuple[AnyTransaction, ...]:
    """Return the transactions of FHIR."""
    rows = (iti83_query.row(core.profile.region.affinity_domain), iti104_feed.ROW)
    return tuple(ServedTransaction(row, manager) for row in rows)
