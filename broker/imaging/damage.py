"""Quarantine: what of the archive is not what was packed, so that nobody is given it again before it is mended.

It is found by whoever reads a picture (`noticed`) and by who reads all containers in turn (`archiving.verify`). `locate`
offers nothing that is in quarantine; `archiving.mend` replaces the container.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Sdfo, study_of
from broker.db import Database
from broker.imaging.audited import accessed
from broker.imaging.store import damages, studies
from broker.imaging.store.damages import WHOLE, Holder
from broker.imaging.store.proofs import Kept
from broker.model.caller import Call, Caller
from broker.model.errors import BrokerError, place_of
from broker.model.ids import PatientId
from broker.model.imaging import Archived
from broker.model.ports import Unit
from broker.model.transaction import NOTHING_TO_FILTER, InternalTransaction, Wire
from broker.security.gate import Gate, reason

ROTTEN = "its bytes are not those that were packed"

log = structlog.get_logger("broker.imaging.damage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of the current container of a study, in the unit of work in which it is entered."""

    unit: Unit
    holder: Holder
    container: str
    sop_uids: tuple[str, ...]
    reason: str


class Quarantine:
    """Enters damage, each picture once, and has it audited. Safe to share between threads. `caller` is this machine."""

    def __init__(
        self, database: Database, sdfo: Sdfo, gate: Gate, caller: Caller, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._sdfo, self._gate, self._caller, self._clock = database, sdfo, gate, caller, clock

    def noticed(self, location: Archived) -> None:
        """Enter a picture that somebody read, or its container where that is not there or has no index any more.

        Nothing is raised: the reader has an error of its own, and what cannot be entered now will be noticed again.
        """
        try:
            sop_uid, why = self._look(location)
            self.enter(location.container, [sop_uid], why)
        except Exception as error:  # noqa: BLE001 - a reader's answer is cut already; what went wrong here is no news to it
            why = reason(error) if isinstance(error, BrokerError) else place_of(error)
            log.error("damage was not entered", container=location.container, offset=location.offset, reason=why)

    def enter(self, container: str, sop_uids: Collection[str], why: str) -> list[str]:
        """Enter damage of a container, `WHOLE` for the container itself; return what was not known yet.

        Of a container that is not the current one of its study any more nothing is entered or returned.
        """
        with self._database.write() as unit:
            holder = damages.holder(unit, study_of(container), container)
            if holder is None:
                return []
            new = sorted(set(sop_uids) - damages.damaged_of(unit, container))
            if new:
                finding = Finding(unit=unit, holder=holder, container=container, sop_uids=tuple(new), reason=why)
                self._gate.inside(FOUND, self, finding, self._caller, unit)
        if new:
            log.error("damage in the archive", container=container, images=len(new), whole=WHOLE in new, reason=why)
        return new

    def mended(self, container: Kept, sop_uids: tuple[str, ...]) -> None:
        """Have it audited that another container has taken the place of a damaged one."""
        with self._database.read() as unit:
            patient = studies.get(unit, container.study_id).patient
            holder = Holder(container.study_id, container.hospital, container.study_uid, patient)
            finding = Finding(unit=unit, holder=holder, container=container.path, sop_uids=sop_uids, reason="")
            self._gate.inside(MENDED, self, finding, self._caller)
        log.info("damage of the archive is mended", container=container.path, images=len(sop_uids))

    def put(self, finding: Finding, call: Call) -> None:
        """Enter what was found, and tell the audit record whose it is."""
        damages.enter(
            finding.unit, finding.holder.study_id, finding.container, finding.sop_uids, finding.reason, self._clock())
        self.note(finding, call)

    def note(self, finding: Finding, call: Call) -> None:
        """Tell the audit record what this is about."""
        call.facts.studies[finding.holder.study_uid] = [uid for uid in finding.sop_uids if uid != WHOLE]
        call.facts.patients += self.subjects(finding)
        call.facts.message_id = finding.container

    def subjects(self, finding: Finding) -> tuple[PatientId, ...]:
        """Return whose pictures they are, where that is known."""
        patient = finding.holder.patient
        return (patient,) if patient.value else ()

    def _look(self, location: Archived) -> tuple[str, str]:
        """Return which picture lies there, and what is wrong with it."""
        try:
            entries = self._sdfo.index(location.container, fresh=True).entries.values()
        except Damaged as error:
            self._sdfo.check_mounted()
            return WHOLE, error.why
        return next((entry.sop_uid for entry in entries if entry.offset == location.offset), WHOLE), ROTTEN


DamageRow = InternalTransaction[Quarantine, Finding, None]


def _row(code: str, name: str, handle: Callable[[Quarantine, Finding, Call], None]) -> DamageRow:
    return InternalTransaction(
        code=code, name=name, wire=Wire.HTTP, audit=accessed(code, name), subject=Quarantine.subjects, handle=handle,
        filtered=NOTHING_TO_FILTER)


FOUND = _row("ARCHIVE-DAMAGE", "Archive Damage Found", Quarantine.put)
MENDED = _row("ARCHIVE-MEND", "Archive Damage Mended", Quarantine.note)
