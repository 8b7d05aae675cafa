"""Publishing: the manifest of a complete study goes to the repository, and a new one when images were added.

The bytes of a submission are saved before they are sent and kept until its fate is known. Whatever is interrupted is
sent again byte for byte: the repository knows the document, and a registry that already has the submission refuses
its SubmissionSet.uniqueId, which then means that it is published.
"""

import functools
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from broker.archive.sdfo import Sdfo
from broker.config.profile import Hospital, Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.imaging import maker
from broker.imaging.alone import Alone
from broker.imaging.locate import is_first
from broker.imaging.origin import Origins, misspelt, named_only, unnamed
from broker.imaging.store import locations, publications, recording, studies
from broker.imaging.store.machines import DUE, FAILED, MOVED, PARTIAL, PUBLISHED, RECEIVING
from broker.imaging.store.publications import Draft, Publication
from broker.model.caller import Caller
from broker.model.errors import BrokerError, Problem, Rejected, Unavailable, XdsCode, place_of
from broker.model.ids import PatientId
from broker.model.imaging import SeriesFacts, StudyFacts
from broker.model.ports import PatientDirectory, StudyRows, Unit, Withdraw
from broker.security.gate import reason as codes_of
from broker.wire.ports import Outbound

log = structlog.get_logger("broker.publish")

LEASE = 180.0           # seconds a study belongs to whoever tries it; longer than any one attempt
RUN = 60.0              # seconds after which a run begins no further attempt: leases count from its beginning
FIRST_DELAY = 5.0       # seconds until the second attempt; each further one waits twice as long
LONGEST_DELAY = 3600.0
LOOK_AGAIN = 300.0      # seconds after which a waiting publication asks for its patient by itself
BATCH = 100             # studies of one run
_REASON = 2000          # characters of a refusal that are kept
_CX = re.compile(r"[^\s'\"|~]+\^\^\^&[^\s'\"|~]*")      # a patient id with its authority
SLOW = 5.0              # seconds after which a failed attempt says that its hospital holds up the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """How a publication stands: its state, the images of the study, the manifest in the registry, why it is not there.

    Of `instances`, `left_out` are not in the manifest, because nobody tells their SOP class. `nameless` are not counted
    among them: the PACS listed so many that have no legal UID, so that nobody can ask for them.
    """

    state: str
    instances: int
    manifest_uid: str = ""
    reason: str = ""
    left_out: int = 0
    nameless: int = 0


@dataclass(frozen=True, slots=True)
class _Case:
    """A claimed study and what its manifest is made of; `patient` is its affinity-domain id.

    `first` says that no other hospital used its Study Instance UID before.
    """

    row: Publication
    facts: StudyFacts
    patient: PatientId | None
    containers: list[str]
    series: dict[str, SeriesFacts]
    first: bool

    @property
    def is_empty(self) -> bool:
        """Whether the study has no image, anywhere."""
        return not self.containers and not maker.instance_count(self.facts)


class Publisher:
    """Publishes studies. Safe in several processes at once: a study is tried by one at a time.

    `sdfo` holds the studies that are in the archive already; `ae_title` is our own. `withdraw`
    takes back what must not be replaced; without it, as where the registry is another's, such a publication fails.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - one argument per neighbour
        self, database: Database, profile: Profile, patients: PatientDirectory, outbound: Outbound, origins: Origins,
        coord: Coord, sdfo: Sdfo, ae_title: str, withdraw: Withdraw | None = None,
    ) -> None:
        self._database, self._profile, self._patients, self._sdfo = database, profile, patients, sdfo
        self._outbound, self._origins, self._coord, self._ae_title = outbound, origins, coord, ae_title
        self._withdraw = withdraw
        self._completing = Alone(database, "complete")

    def run_once(self, now: float) -> int:
        """Find what is complete, try what is due, and return how many manifests were accepted.

        Hospitals take turns; one whose study failed and took long has to wait for the next run with the others it has due.
        """
        self._complete(now)
        with self._database.read() as unit:
            due = publications.due(unit, now, BATCH)
        end = time.monotonic() + RUN
        accepted, slow = 0, set[str]()
        for study_id, hospital in due:
            began = time.monotonic()
            if hospital in slow or began > end:
                continue
            done = self._attempt_alone(study_id, now)
            accepted += done
            if not done and time.monotonic() - began > SLOW:
                slow.add(hospital)
        return accepted

    def _complete(self, now: float) -> None:
        """Make complete what is quiet, all at once; where that fails each by itself."""
        with self._database.read() as unit:
            found = {study.id: study.hospital for study in studies.quiet(unit, now - self._profile.retention.quiet_seconds)}
        ready = {study_id for study_id in found if not self._completing.waits(study_id, now)}
        if not ready:
            return
        try:
            self._collect(ready, now)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - one of them: it is found out which
            for study_id in ready:
                self._completing.attempt(study_id, now, functools.partial(self._collect, {study_id}, now), found[study_id])

    def _collect(self, study_ids: set[int], now: float) -> None:
        with self._database.write() as unit:
            maker.collect(unit, self._profile, now, study_ids)

    def publish_study(self, hospital_key: str, study_uid: str, now: float | None = None) -> Published:
        """Publish one study at once, whatever became of it before, and say how it stands.

        A hospital of kind `origin` is asked by C-FIND what the study holds, and for a picture of each series whose SOP
        class it does not tell; of others the study must be here. Raise `Rejected` for a hospital or study that is not
        known, `Unavailable` when the PACS cannot be asked. A picture that cannot be had leaves the publication due.
        """
        hospital = self._profile.hospital(hospital_key)
        if hospital is None:
            raise Rejected("UnknownHospital", f"there is no hospital {hospital_key!r} in the profile")
        at = time.time() if now is None else now
        study_id, nameless, case = self._request(hospital, study_uid, at)
        if case is not None:
            self._attempt_alone(study_id, at, case)
        with self._database.read() as unit:
            row = publications.get(unit, study_id)
            assert row is not None
            case = self._case(unit, row, studies.facts(unit, study_id), None)
        return Published(
            state=row.state, instances=self._size(case), manifest_uid=row.manifest_uid, reason=row.reason,
            left_out=sum(map(len, unnamed(case.facts).values())), nameless=nameless)

    def _size(self, case: _Case) -> int:
        """Return the images of a study, packed ones too; only those that are online when the archive cannot be read."""
        try:
            return maker.instance_count(self._everything(case))
        except Unavailable:
            return maker.instance_count(case.facts)

    def _request(self, hospital: Hospital, study_uid: str, now: float) -> tuple[int, int, _Case | None]:
        """Make a study due and take it, before anybody else can; return its row id,

        how many images its PACS lists without a legal UID, and what `_taken` says of it.
        """
        found = self._origins.ask(hospital, study_uid) if hospital.kind == "origin" else StudyRows()
        with self._database.write() as unit:
            main = recording.record_origin(unit, hospital, found, now, self._profile) if found else 0
            parts = [part for part in studies.parts(unit, hospital.key, study_uid) if part.state != MOVED]
            if not parts:
                raise Rejected("UnknownStudy", f"hospital {hospital.key} has sent no study {study_uid}")
            for part in parts:
                studies.mark(unit, part.id, "asked for")
                publications.request(unit, part.id, part.patient, now, at_once=True)
            study_id = main if main in {part.id for part in parts} else parts[0].id
            return study_id, found.nameless, self._taken(unit, study_id, now)

    def _attempt_alone(self, study_id: int, now: float, taken: _Case | None = None) -> bool:
        """Try one study; whatever goes wrong with it, it waits longer each time, with the reason, and no other one does.

        Somebody waits for one that was `taken` before: its PACS gets the time that it needs.
        """
        try:
            case = taken or self._take(study_id, now)
            return case is not None and self._attempt(case, now, waits=taken is not None)
        except Exception as error:
            if isinstance(error, Unavailable) and error.what == "database":     # no other study would fare better
                raise
            with self._database.read() as unit:
                row = publications.get(unit, study_id)
            why = codes_of(error) if isinstance(error, BrokerError) else place_of(error)
            self._note_retry(study_id, now + _delay(row.attempts if row else 1), why, forget=False)
            return False

    def _attempt(self, case: _Case, now: float, *, waits: bool) -> bool:
        """Try a study that was taken; say whether a manifest was accepted."""
        study_id = case.row.study_id
        try:
            made = case.row.draft or self._make(case, now, waits=waits)
        except Rejected as error:
            self._note_refusal(study_id, error.problems)
            return False
        except Unavailable as error:
            self._note_retry(study_id, now + _delay(case.row.attempts), str(error), forget=False)
            return False
        return made is not None and self._send(study_id, made, case.row.attempts, now)

    def _take(self, study_id: int, now: float) -> _Case | None:
        with self._database.write() as unit:
            return self._taken(unit, study_id, now)

    def _taken(self, unit: Unit, study_id: int, now: float) -> _Case | None:
        """Claim a study that is due and find its patient; None when another has it, or it waits for its patient now.

        Waiting is decided in the same transaction, so no feed can slip between.
        """
        row = publications.claim(unit, study_id, now, now + LEASE)
        if row is None:
            return None
        facts = studies.facts(unit, study_id)
        case = self._case(unit, row, facts, self._patients.affinity_id(unit, facts.patient) if facts.patient.value else None)
        if case.patient is None and row.draft is None and facts.patient.value and not case.is_empty:
            publications.wait(unit, study_id, facts.patient, now + LOOK_AGAIN)
            return None
        return case

    def _case(self, unit: Unit, row: Publication, facts: StudyFacts, patient: PatientId | None) -> _Case:
        return _Case(
            row, facts, patient, locations.containers(unit, row.study_id), publications.described(unit, row.study_id),
            is_first(unit, facts.uid, row.hospital, self._profile))

    def _make(self, case: _Case, now: float, *, waits: bool) -> Draft | None:
        """Return a new manifest, saved; None when the one in the registry still tells the truth."""
        row, facts = self._without_strayed(case), case.facts
        if case.is_empty:
            with self._database.write() as unit:
                publications.withdraw(unit, row.study_id)
            return None
        if case.patient is None:
            raise Rejected("MissingPatientId", "the images hold no Patient ID")
        if unnamed(facts) or (row.tier == "origin" and misspelt(facts)):
            looked = self._origins.look(row.study_id, row.hospital, facts, now, self._origins.haste(row.attempts, waits=waits))
            facts = looked.facts
            for series_uid, why in looked.left_out.items():
                log.warning("a series is left out of the manifest", study=row.study_id, series=series_uid, reason=why)
        left_out = unnamed(facts)
        facts = self._whole(replace(case, facts=facts))
        if row.entry_uuid and not row.restored and row.digest == maker.instances_digest(facts):
            with self._database.write() as unit:
                publications.publish(
                    unit, row.study_id, manifest_uid=row.manifest_uid, entry_uuid=row.entry_uuid, digest=row.digest,
                    entry_patient=row.entry_patient)
                _note_left_out(unit, row.study_id, left_out, row.attempts, now)
            return None
        made = maker.build_submission(facts, row, case.patient, self._profile, self._ae_title, now, first=case.first)
        with self._database.write() as unit:
            publications.save(unit, row.study_id, made)
        return made

    def _without_strayed(self, case: _Case) -> Publication:
        """Take back a manifest that no other may replace: the study has no images, or they are another person's now.

        A replacement needs one patient on both sides (ITI TF-3 4.2.2.2).
        """
        row = case.row
        same = row.entry_patient in {"", str(case.patient)} and not case.is_empty
        if not row.entry_uuid or row.restored or same:
            return row
        if self._withdraw is None:
            raise Rejected("ForeignRegistry", "the manifest is to be deprecated in a registry that is not ours")
        with self._database.write() as unit:
            publications.take_back(unit, row.study_id)
            try:
                self._withdraw(unit, row.entry_uuid, Caller(node=self._ae_title))
            except Rejected as error:
                if error.problems[0].code != XdsCode.UNRESOLVED_REFERENCE:      # not there: there is nothing to take back
                    raise
        log.info("manifest withdrawn", study=row.study_id)
        return replace(row, manifest_uid="", entry_uuid="", digest="", entry_patient="")

    def _whole(self, case: _Case) -> StudyFacts:
        """Return what a manifest can name of a study, online and packed."""
        return named_only(self._everything(case))

    def _everything(self, case: _Case) -> StudyFacts:
        packed = [entry for path in case.containers for entry in self._sdfo.index(path).entries.values()]
        return maker.with_archived_instances(case.facts, packed, case.series)

    def _look_again(self, study_id: int, now: float) -> None:
        """Make a study due that got images between the draft and its acceptance; a receiving one will come by itself."""
        with self._database.read() as unit:
            row = publications.get(unit, study_id)
            assert row is not None
            case = self._case(unit, row, studies.facts(unit, study_id), None)
            patient = self._patients.affinity_id(unit, case.facts.patient)
        try:
            changed = maker.instances_digest(self._whole(case)) != row.digest or (patient and str(patient) != row.entry_patient)
        except Unavailable:     # the archive: the study is tried again by itself, the others go on
            changed = True
        if row.state in {PUBLISHED, PARTIAL} and row.study_state != RECEIVING and changed:
            with self._database.write() as unit:
                publications.request(unit, study_id, row.patient, now)

    def _send(self, study_id: int, made: Draft, attempts: int, now: float) -> bool:
        """Send outside any transaction, then note what became of it."""
        try:
            self._outbound.provide_and_register(maker.as_manifest(made))
        except Unavailable as error:
            self._note_retry(study_id, now + _delay(attempts), str(error), forget=False)
            return False
        except BrokerError as error:
            codes = {problem.code for problem in error.problems} if isinstance(error, Rejected) else set()
            if XdsCode.DUPLICATE_UNIQUE_ID_IN_REGISTRY not in codes:
                self._note_refused_draft(study_id, error, codes, attempts, now)
                return False
        with self._database.write() as unit:
            publications.publish(unit, study_id, **maker.published_facts(made))
            _note_left_out(unit, study_id, unnamed(studies.facts(unit, study_id)), attempts, now)
        log.info("published", study=study_id)
        self._look_again(study_id, now)
        return True

    def _note_refused_draft(self, study_id: int, error: BrokerError, codes: set[str], attempts: int, now: float) -> None:
        problems = error.problems if isinstance(error, Rejected) else (Problem(type(error).__name__, str(error)),)
        if XdsCode.UNKNOWN_PATIENT_ID in codes:     # merged since we asked: the next attempt finds the survivor
            self._note_retry(study_id, now + _delay(attempts), _told(problems), forget=True)
        else:
            self._note_refusal(study_id, problems)

    def _note_refusal(self, study_id: int, problems: tuple[Problem, ...]) -> None:
        why = _told(problems)
        with self._database.write() as unit:
            publications.fail(unit, study_id, why)
            public = self._public(unit, study_id, why)
        log.error("publication refused", study=study_id, state=FAILED, reason=public)

    def _note_retry(self, study_id: int, at: float, why: str, *, forget: bool) -> None:
        with self._database.write() as unit:
            publications.retry(unit, study_id, at, why, forget=forget)
            public = self._public(unit, study_id, why)
        log.warning("publication will be tried again", study=study_id, state=DUE, reason=public)

    def _public(self, unit: Unit, study_id: int, why: str) -> str:
        """Return a reason, which may be the text of another registry, without what it says of the patient: logs hold none."""
        facts = studies.facts(unit, study_id)
        affinity = self._patients.affinity_id(unit, facts.patient) if facts.patient.value else None
        ids = (facts.patient.value, affinity.value if affinity else "", facts.birth_date, facts.accession)
        words = {word for word in (*re.split(r"[\^= ]", facts.patient_name), *ids) if len(word) > 1 or not word.isascii()}
        for word in sorted(words, key=len, reverse=True):
            why = re.sub(re.escape(word), "…", why, flags=re.IGNORECASE)
        return _CX.sub("…", why)


def _note_left_out(unit: Unit, study_id: int, left_out: Mapping[str, Sequence[str]], attempts: int, now: float) -> None:
    if left_out:
        images = sum(map(len, left_out.values()))
        publications.part(
            unit, study_id, attempts, now, f"published without {images} images of {len(left_out)} series, whose SOP class the "
            "PACS does not tell and of which it could send no picture")


def _told(problems: Iterable[Problem]) -> str:
    """Return what a refusal says: the codes with their texts, each once."""
    texts = (f"{problem.code}: {problem.context}" if problem.context else problem.code for problem in problems)
    return "; ".join(dict.fromkeys(texts))[:_REASON]


def _delay(attempts: int) -> float:
    return min(FIRST_DELAY * float(1 << min(max(attempts - 1, 0), 16)), LONGEST_DELAY)
