"""The PIX manager, and who follows what it decides: publications and the registry, inside the feed's unit of work."""

from collections.abc import Collection

from broker.app.core import Core
from broker.config.profile import Consumer
from broker.config.settings import OutboundSection
from broker.edge.mllp.call import MllpCall
from broker.edge.soap_call import CallOptions, SoapCall
from broker.imaging.patient_events import PublicationEvents
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.model.transaction import AnyTransaction, ServedTransaction
from broker.patients import (
    iti8_feed,
    iti9_query,
    iti21_query,
    iti44_feed,
    iti45_query,
    iti46_notify,
    iti47_query,
    iti78_search,
    iti83_query,
    iti104_feed,
    iti119_match,
)
from broker.patients.actor import Followers, PixManager
from broker.patients.demographics import DemographicsSupplier
from broker.patients.notifier import Exchange, Notifier, Ways
from broker.registry.patient_events import RegistryEvents
from broker.wire.xml import canonical


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

    manager = PixManager(core.database, core.profile, core.coord, Followers(arrived=arrived, merged=merged, moved=moved))
    return manager


def notifier(core: Core) -> Notifier:
    """Return what tells the consumers of the profile of changes."""
    exchanges = {consumer.key: _exchange(consumer, core.settings.outbound) for consumer in core.profile.consumers}
    ways = Ways(exchanges, core.settings.public_url + "/pix")
    return Notifier(core.database, core.profile, core.gate, core.coord, ways)


def _exchange(consumer: Consumer, settings: OutboundSection) -> Exchange:
    if not consumer.url:
        return MllpCall(consumer.host, consumer.port, settings, tls=consumer.tls)
    call = SoapCall(consumer.url, f"the consumer {consumer.key}", CallOptions.of(settings))
    return lambda message: canonical(call.exchange(message, iti46_notify.ACTION))


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
    return (*(ServedTransaction(module.row(device), manager) for module in (iti44_feed, iti45_query)),
            ServedTransaction(iti47_query.row(device), demographics(core)))


def served_by_fhir(core: Core, manager: PixManager) -> tuple[AnyTransaction, ...]:
    """Return the transactions of FHIR."""
    affinity, supplier = core.profile.region.affinity_domain, demographics(core)
    return (ServedTransaction(iti83_query.row(affinity), manager), ServedTransaction(iti104_feed.ROW, manager),
            ServedTransaction(iti78_search.row(affinity), supplier), ServedTransaction(iti119_match.ROW, supplier))
