"""One association as acceptor: who calls, what it stored.

An association stores many objects: it is authorised once, and audited once for each study, not for each object: with
the first one, so that a process that is killed leaves nothing acknowledged without its record.
"""

from broker.config.profile import Profile
from broker.edge.dimse import c_echo, c_store
from broker.edge.dimse.c_store import IncomingObject, StoreRequest
from broker.model.caller import AuditFacts, Caller
from broker.model.errors import BrokerError
from broker.model.ids import PatientId
from broker.model.ports import ObjectWriter, Received
from broker.model.transaction import ServedTransaction
from broker.security.gate import Gate, reason

_STUDIES = 256      # studies of one association that are remembered as audited

class Session:
    """What one association does: objects of `classes` are taken. `end` it when the association is over."""

    def __init__(
        self, received: Received, gate: Gate, profile: Profile, caller: Caller, longest: int, classes: frozenset[str],
    ) -> None:
        self._gate, self._profile, self._caller, self._longest, self._classes = gate, profile, caller, longest, classes
        self._stores = gate.stream(c_store.ROW, received, caller)
        self._studies: set[tuple[str, str, str]] = set()
        self._failures: dict[str, BrokerError] = {}

    def echo(self) -> int:
        """Answer a C-ECHO; return its status."""
        return self._gate.perform(ServedTransaction(c_echo.ROW, None), None, self._caller)

    def receive(self, request: StoreRequest) -> IncomingObject:
        """Begin an object."""
        return IncomingObject(lambda: self._begin(request), self._longest, request.sop_uid)

    def done(self, reception: IncomingObject) -> int:
        """Finish an object; return the status to answer."""
        status = reception.close()
        if (refusal := reception.refusal) is not None and reception.error is not None:
            self._failures.setdefault(reason(reception.error), reception.error)
            c_store.log_refusal(reception, refusal, self._caller.node)
        elif (item := reception.stored) is not None:
            self._audit(item.hospital, item.study_uid, item.tags.get("PatientID", ""))
        return status

    def end(self) -> None:
        """Write one audit record for each kind of failure."""
        for error in self._failures.values():
            self._stores.failed(error)
        self._failures.clear()

    def _audit(self, key: str, study_uid: str, patient: str) -> None:
        if (key, study_uid, patient) in self._studies:
            return
        if len(self._studies) >= _STUDIES:
            self._studies.clear()
        self._studies.add((key, study_uid, patient))
        hospital = self._profile.hospital(key)
        patients = [PatientId(hospital.domain, patient)] if hospital and patient else []
        self._stores.succeeded(AuditFacts(patients=patients, studies={study_uid: []}))

    def _begin(self, request: StoreRequest) -> ObjectWriter:
        c_store.check_class(request, self._classes)
        return self._stores.handle(request)
