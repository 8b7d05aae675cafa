"""All actors in one process: what is served over SOAP, what background work and commands reach into."""

from functools import cached_property

from broker.app import imaging, notifications, patients, publishing, registry, repository
from broker.app.core import Core
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import OnlineStore
from broker.edge.dimse.scu import Scu
from broker.imaging.archiving.mend import Mender
from broker.imaging.archiving.migrator import Migrator
from broker.imaging.archiving.rebuild import Rebuilder
from broker.imaging.archiving.verify import Scrub, Verifier
from broker.imaging.conflicts import Conflict, ConflictRow, Conflicts, Decision
from broker.imaging.fetch import Retriever
from broker.imaging.publish import Publisher
from broker.imaging.receiver import Receiver
from broker.model.ports import Withdraw
from broker.model.transaction import AnyTransaction
from broker.patients.actor import PixManager
from broker.patients.desk import Desk
from broker.patients.notifier import Notifier
from broker.registry.actor import Registry
from broker.registry.approved import approved
from broker.repository.actor import Repository


class App(Core):
    """The parts of one broker process, each made when first needed."""

    @cached_property
    def sdfo(self) -> Sdfo:
        """The door to both tiers."""
        return imaging.sdfo(self)

    @property
    def online(self) -> OnlineStore:
        """Original files."""
        return self.sdfo.online

    @cached_property
    def patients(self) -> PixManager:
        """The PIX manager."""
        return patients.pix_manager(self)

    @cached_property
    def desk(self) -> Desk:
        """Where a steward decides who is who."""
        return patients.desk(self, self.patients)

    @cached_property
    def notifier(self) -> Notifier:
        """Tells consumers of changes of ids."""
        return notifications.notifier(self)

    @cached_property
    def registry(self) -> Registry:
        """The document registry."""
        return registry.registry(self, self.patients)

    @cached_property
    def repository(self) -> Repository:
        """The document repository."""
        return repository.repository(self, repository.registrar(self, self.registry))

    @cached_property
    def withdraw(self) -> Withdraw:
        """Deprecates a DocumentEntry of our registry."""
        return registry.withdrawal(self, self.registry)

    @cached_property
    def receiver(self) -> Receiver:
        """Takes objects in."""
        return imaging.receiver(self, self.sdfo)

    @cached_property
    def mover(self) -> Scu:
        """Asks hospitals' PACS."""
        return imaging.mover(self, self.receiver)

    @cached_property
    def fetch(self) -> Retriever:
        """Gathers pictures from wherever they are."""
        return imaging.fetch(self, self.sdfo)

    @cached_property
    def publisher(self) -> Publisher:
        """Makes and publishes manifests."""
        return publishing.publisher(self, self.patients, self.withdraw, self.sdfo, self.mover, self.fetch)

    @cached_property
    def migrator(self) -> Migrator:
        """Packs studies."""
        return imaging.migrator(self, self.sdfo)

    @cached_property
    def verifier(self) -> Verifier:
        """Reads containers through."""
        return imaging.verifier(self, self.sdfo)

    @cached_property
    def scrub(self) -> Scrub:
        """Has all containers read through in turn."""
        return imaging.scrub(self, self.sdfo)

    @cached_property
    def mender(self) -> Mender:
        """Replaces damaged containers."""
        return imaging.mender(self, self.sdfo, self.fetch, self.migrator.packer)

    @cached_property
    def rebuilder(self) -> Rebuilder:
        """Fills rows from containers."""
        return imaging.rebuilder(self, self.sdfo, approved)

    @cached_property
    def conflicts(self) -> Conflicts:
        """Settles what does not agree with its study."""
        return imaging.conflicts(self, self.sdfo)

    def decide(self, row: ConflictRow, decision: Decision, user: str) -> Conflict:
        """Carry out one row of `imaging.conflicts` for a user of this machine, through the gate like every other call."""
        return imaging.decide(self, self.conflicts, row, decision, user)

    @cached_property
    def served(self) -> tuple[AnyTransaction, ...]:
        """Every transaction we serve, with its actor."""
        return (
            *patients.served_by_mllp(self, self.patients), *patients.served_by_soap(self, self.patients),
            *patients.served_by_fhir(self, self.patients), *patients.served_by_steward(self, self.desk),
            *registry.served(self.registry), *repository.served(self.repository), imaging.served(self, self.fetch))
