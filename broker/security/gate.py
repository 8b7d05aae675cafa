"""One call of one transaction, whatever its wire: authorise, handle, filter, audit, answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from broker.audit.spool import AuditLog
from broker.model.caller import Call, Caller, Facts
from broker.model.errors import BrokerError, Rejected, TooLarge
from broker.model.transaction import Bound, Outcome, Transaction
from broker.security.rules import Policy, visible

log = structlog.get_logger("broker.gate")


@dataclass(frozen=True)
class Gate:
    """Runs calls. Every wire's edge uses one. DIMSE alone takes objects while they stream and asks and audits by itself
    (`edge/dimse/session.py`).
    """

    policy: Policy
    audit: AuditLog

    def perform(self, bound: Bound, raw: Any, caller: Caller) -> Any:
        """Return the wire's reply. A `BrokerError` is answered by the row's `refuse`; anything else is audited and raised."""
        row = bound.row
        try:
            return self._audited(row, caller, lambda facts: self._perform(bound, raw, caller, facts))
        except BrokerError as error:
            log.info("refused", transaction=row.code, reason=reason(error))
            return row.refuse(raw, error)

    def inside(self, bound: Bound, request: Any, caller: Caller) -> Any:
        """Return the handler's result to another actor of this process: asked, filtered and audited as a call from outside."""
        return self._audited(bound.row, caller, lambda facts: self._handle(bound, request, caller, facts))

    def broken(self, bound: Bound, caller: Caller) -> None:
        """Audit that an answer did not reach the caller whole."""
        self.audit.record(bound.row, caller, Facts(), Outcome.SERIOUS, "the answer was not taken whole")

    def _perform(self, bound: Bound, raw: Any, caller: Caller, facts: Facts) -> Any:
        request = bound.row.read(raw)
        return bound.row.write(request, self._handle(bound, request, caller, facts))

    def _handle(self, bound: Bound, request: Any, caller: Caller, facts: Facts) -> Any:
        self.policy.authorise(bound.row, caller, bound.row.subject(request))
        return visible(self.policy, caller, bound.row.handle(bound.actor, request, Call(caller=caller, facts=facts)))

    def _audited(self, row: Transaction, caller: Caller, work: Callable[[Facts], Any]) -> Any:
        facts = Facts()
        try:
            result = work(facts)
        except BrokerError as error:
            outcome = Outcome.MINOR if isinstance(error, Rejected | TooLarge) else Outcome.SERIOUS
            self.audit.record(row, caller, facts, outcome, reason(error))
            raise
        except BaseException:
            self.audit.record(row, caller, facts, Outcome.SERIOUS, "internal error")
            raise
        self.audit.record(row, caller, facts, Outcome.SUCCESS)
        return result


def reason(error: BrokerError) -> str:
    """Return the error codes of a problem, without its context: contexts may name a patient's id, logs must not."""
    if isinstance(error, Rejected):
        return ", ".join(dict.fromkeys(problem.code for problem in error.problems))
    return str(error)
