"""The document registry, and what other actors of this broker do with it inside one process."""

from broker.app.core import Core
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.ports import PatientDirectory, Unit, Withdraw
from broker.model.transaction import Outcome, ServedTransaction
from broker.registry import deprecate, iti18_query, iti42_register
from broker.registry.actor import Registry


def registry(core: Core, patients: PatientDirectory) -> Registry:
    """Return the registry of this process."""
    most = core.settings.registry
    limits = iti18_query.Limits(objects=most.max_objects, references=most.max_references, values=most.max_values)
    return Registry(core.database, patients, core.profile, limits=limits)


def served(actor: Registry) -> tuple[ServedTransaction, ...]:
    """Return its transactions."""
    return ServedTransaction(iti18_query.ROW, actor), served_registration(actor)


def served_registration(actor: Registry) -> ServedTransaction:
    """Return ITI-42, by which our own repository registers, too."""
    return ServedTransaction(iti42_register.ROW, actor)


def withdrawal(core: Core, actor: Registry) -> Withdraw:
    """Return what deprecates a DocumentEntry of our registry inside a unit, and audits it once that is durable."""
    def withdraw(unit: Unit, entry_uuid: str, caller: Caller) -> None:
        facts = AuditFacts()
        actor.deprecate(unit, entry_uuid, Call(caller=caller, facts=facts))
        unit.after_commit(lambda: core.audit.record(deprecate.ROW, caller, facts, Outcome.SUCCESS))
    return withdraw
