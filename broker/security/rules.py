"""The two questions asked for every call. With security off both say yes."""

from collections.abc import Callable
from typing import Any, Protocol, Self, runtime_checkable

from broker.model.caller import Caller
from broker.model.ids import PatientId
from broker.model.transaction import Transaction


@runtime_checkable
class Filterable(Protocol):
    """A result made of items that belong to patients (registry objects, documents, studies)."""

    def only(self, keep: Callable[[Any], bool]) -> Self:
        """Return the result with just the items for which `keep(item)` holds."""
        ...


class Policy(Protocol):
    """The region's rules."""

    def authorise(self, row: Transaction, caller: Caller, subject: PatientId | None) -> None:
        """Return when the call is allowed, raise `Rejected` when not."""
        ...

    def may_see(self, caller: Caller, item: Any) -> bool:
        """Say whether one item of a result may be shown."""
        ...


class Open:
    """Security off: everything is allowed."""

    def authorise(self, row: Transaction, caller: Caller, subject: PatientId | None) -> None:
        """Allow."""

    def may_see(self, caller: Caller, item: Any) -> bool:  # noqa: ARG002 - the protocol's signature
        """Show."""
        return True


def visible(policy: Policy, caller: Caller, result: Any) -> Any:
    """Return `result` without the items the caller may not see."""
    if isinstance(policy, Open) or not isinstance(result, Filterable):
        return result
    return result.only(lambda item: policy.may_see(caller, item))
