"""The two questions asked for every call. With security off both say yes, but for what is guarded."""

from dataclasses import dataclass
from typing import Protocol

from broker.config.settings import Settings
from broker.model.caller import Caller, ip_of
from broker.model.errors import AccessCode, Rejected
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


@dataclass(frozen=True)
class Open:
    """Security off: everything is allowed. With `open_writes` that holds for guarded rows, too, whoever calls."""

    open_writes: bool = False

    def authorise(self, row: TransactionRow, caller: Caller, subjects: tuple[PatientId, ...]) -> None:  # noqa: ARG002 - see above
        """Allow. Raise `Rejected` (AccessDenied) for a guarded row that is called from another machine."""
        if row.guarded and not self.open_writes and not is_here(caller.address):
            raise Rejected(
                AccessCode.DENIED, f"{row.code} is taken from this machine only while security is off (security.open_writes)")

    def may_see(self, caller: Caller, item: Disclosure) -> bool:  # noqa: ARG002 - the protocol's signature
        """Show."""
        return True


def is_here(address: str) -> bool:
    """Say whether an address is one of this machine's own, which nobody else can call from."""
    found = ip_of(address)
    return found is not None and found.is_loopback


def visible(policy: Policy, row: InternalTransaction[Actor, Request, Result], caller: Caller, result: Result) -> Result:
    """Return `result` without the items the caller may not see."""
    if isinstance(policy, Open):        # it hides nothing: an answer of thousands of items need not be walked
        return result
    return row.filtered(result, lambda item: policy.may_see(caller, item))


def open_writes(settings: Settings) -> str:
    """Return what an operator should know where other machines may write without saying who they are; else nothing."""
    if settings.security.mode != "off" or not settings.security.open_writes:
        return ""
    return "on, and security is off: whoever reaches the HTTP port can change patients' ids (ITI-104)"
