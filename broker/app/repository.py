"""The document repository, and how it registers: at our own registry inside this process, or at another's."""

from dataclasses import dataclass, replace

from broker.app.core import Core
from broker.edge.outbound import Patience, RemoteRegistrar
from broker.model.caller import Call
from broker.model.errors import Problem
from broker.model.transaction import ServedTransaction
from broker.repository import iti41_provide, iti43_retrieve
from broker.repository.actor import Repository
from broker.security.gate import Gate
from broker.wire.ebxml import Submission
from broker.wire.ports import Registrar


def repository(core: Core, registrar: Registrar) -> Repository:
    """Return the repository of this process."""
    return Repository(core.database, core.settings.documents_folder, core.profile, registrar)


def registrar(core: Core, registration: ServedTransaction) -> Registrar:
    """Return where our repository registers: `registration` is ITI-42 of our own registry, left alone where a URL is set."""
    settings = core.settings
    url = settings.repository.registry_url
    if url:
        return RemoteRegistrar(url, core.audit, settings.public_url, Patience(**settings.outbound.model_dump()))
    return _OwnRegistry(core.gate, registration, settings.public_url)


def served(actor: Repository) -> tuple[ServedTransaction, ...]:
    """Return its transactions."""
    return tuple(ServedTransaction(module.ROW, actor) for module in (iti41_provide, iti43_retrieve))


@dataclass(frozen=True)
class _OwnRegistry:
    """ITI-42 inside one process, through the gate like every other call; our repository is the caller."""

    gate: Gate
    served: ServedTransaction
    url: str

    def register(self, submission: Submission, call: Call) -> tuple[Problem, ...]:
        caller = replace(call.caller, node=self.url + iti41_provide.ROW.endpoint, local_node=self.url + self.served.row.endpoint)
        warnings: tuple[Problem, ...] = self.gate.inside(self.served, submission, caller)
        return warnings
