"""What an origin says of a study, and what it leaves out.

The SOP Class UID is an optional key of an IMAGE-level C-FIND (PS3.4 C.6.2.1.5), but a manifest must name it. Where a PACS
does not say it, one picture of each series is fetched and tells it for its series (docs/decisions/0008).
"""

from collections.abc import Iterable
from typing import Protocol

from broker.config.profile import Hospital
from broker.db import Database
from broker.imaging.fetch import Gathered
from broker.imaging.store import studies
from broker.model.errors import Rejected, Unavailable
from broker.model.ids import is_uid
from broker.model.imaging import InstanceRef
from broker.model.ports import Mover

Rows = list[dict[str, str]]


class Gatherer(Protocol):
    """Gets pictures from wherever they are: `imaging.fetch.Fetch`."""

    def gather(self, refs: Iterable[InstanceRef], *, deadline: float | None = None) -> Gathered:
        """Give each instance as found or missing."""
        ...


class Origins:
    """Asks the PACS of hospitals of kind `origin`."""

    def __init__(self, database: Database, mover: Mover, fetch: Gatherer) -> None:
        self._database, self._mover, self._fetch = database, mover, fetch

    def ask(self, hospital: Hospital, study_uid: str, now: float) -> Rows:
        """Give one dict of text by DICOM keyword per instance of a study, each with its SOP class.

        Raise `Rejected` for a study the PACS does not know, `Unavailable` when it cannot be asked, or does not give the
        pictures that would tell what it leaves out.
        """
        named = [
            {**row, "StudyInstanceUID": study_uid} for row in self._mover.find_study(hospital, study_uid)
            if row.get("StudyInstanceUID", study_uid) == study_uid
            and is_uid(row.get("SeriesInstanceUID", "")) and is_uid(row.get("SOPInstanceUID", ""))
        ]
        if not named:
            raise Rejected("UnknownStudy", f"the PACS of hospital {hospital.key} names no image of study {study_uid}")
        return named if all(map(_classed, named)) else self._classified(hospital, study_uid, named, now)

    def _classified(self, hospital: Hospital, study_uid: str, named: Rows, now: float) -> Rows:
        with self._database.write() as unit:
            study_id = studies.record_origin(unit, hospital, named, now)
        known = self._classes_here(study_id)
        samples = {
            row["SeriesInstanceUID"]: row["SOPInstanceUID"] for row in reversed(named)
            if not _classed(row) and row["SeriesInstanceUID"] not in known}
        if samples:
            self._fetch_samples(hospital, study_uid, samples)
            known = self._classes_here(study_id)
        return [row if _classed(row) else {**row, "SOPClassUID": known[row["SeriesInstanceUID"]]} for row in named]

    def _fetch_samples(self, hospital: Hospital, study_uid: str, samples: dict[str, str]) -> None:
        refs = [InstanceRef(study_uid, series, sop, source_uid=hospital.source_uid or "") for series, sop in samples.items()]
        patience = hospital.limits.connect_seconds + hospital.limits.idle_seconds
        missing = self._fetch.gather(refs, deadline=patience).missing
        if missing:
            raise Unavailable(
                f"the SOP class of study {study_uid}: the PACS of hospital {hospital.key} does not say it, and a picture of each "
                f"series could not be fetched ({next(iter(missing.values()))}); it")

    def _classes_here(self, study_id: int) -> dict[str, str]:
        with self._database.read() as unit:
            return {instance.series_uid: instance.sop_class for instance in studies.instances(unit, study_id)}


def _classed(row: dict[str, str]) -> bool:
    return is_uid(row.get("SOPClassUID", ""))
