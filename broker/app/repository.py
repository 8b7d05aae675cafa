"""The document repository, and how it registers: at our own registry inside this process, or at another's."""

from dataclasses import dataclass, replace

from broker.app.core import Core
from broker.edge.outbound import RemoteRegistrar
from broker.edge.soap_call import CallOptions
from broker.model.caller import Call
from broker.model.errors import Problem
from broker.model.transaction import AnyTransaction, ServedTransaction
from broker.registry import iti42_register
from broker.repository import iti41_provide, iti43_retrieve
from broker.repository.actor import Repository
from broker.security.gate import Gate
from broker.wire.ebxml import Submission
from broker.wire.ports import Registrar


def repository(core: Core, registrar: Registrar) -> Repository:
    """Return the repository of this process."""
    return Repository(core.database, core.settings.documents_folder, core.profile, registrar)


def registrar(core: Core, own: Registrar) -> Registrar:
    """Return where our repository registers: at our `own` registry, which is left alone where the URL of another one is set."""
    settings = core.settings
    url = settings.repository.registry_url
    if url:
        return RemoteRegistrar(url, core.gate, settings.public_url, CallOptions.of(settings.outbound))
    return _OwnRegistry(core.gate, own, settings.public_url)


def served(actor: Repository) -> tuple[AnyTransaction, ...]:
    """Return its transactions."""
    return tuple(ServedTransaction(module.ROW, actor) for module in (iti41_provide, iti43_retrieve))


@dataclass(frozen=True)
class _OwnRegistry:
    """ITI-42 inside one process, through the gate like every other call; our repository is the caller."""

    gate: Gate
    registry: Registrar
    url: str

    def register(self, submission: Submission, call: Call) -> tuple[Problem, ...]:
        row = iti42_register.ROW
        caller = replace(call.caller, node=self.url + iti41_provide.ROW.endpoint, local_node=self.url + row.endpoint)
        return self.gate.inside(row, self.registry, submission, caller)
