"""The two questions asked for every call. With security off both say yes."""

from typing import Protocol

from broker.model.caller import Caller
from broker.model.ids import PatientId
from broker.model.transaction import Actor, Disclosure, InternalTransaction, Request, Result, TransactionRow


class Policy(Protocol):
    """The region's rules."""

    def authorise(self, row: TransactionRow, caller: Caller, subjects: tuple[PatientId, ...]) -> None:
        """Return when the call is allowed for all these patients, raise `Rejected` when not.

        `subjects` is empty where the request names nobody, as one for a document by its uniqueId: what it finds is then
        asked about item by item.
        """
        ...

    def may_see(self, caller: Caller, item: Disclosure) -> bool:
        """Say whether one item of a result may be shown."""
        ...


class Open:
    """Security off: everything is allowed."""

    def authorise(self, row: TransactionRow, caller: Caller, subjects: tuple[PatientId, ...]) -> None:
        """Allow."""

    def may_see(self, caller: Caller, item: Disclosure) -> bool:  # noqa: ARG002 - the protocol's signature
        """Show."""
        return True


def visible(policy: Policy, row: InternalTransaction[Actor, Request, Result], caller: Caller, result: Result) -> Result:
    """Return `result` without the items the caller may not see."""
    if isinstance(policy, Open):        # it hides nothing: an answer of thousands of items need not be walked
        return result
    return row.filtered(result, lambda item: policy.may_see(caller, item))
