"""One call of one transaction, whatever its wire: authorise, handle, filter, audit, answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from broker.audit.spool import AuditLog
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.errors import BrokerError, Rejected, TooLarge
from broker.model.transaction import Outcome, ServedTransaction, Transaction
from broker.security.rules import Policy, visible

log = structlog.get_logger("broker.gate")


@dataclass(frozen=True)
class Gate:
    """Runs calls. Every wire's edge uses one. DIMSE alone takes objects while they stream and asks and audits by itself
    (`edge/dimse/session.py`).
    """

    policy: Policy
    audit: AuditLog

    def perform(self, served: ServedTransaction, raw: Any, caller: Caller) -> Any:
        """Return the wire's reply. A `BrokerError` is answered by the row's `refuse`; anything else is audited and raised."""
        row = served.row
        try:
            return self._audited(row, caller, lambda facts: self._perform(served, raw, caller, facts))
        except BrokerError as error:
            log.info("refused", transaction=row.code, reason=reason(error))
            return row.refuse(raw, error)

    def inside(self, served: ServedTransaction, request: Any, caller: Caller) -> Any:
        """Return the handler's result to another actor of this process: asked, filtered and audited as a call from outside."""
        return self._audited(served.row, caller, lambda facts: self._handle(served, request, caller, facts))

    def broken(self, served: ServedTransaction, caller: Caller) -> None:
        """Audit that an answer did not reach the caller whole."""
        self.audit.record(served.row, caller, AuditFacts(), Outcome.SERIOUS, "the answer was not taken whole")

    def _perform(self, served: ServedTransaction, raw: Any, caller: Caller, facts: AuditFacts) -> Any:
        request = served.row.read(raw)
        return served.row.write(request, self._handle(served, request, caller, facts))

    def _handle(self, served: ServedTransaction, request: Any, caller: Caller, facts: AuditFacts) -> Any:
        self.policy.authorise(served.row, caller, served.row.subject(request))
        return visible(self.policy, caller, served.row.handle(served.actor, request, Call(caller=caller, facts=facts)))

    def _audited(self, row: Transaction, caller: Caller, work: Callable[[AuditFacts], Any]) -> Any:
        facts = AuditFacts()
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
