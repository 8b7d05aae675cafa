"""Studies that stay in their hospital's PACS: what it says of them, and what only the pictures say.

A query need not be answered with the SOP Class UID, an optional key (DICOM PS3.4 C.6.1.1.5), but a manifest must name
it (PS3.3 C.17.2.1). Where a PACS leaves it out, one picture of each such series is fetched and read; it stays as cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from broker.archive.tiers.online import HEAD
from broker.config.ports import Mover
from broker.config.profile import Hospital, Profile
from broker.db import Database
from broker.files.sources import CHUNK
from broker.imaging import header, maker
from broker.imaging.fetch import Found, Retriever
from broker.imaging.identity import FACTS, plain_id
from broker.imaging.store import fetches, publications, recording, studies
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import is_uid
from broker.model.imaging import InstanceRef, StudyFacts
from broker.model.ports import StudyRows, Unit
from broker.wire import tags

PATIENCE = 30.0     # seconds an operator waits for all samples of a study
HURRY = 0.0         # seconds the worker waits for them: no hospital keeps the others waiting, the next attempt finds them here
TRIES = 3           # attempts after which a study is published without what did not come by then
SERIES_TRIED = 3    # series of a study of which a picture is asked for, one after the other, where only the text is missing

Pictures = Mapping[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Haste:
    """How long a look at a study's pictures may take, in seconds, and whether it is the last one before it is published."""

    seconds: float
    last: bool


@dataclass(frozen=True, slots=True)
class Looked:
    """A study after a look at its pictures, and why the pictures of some series could not be had, by series UID."""

    facts: StudyFacts
    left_out: Mapping[str, str]


class Origins:
    """The PACS of hospitals that keep their studies. Safe to share between threads.

    `patience` is for who asks for one study, `hurry` for the worker, which has others to publish; in seconds.
    """

    def __init__(
        self, database: Database, profile: Profile, mover: Mover, fetch: Retriever, *, patience: float = PATIENCE,
        hurry: float = HURRY,
    ) -> None:
        self._database, self._profile, self._mover, self._fetch = database, profile, mover, fetch
        self._patience, self._hurry = patience, hurry

    def ask(self, hospital: Hospital, study_uid: str) -> StudyRows:
        """C-FIND: return one dict of text by keyword per instance, at least one.

        Raise `Rejected` for a study the PACS does not know, `Unavailable` when it cannot be asked.
        """
        rows = self._mover.find_study(hospital, study_uid)
        ours = [row for row in rows if row.get("StudyInstanceUID", study_uid) == study_uid]
        named = [row for row in ours if is_uid(row.get("SeriesInstanceUID", "")) and is_uid(row.get("SOPInstanceUID", ""))]
        nameless = rows.nameless + len(ours) - len(named)
        if not named:
            told = f"but {nameless} without a legal UID " if nameless else ""
            raise Rejected("UnknownStudy", f"the PACS of hospital {hospital.key} names no image {told}of study {study_uid}")
        return StudyRows(({**row, "StudyInstanceUID": study_uid} for row in named), nameless)

    def haste(self, attempts: int, *, waits: bool) -> Haste:
        """Return how long a look may take; `waits` says that somebody waits for this study alone."""
        return Haste(self._patience if waits else self._hurry, attempts >= TRIES)

    def look(self, study_id: int, hospital_key: str, study: StudyFacts, now: float, haste: Haste) -> Looked:
        """Read one picture of each series with unnamed SOP classes, record what it says, and return the study's facts again.

        A picture's class becomes that of every instance of its series without one. A study whose classes are all named
        has one picture read, for the text that its PACS could not spell. Raise `Unavailable` when no picture can be had,
        or one that may still come has not come yet.
        """
        hospital = self._profile.hospital(hospital_key)
        if hospital is None:
            raise Rejected("UnknownHospital", f"there is no hospital {hospital_key!r} in the profile any more")
        needed = unnamed(study)
        if needed:
            pictures, missing = self._pictures(study_id, hospital, study, needed, haste)
        else:
            pictures, missing = self._any_picture(study_id, hospital, study, haste), {}
        if needed and not pictures and not named_only(study).series:
            raise Unavailable(
                f"a picture of each series, needed because the PACS of {hospital.key} tells no SOP classes "
                f"({next(iter(missing.values()), 'it has none')}),")
        with self._database.write() as unit:
            _record(unit, study_id, hospital, study.uid, pictures, now)
            facts = studies.facts(unit, study_id)
        if unnamed(facts).keys() - missing.keys():
            raise Unavailable(f"the SOP class of every image, because the study grew in the PACS of {hospital.key},")
        return Looked(facts, missing)

    def _any_picture(self, study_id: int, hospital: Hospital, study: StudyFacts, haste: Haste) -> Pictures:
        """Return the text of one picture of the study, of the first series of which the PACS can send one."""
        for series in study.series[:SERIES_TRIED]:
            uids = [uid for _, uid in series.instances]
            pictures, _ = self._pictures(study_id, hospital, study, {series.uid: uids}, haste)
            if pictures:
                return pictures
        return {}

    def _pictures(
        self, study_id: int, hospital: Hospital, study: StudyFacts, wanted: Mapping[str, Sequence[str]], haste: Haste,
    ) -> tuple[Pictures, dict[str, str]]:
        """Return the text of one picture of each of these series, and why there is none; one that is here costs nothing.

        Where the PACS cannot send the first picture of a series the last one is tried.
        """
        with self._database.read() as unit:
            here = {item.sop_uid for item in studies.instances(unit, study_id)}
        source = maker.location(hospital, "origin", self._profile)
        ordered = {uid: sorted(sop_uids, key=lambda one: (one not in here, one)) for uid, sop_uids in wanted.items()}
        pictures: dict[str, dict[str, str]] = {}
        missing: dict[str, str] = {}
        for place in (0, -1):
            tried = [uid for uid in ordered if not place or (len(ordered[uid]) > 1 and fetches.NOT_SENT in missing.get(uid, ""))]
            samples = [InstanceRef(study.uid, uid, ordered[uid][place], source_uid=source) for uid in tried]
            gathered = self._fetch.retrieve(samples, deadline=haste.seconds)
            pictures |= {ref.series_uid: _text(found, hospital) for ref, found in gathered.found.items()}
            missing |= {ref.series_uid: why for ref, why in gathered.missing.items()}
            late = [why for ref, why in gathered.missing.items() if ref not in gathered.impossible]
            if late and not haste.last:
                raise Unavailable(
                    f"a picture of each series, needed because the PACS of {hospital.key} tells no SOP classes "
                    f"or cannot spell the patient's name ({late[0]}),")
        return pictures, {uid: why for uid, why in missing.items() if uid not in pictures}


def misspelt(study: StudyFacts) -> bool:
    """Say whether a PACS seems to have lost characters of the patient's name on the way.

    Some answer with ? for what their character set lacks, Orthanc leaves it out: `Zhang^San=^` or just `^`.
    """
    return _is_damaged(study.patient_name) or any(not group.strip("^ ") for group in study.patient_name.split("="))


def named_only(study: StudyFacts) -> StudyFacts:
    """Return the study without the instances whose SOP class nobody has told: a manifest cannot name them."""
    series = (
        replace(one, instances=tuple((sop_class, uid) for sop_class, uid in one.instances if sop_class)) for one in study.series)
    return replace(study, series=tuple(one for one in series if one.instances))


def unnamed(study: StudyFacts) -> dict[str, list[str]]:
    """Return the instances whose SOP class nobody has told, by series UID."""
    found = {series.uid: [uid for sop_class, uid in series.instances if not sop_class] for series in study.series}
    return {uid: listed for uid, listed in found.items() if listed}


def _text(found: Found, hospital: Hospital) -> dict[str, str]:
    """Return what a picture says of itself."""
    source = found.source

    def read(offset: int, length: int) -> bytes:
        data, at, end = bytearray(), 0, offset + length
        for piece in source.chunks(min(end, CHUNK)):
            data += piece[max(0, offset - at):max(0, end - at)]
            at += len(piece)
            if at >= end:
                break
        return bytes(data)

    try:
        meta = tags.read_meta(read(0, HEAD))
        return {**header.identify(read, source.size, meta, hospital), "SOPClassUID": meta.sop_class}
    except (OSError, tags.Truncated, tags.NotDicom) as error:
        raise Unavailable("a picture that was just fetched") from error


def _record(unit: Unit, study_id: int, hospital: Hospital, study_uid: str, pictures: Pictures, now: float) -> None:
    """Complete the study's catalogue and facts, as they are by now, with what the pictures say."""
    study = studies.get(unit, study_id)
    catalogue = studies.origin_catalogue(unit, study_id)
    if not catalogue:
        return
    here = {item.sop_uid: item.sop_class for item in studies.instances(unit, study_id)}
    said = study.facts
    for picture in pictures.values():
        if plain_id(picture.get("PatientID", "")) == study.patient.value:     # else the PACS has moved it to another patient
            said = {**said, **_better(said, picture, FACTS)}
    described = publications.described(unit, study_id)
    rows = []
    for series_uid, sop_uid, sop_class in catalogue:
        series, picture = described[series_uid], pictures.get(series_uid, {})
        about = {
            "Modality": series.modality, "BodyPartExamined": series.body_part, "SeriesDescription": series.description}
        rows.append({
            **said, **about, **_better(about, picture, tuple(about)), "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": series_uid, "SOPInstanceUID": sop_uid,
            "SOPClassUID": sop_class or here.get(sop_uid, "") or picture.get("SOPClassUID", "")})
    recording.record_origin(unit, hospital, rows, now)


def _better(said: Mapping[str, str], picture: Mapping[str, str], keywords: tuple[str, ...]) -> dict[str, str]:
    """Return what the picture says and the PACS does not, or not with every character."""
    return {
        keyword: picture[keyword] for keyword in keywords
        if picture.get(keyword) and _is_worse(said.get(keyword, ""), picture[keyword])}


def _is_worse(said: str, whole: str) -> bool:
    return not said.strip("^= ") or _is_damaged(said) or _is_thinned(said, whole)


def _is_damaged(text: str) -> bool:
    return bool(set(text) & {"?", "\ufffd"})


def _is_thinned(text: str, whole: str) -> bool:
    """Say whether a text is what is left of another one without the characters that a character set of one byte lacks."""
    kept = text.replace(" ", "").rstrip("^=")
    return any(
        kept == "".join(character for character in whole if character < limit and character != " ").rstrip("^=")
        for limit in ("\x80", "\u0100")) and text != whole
