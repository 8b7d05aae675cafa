"""Studies that stay in their hospital's PACS: what it says of them, and what only the pictures say.

A query need not be answered with the SOP Class UID, an optional key (DICOM PS3.4 C.6.1.1.5), but a manifest must name
it (PS3.3 C.17.2.1). Where a PACS leaves it out, one picture of each such series is fetched and read; it stays as cache.
"""

from collections.abc import Mapping

from broker.archive.online import HEAD
from broker.config.profile import Hospital, Profile
from broker.db import Database
from broker.imaging import header, maker
from broker.imaging.fetch import Fetch, Found
from broker.imaging.identity import FACTS, plain_id
from broker.imaging.store import publications, studies
from broker.model.blob import CHUNK
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import is_uid
from broker.model.imaging import InstanceRef, StudyFacts
from broker.model.ports import Mover, Unit
from broker.wire import tags

PATIENCE = 30.0     # seconds for all samples of a study; what comes later is found by the next attempt

Pictures = Mapping[str, dict[str, str]]


class Origins:
    """The PACS of hospitals that keep their studies. Safe to share between threads."""

    def __init__(
        self, database: Database, profile: Profile, mover: Mover, fetch: Fetch, *, patience: float = PATIENCE,
    ) -> None:
        self._database, self._profile, self._mover, self._fetch = database, profile, mover, fetch
        self._patience = patience

    def ask(self, hospital: Hospital, study_uid: str) -> list[dict[str, str]]:
        """C-FIND: give one dict of text by keyword per instance, at least one.

        Raise `Rejected` for a study the PACS does not know, `Unavailable` when it cannot be asked.
        """
        named = [
            row for row in self._mover.find_study(hospital, study_uid)
            if row.get("StudyInstanceUID", study_uid) == study_uid
            and is_uid(row.get("SeriesInstanceUID", "")) and is_uid(row.get("SOPInstanceUID", ""))
        ]
        if not named:
            raise Rejected("UnknownStudy", f"the PACS of hospital {hospital.key} names no image of study {study_uid}")
        return [{**row, "StudyInstanceUID": study_uid} for row in named]

    def look(self, study_id: int, hospital_key: str, study: StudyFacts, now: float) -> StudyFacts:
        """Read one picture of each series with unnamed SOP classes, record what it says, and give the study's facts again.

        A picture's class becomes that of every instance of its series without one. Raise `Unavailable` when a picture
        cannot be had in time.
        """
        hospital = self._profile.hospital(hospital_key)
        if hospital is None:
            raise Rejected("UnknownHospital", f"there is no hospital {hospital_key!r} in the profile any more")
        pictures = self._pictures(study_id, hospital, study)
        with self._database.write() as unit:
            _record(unit, study_id, hospital, study.uid, pictures, now)
            facts = studies.facts(unit, study_id)
        if unnamed(facts):
            raise Unavailable(f"the SOP class of every image, because the study grew in the PACS of {hospital.key},")
        return facts

    def _pictures(self, study_id: int, hospital: Hospital, study: StudyFacts) -> Pictures:
        """Give the text of one picture of each series, by series UID; one that is here already costs nothing."""
        with self._database.read() as unit:
            here = {item.sop_uid for item in studies.instances(unit, study_id)}
        source = maker.location(hospital, "origin", self._profile)
        samples = [
            InstanceRef(study.uid, series_uid, min(sop_uids, key=lambda uid: (uid not in here, uid)), source_uid=source)
            for series_uid, sop_uids in unnamed(study).items()]
        gathered = self._fetch.gather(samples, deadline=self._patience)
        for why in gathered.missing.values():
            raise Unavailable(
                f"a picture of each series, needed because the PACS of {hospital.key} tells no SOP classes ({why}),")
        return {ref.series_uid: _text(found, hospital) for ref, found in gathered.found.items()}


def unnamed(study: StudyFacts) -> dict[str, list[str]]:
    """Give the instances whose SOP class nobody has told, by series UID."""
    found = {series.uid: [uid for sop_class, uid in series.instances if not sop_class] for series in study.series}
    return {uid: listed for uid, listed in found.items() if listed}


def _text(found: Found, hospital: Hospital) -> dict[str, str]:
    """Give what a picture says of itself."""
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
    study = studies.study(unit, hospital.key, study_uid)
    assert study is not None
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
    studies.record_origin(unit, hospital, rows, now)


def _better(said: Mapping[str, str], picture: Mapping[str, str], keywords: tuple[str, ...]) -> dict[str, str]:
    """Give what the picture says and the PACS does not; a PACS puts ? for characters it cannot send."""
    return {
        keyword: picture[keyword] for keyword in keywords
        if picture.get(keyword) and (not said.get(keyword) or set(said[keyword]) & {"?", "\ufffd"})}
