"""The document registry, and what other actors of this broker do with it inside one process."""

from broker.app.core import Core
from broker.model.caller import Caller
from broker.model.ports import PatientDirectory, Unit, Withdraw
from broker.model.transaction import AnyTransaction, ServedTransaction
from broker.registry import deprecate, iti18_query, iti42_register
from broker.registry.actor import Registry
from broker.registry.deprecate import Deprecation


def registry(core: Core, patients: PatientDirectory) -> Registry:
    """Return the registry of this process."""
    most = core.settings.registry
    limits = iti18_query.Limits(objects=most.max_objects, references=most.max_references, values=most.max_values)
    return Registry(core.database, patients, core.profile, limits=limits)


def served(actor: Registry) -> tuple[AnyTransaction, ...]:
    """Return its transactions."""
    return ServedTransaction(iti18_query.ROW, actor), ServedTransaction(iti42_register.ROW, actor)


def withdrawal(core: Core, actor: Registry) -> Withdraw:
    """Return what deprecates a DocumentEntry of our registry inside a unit, and audits it once that is durable."""
    def withdraw(unit: Unit, entry_uuid: str, caller: Caller) -> None:
        core.gate.inside(deprecate.ROW, actor, Deprecation(unit, entry_uuid), caller, unit)
    return withdraw
