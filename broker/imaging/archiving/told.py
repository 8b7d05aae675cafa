"""What a container tells of its study, checked: everything that rows are filled from when there are none."""

from dataclasses import dataclass
from typing import Any, TypeVar

from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Surveyed, study_of
from broker.model.ids import PatientId

_Kind = TypeVar("_Kind")
_RECORD = ("manifest_uid", "entry_uuid", "digest", "entry_patient")
_SERIES = ("uid", "modality", "body_part", "description")
_LENGTHS = {            # of what the columns of `store.tables` take
    "hospital": 64, "accession": 64, "study_date": 8, "domain": 64, "value": 250, "manifest_uid": 64, "entry_uuid": 64,
    "digest": 64}
_TIMES = ("first_at", "last_at", "used_at", "packed_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A study as its container has it.

    `part` is None where the container does not tell (version 1). `publication` is None there too, and empty for a study that
    had none; else it is as `store.publications.restore` takes it, with empty UIDs when no manifest had been accepted. Times
    are seconds since the epoch, 0 where the container does not tell.
    """

    path: str
    size: int
    images: dict[str, str]          # SHA-256 by SOP Instance UID
    study_uid: str
    hospital: str
    part: int | None
    patient: PatientId
    accession: str
    study_date: str
    facts: dict[str, str]
    series: list[dict[str, str]]
    publication: dict[str, str] | None
    version: int
    times: dict[str, float]

    @property
    def age(self) -> tuple[int, int, float]:
        """What orders the containers of a study, the newest last."""
        return self.version, len(self.images), self.times["packed_at"]

    def replaces(self, other: "Told") -> bool:
        """Say whether every image of another container is in this one, bit for bit."""
        return other.images.items() <= self.images.items()


def told(found: Surveyed) -> Told:
    """Return what a container tells. Raise `Damaged` when that is not what containers tell."""
    manifest = found.manifest
    patient = _of(manifest.get("patient"), dict)
    if {manifest.get("study"), study_of(found.path)} != {found.index.study_uid}:
        raise Damaged("its name, its manifest and its index are of different studies")
    part, record = manifest.get("part"), manifest.get("publication")
    return Told(
        path=found.path, size=found.size,
        images={entry.sop_uid: entry.sha256 for entry in found.index.entries.values()},
        study_uid=found.index.study_uid, hospital=_text(manifest, "hospital"),
        part=None if part is None else _whole(part), patient=PatientId(_text(patient, "domain"), _text(patient, "value")),
        accession=_text(manifest, "accession"), study_date=_text(manifest, "study_date"),
        facts={name: _of(value, str) for name, value in _of(manifest.get("facts"), dict).items()},
        series=_series(manifest),
        publication=None if record is None else {name: _text(record, name) for name in _RECORD if _of(record, dict)},
        version=_whole(manifest.get("version", 0)), times={name: _time(manifest.get(name, 0.0)) for name in _TIMES})


def _text(told_of: dict[str, Any], name: str) -> str:
    """Return a text that a column of every database takes."""
    text = _of(told_of.get(name), str)
    if len(text) > _LENGTHS.get(name, len(text)):
        raise Damaged("its manifest has a text that is too long")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Damaged("its manifest has an impossible letter")
    return text


def _series(manifest: dict[str, Any]) -> list[dict[str, str]]:
    found = [{name: _text(_of(one, dict), name) for name in _SERIES} for one in _of(manifest.get("series"), list)]
    if len({one["uid"][:64] for one in found}) != len(found):
        raise Damaged("its manifest names a series twice")
    return found


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise Damaged("its manifest has an impossible number")
    return value


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise Damaged("its manifest has an impossible time")
    return float(value)


def _of(value: object, kind: type[_Kind]) -> _Kind:
    if not isinstance(value, kind):
        raise Damaged("its manifest does not tell of its study as manifests do")
    return value
