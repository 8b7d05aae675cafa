"""One call of one transaction, whatever its wire: authorise, handle, filter, audit, answer."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic

import structlog

from broker.audit.spool import AuditLog
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.errors import BrokerError, Rejected, TooLarge, Unavailable
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.model.transaction import (
    Actor,
    InternalTransaction,
    Outcome,
    Raw,
    Reply,
    Request,
    Result,
    ServedTransaction,
    TransactionRow,
)
from broker.security.rules import Policy, visible

log = structlog.get_logger("broker.gate")

# How a failed call is audited (DICOM PS3.15 A.5.2 leaves the degrees to the application); anything else is a bug: serious.
_OUTCOMES: dict[type[BaseException], Outcome] = {
    Rejected: Outcome.MINOR,            # the request is at fault, whoever sent it; the transaction worked as it should
    TooLarge: Outcome.MINOR,            # the same: a limit that the region set was held
    Unavailable: Outcome.SERIOUS,       # what was asked for in good order was not done: a store or a peer failed
}


@dataclass(frozen=True)
class Gate:
    """The one way to a handler and to the audit log, for calls from outside, calls between actors, and calls we begin."""

    policy: Policy
    audit: AuditLog

    def perform(self, served: ServedTransaction[Actor, Raw, Request, Result, Reply], raw: Raw, caller: Caller) -> Reply:
        """Return the wire's reply. A `BrokerError` is answered by the row's `refuse`; anything else is audited and raised."""
        row = served.row
        try:
            with self._recorded(row, caller) as facts:
                request = row.read(raw, facts)
                return row.write(request, self._handle(row, served.actor, request, Call(caller=caller, facts=facts)))
        except BrokerError as error:
            log.info("refused", transaction=row.code, reason=reason(error))
            return row.refuse(raw, error)

    def inside(
        self, row: InternalTransaction[Actor, Request, Result], actor: Actor, request: Request, caller: Caller,
        unit: Unit | None = None,
    ) -> Result:
        """Return the handler's result to another actor of this process: asked, filtered and audited as a call from outside.

        With `unit`, the caller's unit of work in which it happens, success is audited once that is durable.
        """
        with self._recorded(row, caller, unit=unit) as facts:
            return self._handle(row, actor, request, Call(caller=caller, facts=facts))

    def outgoing(
        self, row: TransactionRow, caller: Caller, facts: AuditFacts | None = None,
    ) -> AbstractContextManager[AuditFacts]:
        """Audit a call that this broker begins, from entering to leaving; yield the facts, which may grow meanwhile.

        `caller` names the peer that is called, `facts` what is known before the call.
        """
        return self._recorded(row, caller, facts)

    def stream(
        self, row: InternalTransaction[Actor, Request, Result], actor: Actor, caller: Caller,
    ) -> "Stream[Actor, Request, Result]":
        """Return a row for the many calls of one connection."""
        return Stream(self, row, actor, caller)

    def broken(self, row: TransactionRow, caller: Caller) -> None:
        """Audit that an answer did not reach the caller whole."""
        self.audit.record(row, caller, AuditFacts(), Outcome.SERIOUS, "the answer was not taken whole")

    def _handle(
        self, row: InternalTransaction[Actor, Request, Result], actor: Actor, request: Request, call: Call,
    ) -> Result:
        self._authorise(row, call, row.subject(actor, request))
        result = visible(self.policy, row, call.caller, row.handle(actor, request, call))
        row.disclosed(result, call.facts)
        return result

    def _authorise(self, row: TransactionRow, call: Call, subjects: tuple[PatientId, ...]) -> None:
        try:
            self.policy.authorise(row, call.caller, subjects)
        except BrokerError:
            call.facts.patients += subjects     # the handler, which would have told, is not reached
            raise

    @contextmanager
    def _recorded(
        self, row: TransactionRow, caller: Caller, facts: AuditFacts | None = None, unit: Unit | None = None,
    ) -> Iterator[AuditFacts]:
        facts = AuditFacts() if facts is None else facts
        try:
            yield facts
        except BaseException as error:
            self.audit.record(row, caller, facts, outcome_of(error), reason(error))
            raise
        success = functools.partial(self.audit.record, row, caller, facts, Outcome.SUCCESS)
        if unit is None:
            success()
        else:
            unit.after_commit(success)


class Stream(Generic[Actor, Request, Result]):
    """Many calls of one transaction on one connection, as the objects of a DICOM association.

    The rules are asked for the first call and whenever a request names other patients than the one before. Its edge says
    what is audited: one record for each object would be more than anybody reads.
    """

    def __init__(
        self, gate: Gate, row: InternalTransaction[Actor, Request, Result], actor: Actor, caller: Caller,
    ) -> None:
        self._gate, self._row, self._actor, self._caller = gate, row, actor, caller
        self._asked: tuple[PatientId, ...] | None = None

    def handle(self, request: Request) -> Result:
        """Return the handler's result. Raise `Rejected` when the call is not allowed; nothing is audited."""
        subjects = self._row.subject(self._actor, request)
        if subjects != self._asked:
            self._gate.policy.authorise(self._row, self._caller, subjects)
            self._asked = subjects
        result = self._row.handle(self._actor, request, Call(caller=self._caller, facts=AuditFacts()))
        return visible(self._gate.policy, self._row, self._caller, result)

    def succeeded(self, facts: AuditFacts) -> None:
        """Audit what was done."""
        self._gate.audit.record(self._row, self._caller, facts, Outcome.SUCCESS)

    def failed(self, error: BrokerError) -> None:
        """Audit why something was not done."""
        self._gate.audit.record(self._row, self._caller, AuditFacts(), outcome_of(error), reason(error))


def outcome_of(error: BaseException) -> Outcome:
    """Return how a call that ended with this error is audited (EventOutcomeIndicator)."""
    return next((_OUTCOMES[kind] for kind in type(error).__mro__ if kind in _OUTCOMES), Outcome.SERIOUS)


def reason(error: BaseException) -> str:
    """Return what a log may say of an error: the codes of a refusal without their contexts, which may name a patient's id."""
    if isinstance(error, Rejected):
        return ", ".join(dict.fromkeys(problem.code for problem in error.problems))
    return str(error) if isinstance(error, BrokerError) else "internal error"
