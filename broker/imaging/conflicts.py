"""What does not agree with its study, and what an operator decides about it.

    open ── assign PATIENT ──> assigned     the objects are pictures of PATIENT now: of the part of the study that is
     │                                      that patient's, or of a new one; what they take the place of is kept aside
     └───── reject ──────────> rejected     they stay aside
    assigned, rejected ── undo ──> open     everything is as it was before

Whatever is decided, no bytes go: each file that lies aside stays there. Manifests follow from what a part shows: `publish`
replaces the one of a part that changed and withdraws the one of a part that lost all. A packed study is brought back to the
online tier first, and packed again later, so that what is packed is what is shown.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from broker.archive.formats.sdicom import Progress
from broker.archive.sdfo import Sdfo
from broker.archive.tiers.online import ASIDE
from broker.config.profile import Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.imaging import header
from broker.imaging.archiving.unpack import bring_back
from broker.imaging.audited import accessed
from broker.imaging.identity import LONGEST, PERSON, fuller
from broker.imaging.store import cases, containers, settlements, studies
from broker.imaging.store.cases import Aside, Case
from broker.imaging.store.machines import MOVED
from broker.imaging.store.studies import Instance, Study
from broker.model.caller import Call
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import PatientId
from broker.model.ports import Unit
from broker.model.transaction import Disclosure, InternalTransaction, Keep, Wire
from broker.wire import tags

_LOCK_SECONDS = 3600.0      # the lock of a migration: what is packed just now cannot be settled
_RETRY_SECONDS = 300.0      # a correction that could not be applied is left alone for so long

log = structlog.get_logger("broker.conflicts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One side of a conflict: a patient, what is known of the study for that patient, its images here or at the origin."""

    patient: PatientId
    facts: dict[str, str]
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A conflict for people: what is `here`, what `came` from the hospital, and what was decided."""

    id: int
    kind: str
    state: str
    hospital: str
    study_uid: str
    here: Shown
    came: Shown
    first_at: float
    last_at: float
    decided_at: float
    decided_by: str
    assigned: PatientId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to become of a conflict: `patient` is whom an assignment gives it to. `progress(done, total)` counts images."""

    conflict: int
    patient: PatientId | None = None
    progress: Progress | None = field(default=None, compare=False)


class Conflicts:
    """Lists conflicts and carries out what is decided. Safe in several processes at once."""

    def __init__(
        self, database: Database, sdfo: Sdfo, profile: Profile, coord: Coord, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._sdfo, self._profile, self._coord, self._clock = database, sdfo, profile, coord, clock
        self._failed: dict[int, float] = {}

    def listed(self, hospital: str = "", *, settled: bool = False) -> list[Conflict]:
        """Return the open conflicts of a hospital, or of all, oldest first; with `settled` those that are decided too."""
        with self._database.read() as unit:
            found = cases.find(unit, hospital=hospital, state="" if settled else cases.OPEN)
            counts = cases.counts(unit, [case.id for case in found])
            return [self._view(unit, case, counts.get(case.id, 0)) for case in found]

    def get(self, conflict: int) -> Conflict:
        """Return one conflict. Raise `Rejected` (UnknownConflict) when there is none."""
        with self._database.read() as unit:
            case = _case(unit, conflict)
            return self._view(unit, case, cases.counts(unit, [case.id]).get(case.id, 0))

    def subjects(self, decision: Decision) -> tuple[PatientId, ...]:
        """Return every patient of the conflict's study, and whom it is decided for; only that one where there is no conflict."""
        with self._database.read() as unit:
            found = cases.find(unit, case_id=decision.conflict) if decision.conflict > 0 else []
            parts = [part for case in found for part in studies.find_studies(
                unit, hospital=case.hospital, study_uid=case.study_uid)]
        named = (decision.patient, *(case.said for case in found), *(part.patient for part in parts))
        return tuple(dict.fromkeys(patient for patient in named if patient is not None and patient.value))

    def due(self) -> list[Decision]:
        """Return what is to be applied without an operator: corrections that are complete, of hospitals that may correct."""
        now = self._clock()
        self._failed = {key: at for key, at in self._failed.items() if now - at < _RETRY_SECONDS}
        may = {hospital.key for hospital in self._profile.hospitals if hospital.corrections == "apply"}
        if not may:
            return []
        with self._database.read() as unit:
            found = [
                case for case in cases.find(unit, state=cases.OPEN, kind=cases.CORRECTION)
                if case.hospital in may and case.id not in self._failed and not case.decision
                and case.last_at < now - self._profile.retention.quiet_seconds]
            return [Decision(conflict=case.id, patient=case.said if case.said.value else self._view(unit, case, 0).here.patient)
                    for case in found]

    def failed(self, decision: Decision) -> None:
        """Leave a correction alone for a while that could not be applied."""
        self._failed[decision.conflict] = self._clock()

    def assign(self, decision: Decision, call: Call) -> Conflict:
        """Let the objects of an open conflict be pictures of a patient. Raise `Rejected` when it cannot be so decided,

        `Unavailable` when the study is being packed or a store is away; then nothing has changed.
        """
        assert decision.patient is not None
        with self._alone(decision) as unit:
            case, parts = _locked(unit, decision.conflict)
            self._note(unit, case, parts, call, decision.patient)
            if case.state != cases.OPEN:
                raise Rejected("Settled", f"conflict {case.id} is {case.state} already; undo that first")
            self._assign(unit, case, parts, decision.patient, call)
        return self.get(decision.conflict)

    def reject(self, decision: Decision, call: Call) -> Conflict:
        """Leave the objects of an open conflict aside for good. Raise `Rejected` when it is settled already."""
        with self._database.write() as unit:
            case, parts = _locked(unit, decision.conflict)
            self._note(unit, case, parts, call)
            if case.state != cases.OPEN:
                raise Rejected("Settled", f"conflict {case.id} is {case.state} already; undo that first")
            cases.decide(unit, case.id, cases.REJECTED, _by(call), {}, self._clock())
        return self.get(decision.conflict)

    def undo(self, decision: Decision, call: Call) -> Conflict:
        """Take a decision back. Raise `Rejected` when there is none, or when a later one stands on it."""
        with self._alone(decision) as unit:
            case, parts = _locked(unit, decision.conflict)
            self._note(unit, case, parts, call)
            if case.state == cases.OPEN:
                raise Rejected("NotSettled", f"nothing is decided about conflict {case.id}")
            if case.state == cases.ASSIGNED:
                self._undo(unit, case, parts)
            # What an operator took back is not applied again by itself.
            cases.decide(unit, case.id, cases.OPEN, "", {"undone": True}, 0.0)
        return self.get(decision.conflict)

    def _assign(self, unit: Unit, case: Case, parts: list[Study], patient: PatientId, call: Call) -> None:
        now = self._clock()
        chosen = {item.sop_uid: self._whole(case, item) for item in cases.objects(unit, case.id, cases.CAME)}   # the last one
        listed = {sop: (series, sop, kind) for series, sop, kind in case.catalogue}
        target = next((part for part in parts if part.patient == patient), None)
        made = target is None or target.state == MOVED
        if target is None:
            if not 0 < len(patient.value) <= LONGEST:
                raise Rejected("NotAPatient", f"a patient id has 1 to {LONGEST} characters")
            told = case.facts if patient == case.said else {key: text for key, text in case.facts.items() if key not in PERSON}
            tier = "origin" if listed else "online"
            target = settlements.new_part(unit, parts[0], patient, {**told, "PatientID": patient.value}, tier, now)
            parts = [*parts, target]
        cases.forget_back(unit, case.id)
        before = self._take_away(unit, case, parts, target, {**chosen, **listed}, now)
        self._list(unit, target, chosen, listed, before, now)
        settlements.show(unit, target, chosen.values(), now)
        self._describe(unit, case, target, before, made=made)
        self._follow(unit, parts, target, before, now)
        cases.shown(unit, case.id, target.id)
        cases.decide(unit, case.id, cases.ASSIGNED, _by(call), {
            "target": target.id, "made": made, "patient": [patient.domain, patient.value],
            "shown": {sop: item.online.sha256 for sop, item in chosen.items()},
            "before": {str(key): value for key, value in before.items()}}, now)

    def _whole(self, case: Case, item: Aside) -> Aside:
        """Return an object with all its row needs; that of an older broker says it in its file only."""
        if item.sop_class:
            return item
        hospital, file = self._profile.hospital(case.hospital), self._sdfo.online.path(item.online.path)
        try:
            if hospital is None:
                raise Rejected("UnknownHospital", f"there is no hospital {case.hospital!r} in the profile any more")
            meta, text = header.of_file(file, hospital)
            size = file.stat().st_size
        except (OSError, tags.Truncated) as error:
            raise Unavailable(f"the file of {item.sop_uid}") from error
        return replace(
            item, series_uid=text["SeriesInstanceUID"], sop_class=meta.sop_class, transfer_syntax=meta.transfer_syntax,
            online=replace(item.online, size=size))

    def _take_away(
        self, unit: Unit, case: Case, parts: list[Study], target: Study, taken: dict[str, Any], now: float,
    ) -> dict[int, dict[str, Any]]:
        """Take from every part what others come in the place of; return what `undo` needs, by the part's id."""
        before: dict[int, dict[str, Any]] = {}
        for part, row in settlements.here(unit, parts, taken):
            aside = self._sdfo.online.keep_as_conflict(row.online)       # `_alone` has done the slow part
            settlements.put_was(unit, case, part, row, aside, now)
            settlements.hide(unit, part.id, [row.sop_uid])
            self._drop_later(unit, row.online.path)
            before.setdefault(part.id, {})
        for part in parts:
            catalogue = studies.origin_catalogue(unit, part.id) if part.tier == "origin" and part.id != target.id else []
            left = [one for one in catalogue if one[1] not in taken]
            if len(left) < len(catalogue):
                before.setdefault(part.id, {})["catalogue"] = catalogue
                studies.set_catalogue(unit, part.id, left, now)
        return before

    @staticmethod
    def _list(
        unit: Unit, target: Study, chosen: dict[str, Aside], listed: dict[str, cases.Listed],
        before: dict[int, dict[str, Any]], now: float,
    ) -> None:
        """Enter what an origin keeps of what is the target's now."""
        if target.tier != "origin":
            return
        old = studies.origin_catalogue(unit, target.id)
        new = {**{one[1]: one for one in old}, **listed}
        for sop, item in chosen.items():
            new.setdefault(sop, (item.series_uid, sop, item.sop_class))
        before.setdefault(target.id, {})["catalogue"] = old
        studies.set_catalogue(unit, target.id, list(new.values()), now)

    @staticmethod
    def _describe(unit: Unit, case: Case, target: Study, before: dict[int, dict[str, Any]], *, made: bool) -> None:
        """Let what the objects say of their study count: a correction more than what was known."""
        if made or case.said not in {target.patient, PatientId(target.patient.domain, "")}:
            return
        facts = {**target.facts, **case.facts} if case.kind == cases.CORRECTION else fuller(target.facts, case.facts)
        if facts != target.facts:
            before.setdefault(target.id, {})["facts"] = target.facts
            settlements.set_facts(unit, target.id, facts)

    def _follow(
        self, unit: Unit, parts: list[Study], target: Study, before: dict[int, dict[str, Any]], now: float,
    ) -> None:
        """Set states, and have the manifests follow, of the target and of every part that lost something."""
        for part in parts:
            if part.id == target.id:
                if part.state == MOVED:
                    before.setdefault(part.id, {})["state"] = part.state
                    studies.mark(unit, part.id, "filled again")
            elif part.id not in before:
                continue
            elif settlements.is_empty(unit, part.id):
                before[part.id]["state"] = part.state
                studies.mark(unit, part.id, "emptied")
            self._publish(unit, part, now, asked=part.id == target.id)

    def _undo(self, unit: Unit, case: Case, parts: list[Study]) -> None:
        now, decision = self._clock(), case.decision
        target = next(part for part in parts if part.id == decision["target"])
        shown: dict[str, str] = decision["shown"]
        here = {row.sop_uid: row for row in studies.instances(unit, target.id)}
        was = cases.objects(unit, case.id, cases.WAS)
        if any(sop not in here or here[sop].online.sha256 != sha256 for sop, sha256 in shown.items()):
            raise Rejected("ChangedSince", f"a later decision changed what conflict {case.id} shows; undo that first")
        taken = dict(shown)
        if decision["made"]:
            self._set_later_aside(unit, case, target, [row for sop, row in here.items() if sop not in shown], now)
            taken = dict.fromkeys(here, "")
        for sop in taken:
            self._drop_later(unit, here[sop].online.path)
        settlements.hide(unit, target.id, taken)
        for part in parts:
            settlements.show(unit, part, [item for item in was if item.study_id == part.id], now)
        cases.take_back(unit, case.id)
        cases.shown(unit, case.id, None)
        self._restore(unit, parts, target, decision, now)

    def _set_later_aside(self, unit: Unit, case: Case, target: Study, rows: list[Instance], now: float) -> None:
        """Set aside what came later for the patient whose part an undone decision had made: a conflict of that patient."""
        later = [one for one in cases.find(unit, study_id=case.study_id, state=cases.ASSIGNED)
                 if one.id != case.id and one.decision["target"] == target.id]
        if later:
            raise Rejected("ChangedSince", f"conflict {later[-1].id} was given to the same patient; undo that first")
        joins = case.id
        if rows and target.patient != case.said:
            joins = cases.open_case(unit, case.study_id, cases.PATIENT, target.patient, target.facts, now)
        for row in rows:
            item = settlements.stored(target, row, self._sdfo.online.keep_as_conflict(row.online))
            cases.put(unit, joins, item, cases.CAME, None, now)

    def _restore(self, unit: Unit, parts: list[Study], target: Study, decision: dict[str, Any], now: float) -> None:
        before: dict[str, dict[str, Any]] = decision["before"]
        for part in parts:
            old = before.get(str(part.id))
            if old is None and part.id != target.id:
                continue
            old = old or {}
            if "catalogue" in old:
                studies.set_catalogue(unit, part.id, old["catalogue"], now)
            elif part.id == target.id and decision["made"] and part.tier == "origin":
                studies.set_catalogue(unit, part.id, [], now)
            state = MOVED if part.id == target.id and decision["made"] else old.get("state", "")
            if state:
                studies.mark(unit, part.id, "decision undone", to=state)
            if "facts" in old:
                settlements.set_facts(unit, part.id, old["facts"])
            self._publish(unit, part, now, asked=False)

    def _publish(self, unit: Unit, part: Study, now: float, *, asked: bool) -> None:
        """Have a part's manifest made anew; of an origin's study only when it was published, or is kept here now."""
        hospital = self._profile.hospital(part.hospital)
        wanted = hospital is not None and (hospital.kind != "origin" or (asked and (part.tier != "origin" or part.part > 0)))
        settlements.publish_anew(unit, part, now, asked=wanted)
        unit.after_commit(lambda: self._coord.publish("publish", {}))

    def _drop_later(self, unit: Unit, path: str) -> None:
        """Remove a file's own name once its row is gone for good; a file that lies aside stays."""
        if path.startswith(ASIDE):
            return

        def drop() -> None:
            with contextlib.suppress(Unavailable):      # the store logged why; the rows are right, the file takes only room
                self._sdfo.drop_online([path])
        unit.after_commit(drop)

    @contextlib.contextmanager
    def _alone(self, decision: Decision) -> Iterator[Unit]:
        """Return a unit while no part of the study is packed, and those that hold what is decided about are online."""
        with self._database.read() as unit:
            case = _case(unit, decision.conflict)
            sops = {item.sop_uid for item in cases.objects(unit, case.id)}
            parts = studies.find_studies(unit, hospital=case.hospital, study_uid=case.study_uid)
        with contextlib.ExitStack() as stack:
            for part in sorted(parts, key=lambda part: part.id):
                if not stack.enter_context(self._coord.lock(f"migrate:{part.id}", _LOCK_SECONDS)):
                    raise Unavailable("the study, which is being packed or settled by another,")
            for part in parts:
                bring_back(self._database, self._sdfo, part, sops, self._clock(), decision.progress)
            self._keep_as_conflicts(parts, sops)
            yield stack.enter_context(self._database.write())

    def _keep_as_conflicts(self, parts: list[Study], sops: set[str]) -> None:
        """Keep aside what may be replaced, before anybody has to wait for our unit."""
        with self._database.read() as unit:
            rows = [row for _, row in settlements.here(unit, parts, sops)]
        for row in rows:
            self._sdfo.online.keep_as_conflict(row.online)

    @staticmethod
    def _view(unit: Unit, case: Case, came: int) -> Conflict:
        parts = sorted(studies.find_studies(unit, hospital=case.hospital, study_uid=case.study_uid), key=lambda part: part.part)
        living = [part for part in parts if part.state != MOVED] or parts
        shown = next((part for part in living if part.patient == case.said and case.kind != cases.PATIENT), living[0])
        given = case.decision.get("patient")
        return Conflict(
            id=case.id, kind=case.kind, state=case.state, hospital=case.hospital, study_uid=case.study_uid,
            here=Shown(patient=shown.patient, facts=shown.facts, images=_images(unit, shown)),
            came=Shown(patient=case.said, facts=case.facts, images=max(came, len(case.catalogue))),
            first_at=case.first_at, last_at=case.last_at, decided_at=case.decided_at, decided_by=case.decided_by,
            assigned=PatientId(*given) if given else None)

    @staticmethod
    def _note(unit: Unit, case: Case, parts: list[Study], call: Call, *more: PatientId) -> None:
        """Tell the audit record whom and what this is about."""
        found = (parts[0].patient, case.said, *more)
        call.facts.patients += [patient for patient in dict.fromkeys(found) if patient.value]
        call.facts.studies[case.study_uid] = sorted({item.sop_uid for item in cases.objects(unit, case.id, cases.CAME)})
        call.facts.message_id = str(case.id)


def _case(unit: Unit, conflict: int) -> Case:
    found = cases.find(unit, case_id=conflict) if conflict > 0 else []
    if not found:
        raise Rejected("UnknownConflict", f"there is no conflict {conflict}")
    return found[0]


def _locked(unit: Unit, conflict: int) -> tuple[Case, list[Study]]:
    """Return a conflict and the parts of its study, kept from others: the study first, as whoever adds to a conflict does."""
    case = _case(unit, conflict)
    parts = studies.parts(unit, case.hospital, case.study_uid)
    (case,) = cases.find(unit, case_id=conflict, lock=True)
    return case, parts


def _images(unit: Unit, part: Study) -> int:
    if part.tier == "origin":
        return len(studies.origin_catalogue(unit, part.id))
    container = containers.current(unit, part.id)
    return max(part.objects, container.images if container else 0)


def _by(call: Call) -> str:
    return call.caller.user or call.caller.node


def _filtered(found: Conflict, keep: Keep) -> Conflict:
    """Return the conflict without the sides whose patient may not be seen; without both nothing of the study is told."""
    here, came = (
        side if keep(Disclosure(patient=side.patient)) else Shown(patient=PatientId("", ""), facts={}, images=0)
        for side in (found.here, found.came))
    assigned = found.assigned if found.assigned and keep(Disclosure(patient=found.assigned)) else None
    known = here is found.here or came is found.came
    return replace(found, here=here, came=came, assigned=assigned, study_uid=found.study_uid if known else "")


ConflictRow = InternalTransaction[Conflicts, Decision, Conflict]


def _row(code: str, name: str, handle: Callable[[Conflicts, Decision, Call], Conflict]) -> ConflictRow:
    return InternalTransaction(
        code=code, name=name, wire=Wire.HTTP, audit=accessed(code, name), subject=Conflicts.subjects, handle=handle,
        filtered=_filtered)


ASSIGN = _row("CONFLICT-ASSIGN", "Conflict Assigned", Conflicts.assign)
REJECT = _row("CONFLICT-REJECT", "Conflict Rejected", Conflicts.reject)
UNDO = _row("CONFLICT-UNDO", "Conflict Decision Undone", Conflicts.undo)
