"""The header block of a container: what viewers and queries ask of a study, its series and its images.

    {"study": attributes, "series": [{"uid": uid, "attributes": attributes, "images": {SOP Instance UID: attributes}}]}

Attributes are those of `wire/dicom_json`. Each is said once: with the study when all images have the same, with the series when
all of its images have, else with the image; an image has those of all three. What could not be read of an image is missing.
"""

import json
import zlib
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from broker.archive.formats.sequencefile import Damaged
from broker.files.sources import Octets
from broker.model.charsets import CharacterSets
from broker.wire import dicom_json
from broker.wire.dicom_json import Attributes

_LIMIT = 1 << 28            # bytes unpacked
_SPARSE = 8                 # bytes of a header for each list or object in it, at least: an attribute has two in forty
_FEW = 1024                 # lists and objects that may be in a small block
_SHARE = 64                 # times the container: smaller images than that have no such attributes


@dataclass(slots=True)
class Series:
    """The attributes of one series, and of each of its images by SOP Instance UID."""

    uid: str
    attributes: Attributes = field(default_factory=dict)
    images: dict[str, Attributes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """The attributes of a study and its series."""

    study: Attributes
    series: list[Series]

    def image(self, sop_uid: str) -> Attributes:
        """Return all attributes of an image; none when it is not there."""
        for series in self.series:
            if sop_uid in series.images:
                return {**self.study, **series.attributes, **series.images[sop_uid]}
        return {}


class Describing:
    """Gathers a header while the images go by, series after series. Only what differs from the first image is held."""

    def __init__(self, sets: CharacterSets) -> None:
        self._sets = sets
        self._series: list[_Gathered] = []

    def add(self, series_uid: str, sop_uid: str, head: bytes) -> None:
        """Add an image; `head` are the first bytes of its file, `dicom_json.HEAD` or all."""
        if not self._series or self._series[-1].uid != series_uid:
            self._series.append(_Gathered(series_uid))
        self._series[-1].add(sop_uid, dicom_json.describe(head, self._sets))

    def written(self) -> Octets:
        """Return the header as it is stored: JSON, packed by zlib."""
        series = [one.divided() for one in self._series]
        study = _same([one.attributes for one in series])
        rows = [
            {"uid": one.uid, "attributes": _without(one.attributes, study), "images": one.images} for one in series]
        return Octets(zlib.compress(dicom_json.write({"study": study, "series": rows})))


class _Gathered:
    """The images of one series: the attributes of the first, and how the others differ (None: it has not that one)."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self._first: Attributes | None = None
        self._others: dict[str, dict[str, dict[str, Any] | None]] = {}

    def add(self, sop_uid: str, attributes: Attributes) -> None:
        if self._first is None:
            self._first = attributes
        first = self._first
        changed: dict[str, dict[str, Any] | None] = {
            tag: value for tag, value in attributes.items() if first.get(tag) != value}
        self._others[sop_uid] = changed | dict.fromkeys(first.keys() - attributes.keys())

    def divided(self) -> Series:
        """Return the series, with what not all of its images have alike at each image."""
        first = self._first or {}
        varying = sorted({tag for changed in self._others.values() for tag in changed})
        images: dict[str, Attributes] = {}
        for sop_uid, changed in self._others.items():
            own = ((tag, changed.get(tag, first.get(tag))) for tag in varying)
            images[sop_uid] = {tag: value for tag, value in own if value is not None}
        return Series(self.uid, _without(first, varying), images)


def _same(several: list[Attributes]) -> Attributes:
    """Return what is in all of them alike."""
    first, *others = several or [{}]
    return {tag: value for tag, value in first.items() if all(other.get(tag) == value for other in others)}


def _without(attributes: Attributes, left_out: Container[str]) -> Attributes:
    return {tag: value for tag, value in attributes.items() if tag not in left_out}


def read(body: bytes, size: int) -> Header:
    """Read the header of a container of `size` bytes. Raise `Damaged` when it has another form."""
    value = unpack(body, min(_LIMIT, 4096 + _SHARE * size), "header", _SPARSE)
    found = value.get("series") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(found, list):
        raise Damaged("its header has another form")
    return Header(_attributes(value.get("study")), [_series(one) for one in found])


def _series(value: object) -> Series:
    if not isinstance(value, dict) or not isinstance(value.get("uid"), str) or not isinstance(value.get("images"), dict):
        raise Damaged("its header has another form")
    images = {uid: _attributes(own) for uid, own in value["images"].items()}
    return Series(value["uid"], _attributes(value.get("attributes")), images)


def _attributes(value: object) -> Attributes:
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        raise Damaged("its header has an impossible attribute")
    return value


def unpack(body: bytes, limit: int, what: str, sparse: int) -> object:
    """Return the JSON that is packed in a block of a container.

    Raise `Damaged` for what is none, for more than `limit` bytes, and for more than one list or object in `sparse` bytes:
    empty ones take thirty times their room in memory.
    """
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(body, limit)
        if not inflater.eof:
            raise Damaged(f"its {what} is too large")
        if data.count(b"[") + data.count(b"{") > _FEW + len(data) // sparse:
            raise Damaged(f"its {what} holds more than its size tells")
        found: object = json.loads(data)
    except (zlib.error, ValueError, RecursionError) as error:
        raise Damaged(f"its {what} cannot be unpacked") from error
    return found
