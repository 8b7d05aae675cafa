"""What we ask of a hospital's PACS: C-ECHO, C-FIND, C-MOVE, C-GET (PS3.4 annexes A and C). Implements `config.ports.Mover`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import structlog

from broker.config.profile import Hospital, Profile
from broker.config.settings import Settings
from broker.edge.dimse import c_store, contexts, pdata, statuses
from broker.edge.dimse.c_store import IncomingObject, StoreRequest
from broker.edge.dimse.requestor import Answer, Patience, Requestor, away, connect, pacs
from broker.model.caller import AuditFacts, Caller
from broker.model.errors import TooLarge, Unavailable
from broker.model.ids import PatientId, is_uid
from broker.model.ports import ObjectWriter, Received, Retrieved, RetrieveFailed, StudyRows, Want
from broker.model.transaction import AuditEvent, Message, TransactionRow, Wire
from broker.security.gate import Gate
from broker.wire import tags

log = structlog.get_logger("broker.dimse")

_MOST = 100_000     # answers to one C-FIND
_STUDY = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "StudyDescription", "ReferringPhysicianName", "InstitutionName",
)
_SERIES = ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined")
_IMAGE = ("SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "InstanceNumber", "NumberOfFrames")

Rows = list[dict[str, str]]


def _named(rows: Rows) -> StudyRows:
    named = [row for row in rows if is_uid(row.get("SeriesInstanceUID", "")) and is_uid(row.get("SOPInstanceUID", ""))]
    return StudyRows(named, len(rows) - len(named))


class Scu:
    """Asks hospitals' PACS. One association for each call; the caller holds the hospital's limits."""

    def __init__(self, profile: Profile, settings: Settings, received: Received, gate: Gate) -> None:
        self._profile, self._settings, self._received, self._gate = profile, settings.server, received, gate

    def echo(self, hospital: Hospital) -> None:
        """C-ECHO; return when it succeeded, else raise `Unavailable`."""
        patience = Patience(hospital.limits.idle_seconds, hospital.limits.total_seconds)
        with connect(hospital, self._settings, contexts.plain(contexts.VERIFICATION), patience) as peer:
            for answer in peer.ask(contexts.VERIFICATION, pdata.C_ECHO_RQ):
                if answer.status != statuses.SUCCESS:
                    raise away(hospital, answer.words)

    def find_study(self, hospital: Hospital, study_uid: str) -> StudyRows:
        """C-FIND down to IMAGE level; no row = the study is not known there."""
        patience = Patience(hospital.limits.idle_seconds, hospital.limits.total_seconds)
        facts = AuditFacts(query=_keys("STUDY", _STUDY, study_uid), query_id=contexts.STUDY_FIND)
        with self._audited(FIND, hospital, facts), connect(
                hospital, self._settings, contexts.plain(contexts.STUDY_FIND), patience) as peer:
            found = _Find(hospital, peer, study_uid).everything()
            if found.nameless:
                log.warning("instances without legal UIDs are left out", hospital=hospital.key, study=study_uid,
                            instances=found.nameless)
            facts.patients += {PatientId(hospital.domain, row["PatientID"]) for row in found if "PatientID" in row}
            return found

    def retrieve(self, hospital: Hospital, want: Want, progress: Callable[[], bool]) -> Retrieved:
        """C-GET or C-MOVE as the hospital's routes say, the next one for what one could not send; return how the last ended.

        `progress()` is asked at least once a second and gives False to cancel. Raise `RetrieveFailed` for a failed final
        status and an association that breaks off, `Unavailable` for one that is refused or silent. What really came is
        counted by the caller.
        """
        ways = {"get": self._get, "move": self._move}
        for route in hospital.routes[:-1]:
            try:
                done = ways[route](hospital, want, progress)
            except Unavailable as error:
                log.warning("route failed", hospital=hospital.key, route=route, reason=str(error))
                done = error.retrieved if isinstance(error, RetrieveFailed) else Retrieved()
                rest: Want | None = want
            else:
                rest = _rest(want, done)
            if rest is None or not progress():
                return done
            want = rest
        return ways[hospital.routes[-1]](hospital, want, progress)

    def _move(self, hospital: Hospital, want: Want, progress: Callable[[], bool]) -> Retrieved:
        patience = Patience(hospital.limits.idle_seconds, hospital.limits.total_seconds, progress)
        with self._audited(MOVE, hospital, AuditFacts(studies={want.study_uid: []})), connect(
                hospital, self._settings, contexts.plain(contexts.STUDY_MOVE), patience) as peer:
            answers = peer.ask(contexts.STUDY_MOVE, pdata.C_MOVE_RQ, _identifier(want), self._settings.ae_title)
            return _judge(hospital, answers, patience, {})

    def _get(self, hospital: Hospital, want: Want, progress: Callable[[], bool]) -> Retrieved:
        proposed = contexts.wanted(want.sop_classes or self._classes(hospital, want), hospital, want.attempt)
        provided = list(dict.fromkeys(sop_class for sop_class, _ in proposed))
        if not proposed:
            words = "the SOP class is not taken here"
            raise RetrieveFailed(pacs(hospital, words), Retrieved(words=words))
        patience = Patience(hospital.limits.idle_seconds, hospital.limits.total_seconds, progress)
        incoming = _Incoming(self._received, hospital, self._caller(hospital), self._settings.max_body)
        with self._audited(GET, hospital, AuditFacts(studies={want.study_uid: []})), connect(
                hospital, self._settings, [*contexts.plain(contexts.STUDY_GET), *proposed], patience,
                provided=provided, receive=incoming.begin, done=incoming.done) as peer:
            answers = peer.ask(contexts.STUDY_GET, pdata.C_GET_RQ, _identifier(want))
            return _judge(hospital, answers, patience, incoming.refused)

    def _classes(self, hospital: Hospital, want: Want) -> list[str]:
        """Return the SOP classes of a study, so that a C-GET can propose just these; empty when the PACS does not say."""
        patience = Patience(hospital.limits.idle_seconds, hospital.limits.total_seconds)
        try:
            with connect(hospital, self._settings, contexts.plain(contexts.STUDY_FIND), patience) as peer:
                rows = _Find(hospital, peer, want.study_uid).images(want.series_uids)
        except Unavailable as error:
            log.info("SOP classes are not known before the retrieve", hospital=hospital.key, reason=str(error))
            return []
        classes = {row.get("SOPClassUID", "") for row in rows}
        return sorted(classes) if all(is_uid(uid) for uid in classes) else []

    def _caller(self, hospital: Hospital) -> Caller:
        return Caller(node=hospital.ae_title, address=hospital.host, local_node=self._settings.ae_title)

    def _audited(self, row: TransactionRow, hospital: Hospital, facts: AuditFacts) -> AbstractContextManager[AuditFacts]:
        return self._gate.outgoing(row, self._caller(hospital), facts)


class _Incoming:
    """The objects that a PACS sends on our own association, by C-GET."""

    def __init__(self, received: Received, hospital: Hospital, caller: Caller, longest: int) -> None:
        self._received, self._hospital, self._caller, self._longest = received, hospital, caller, longest
        self._taken = contexts.taken(hospital)
        self.refused: dict[str, str] = {}

    def begin(self, request: StoreRequest) -> IncomingObject:
        """Begin an object."""
        return IncomingObject(
            lambda: self._open(request), self._longest, request.sop_uid)

    def done(self, reception: IncomingObject) -> int:
        """Finish an object; return the status to answer."""
        status = reception.close()
        if (refusal := reception.refusal) is not None:
            self.refused[reception.sop_uid] = refusal.text
            c_store.log_refusal(reception, refusal, self._hospital.ae_title)
        return status


    def _open(self, request: StoreRequest) -> ObjectWriter:
        c_store.check_class(request, self._taken)
        return c_store.begin(self._received, request, self._caller)


class _Find:
    """C-FINDs about one study on one association. `nameless` counts the instances without legal UIDs that were answered."""

    def __init__(self, hospital: Hospital, peer: Requestor, study_uid: str) -> None:
        self._hospital, self._peer, self._study_uid = hospital, peer, study_uid

    def everything(self) -> StudyRows:
        """Return each instance with what its series and study say of themselves."""
        study = next(iter(self._find("STUDY", _STUDY)), None)
        if study is None:
            return StudyRows()
        series = {
            row["SeriesInstanceUID"]: row for row in self._find("SERIES", _SERIES) if is_uid(row.get("SeriesInstanceUID", ""))}
        images = self.images(tuple(series))
        return StudyRows(
            ({**study, **series.get(row["SeriesInstanceUID"], {}), **row} for row in images), images.nameless)

    def images(self, series_uids: tuple[str, ...]) -> StudyRows:
        """Return the instances: by the study's UID alone, and series by series from a PACS that insists on the hierarchy."""
        try:
            found = _named(self._find("IMAGE", _IMAGE))
        except Unavailable:
            found = StudyRows()
        if found:
            return found
        answered = [row for uid in series_uids for row in self._find("IMAGE", _IMAGE, uid)]
        by_series = _named(answered)
        return by_series if answered else found

    def _find(self, level: str, keywords: tuple[str, ...], series_uid: str = "") -> Rows:
        rows: Rows = []
        keys = _keys(level, keywords, self._study_uid, series_uid)
        for answer in self._peer.ask(contexts.STUDY_FIND, pdata.C_FIND_RQ, keys):
            if answer.status in statuses.PENDING:
                row = self._row(answer.data, level, series_uid)
                if row is not None:
                    rows.append(row)
                if len(rows) > _MOST:
                    raise TooLarge(f"answers to a C-FIND ({_MOST})")
            elif statuses.is_failure(answer.status):
                raise away(self._hospital, answer.words)
        return rows

    def _row(self, data: bytes, level: str, series_uid: str) -> dict[str, str] | None:
        """Return the text of an answer: {} when it cannot be read, and is not about the study itself; None for another study."""
        try:
            row = tags.study_tags(tags.scan(data, tags.IMPLICIT, whole=True), self._hospital.character_sets)
        except (tags.Truncated, tags.NotDicom) as error:
            if level != "STUDY":
                return {}
            raise pdata.ProtocolError("a C-FIND answer that cannot be read") from error
        row.pop("QueryRetrieveLevel", None)
        if series_uid:
            row.setdefault("SeriesInstanceUID", series_uid)
        # a PACS that does not know a key answers with everything it has
        return row if row.setdefault("StudyInstanceUID", self._study_uid) == self._study_uid else None


def _keys(level: str, keywords: tuple[str, ...], study_uid: str, series_uid: str = "") -> bytes:
    """Return the identifier of a query.

    It names a character set only where a value needs one (PS3.4 C.4.1.1.3.1): some PACS take the element for a key to match.
    """
    keys = {"QueryRetrieveLevel": level, **dict.fromkeys(keywords, ""), "StudyInstanceUID": study_uid}
    if series_uid:
        keys["SeriesInstanceUID"] = series_uid
    if not all(value.isascii() for value in keys.values()):
        keys["SpecificCharacterSet"] = "ISO_IR 192"
    return tags.write_identifier(keys)


def _identifier(want: Want) -> bytes:
    """Return the identifier of a retrieve (PS3.4 C.4.2.2.1); a single series is named with its instances."""
    keys = {"StudyInstanceUID": want.study_uid, "QueryRetrieveLevel": "STUDY"}
    if want.series_uids and (not want.sop_uids or len(want.series_uids) == 1):
        keys |= {"SeriesInstanceUID": "\\".join(want.series_uids), "QueryRetrieveLevel": "SERIES"}
    if want.sop_uids:
        keys |= {"SOPInstanceUID": "\\".join(want.sop_uids), "QueryRetrieveLevel": "IMAGE"}
    return tags.write_identifier(keys)


def _judge(
    hospital: Hospital, answers: Iterator[Answer], patience: Patience, refused: Mapping[str, str],
) -> Retrieved:
    """Wait for the final response. Failures of single objects are no failure of the retrieve: the caller counts."""
    last = Retrieved(refused=refused)
    try:
        for answer in answers:
            if answer.status in statuses.PENDING:
                continue
            last = Retrieved(answer.status, answer.words, answer.failed, refused)
            if statuses.is_failure(answer.status) and not patience.cancelled:
                raise RetrieveFailed(pacs(hospital, answer.words), last)
    except pdata.PeerGone as error:
        if not patience.cancelled:
            if isinstance(error, pdata.PeerBroke):
                raise RetrieveFailed(pacs(hospital, str(error)), replace(last, words=str(error))) from error
            raise
    return last


def _rest(want: Want, done: Retrieved) -> Want | None:
    """Return what another route is worth trying for; None when nothing is.

    Of a study or series that came in part only the caller knows what is missing: it asks for that by its UIDs.
    """
    missing = tuple(uid for uid in want.sop_uids if uid in {*done.failed} - done.refused.keys())
    return replace(want, sop_uids=missing) if missing else None


def _row(code: str, name: str, event: AuditEvent) -> TransactionRow:
    return TransactionRow(code=code, name=name, wire=Wire.DIMSE, messages=(Message(name=code),), audit=event)


FIND = _row("C-FIND", "DICOM Query", AuditEvent(
    event_code="110112", event_text="Query", action="E", type_code="C-FIND", type_text="Query", type_system="DIMSE",
    requestor_is_local=True))
MOVE = _row("C-MOVE", "DICOM Retrieve", AuditEvent(
    event_code="110104", event_text="DICOM Instances Transferred", action="C", type_code="C-MOVE", type_text="Retrieve",
    type_system="DIMSE", requestor_is_local=True))
GET = _row("C-GET", "DICOM Retrieve", AuditEvent(
    event_code="110104", event_text="DICOM Instances Transferred", action="C", type_code="C-GET", type_text="Retrieve",
    type_system="DIMSE", requestor_is_local=True))
