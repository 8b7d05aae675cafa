"""What viewers and queries ask of a picture, in the DICOM JSON Model (PS3.18 F.2): `ATTRIBUTES`, at the top level.

They are taken from the first bytes of a Part-10 file. It is a description, not the picture: what these bytes do not hold, and
what is long, is left out.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from broker.model.charsets import NO_SETS, CharacterSets
from broker.model.errors import Rejected
from broker.wire import charsets, tags

HEAD = 64 << 10             # bytes of a file that are looked at

_ATTRIBUTES_BY_VR: Mapping[str, Iterable[int]] = {
    "AE": (0x00080055,),
    "AS": (0x00101010,),
    "AT": (0x00280009,),
    "CS": (
        0x00080008, 0x00080060, 0x00080064, 0x00100040, 0x00180015, 0x00180022, 0x00185100, 0x00185101, 0x00200020, 0x00200060,
        0x00200062, 0x00280004, 0x00280301, 0x00281056, 0x00282110, 0x00282114),
    "DA": (0x00080012, 0x00080020, 0x00080021, 0x00080022, 0x00080023, 0x00100030, 0x00400244),
    "DS": (
        0x00101020, 0x00101030, 0x00180050, 0x00180060, 0x00180080, 0x00180081, 0x00180087, 0x00180088, 0x00181063, 0x00181164,
        0x00200032, 0x00200037, 0x00201041, 0x00280030, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00282112),
    "DT": (0x0008002A,),
    "IS": (0x00181151, 0x00181152, 0x00200011, 0x00200012, 0x00200013, 0x00280008, 0x00280034),
    "LO": (
        0x00080070, 0x00080080, 0x00081030, 0x0008103E, 0x00081040, 0x00081090, 0x00100020, 0x00100021, 0x00180010, 0x00181020,
        0x00181030, 0x00281054, 0x00281055, 0x00400254),
    "PN": (0x00080090, 0x00081050, 0x00081070, 0x00100010),
    "SH": (0x00080050, 0x00080201, 0x00081010, 0x00180024, 0x00181210, 0x00200010, 0x00400253),
    "TM": (0x00080013, 0x00080030, 0x00080031, 0x00080032, 0x00080033, 0x00100032, 0x00400245),
    "UI": (0x00200052,),
    "US": (0x00280002, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103),
}
ATTRIBUTES: Mapping[int, str] = {tag: vr for vr, found in _ATTRIBUTES_BY_VR.items() for tag in found}
"""The VR of each attribute, by its tag."""

_CHARSET = tags.TAGS["SpecificCharacterSet"]
_WANTED = frozenset((*ATTRIBUTES, _CHARSET))
_LAST = max(ATTRIBUTES)
_VALUE = 1 << 10            # bytes of a value that is kept
_DIGITS = 16                # characters of a number that is given as one: DS allows them
_BINARY = ("AT", "US")

Attributes = dict[str, dict[str, Any]]
"""Attributes by tag (8 hexadecimal digits): `{"vr": "US", "Value": [512]}`, without Value where the picture has an empty one."""


def describe(head: bytes, sets: CharacterSets = NO_SETS) -> Attributes:
    """Return the attributes that the first bytes of a Part-10 file tell; none of what is no such file.

    `sets` says how text is read that declares no character set, or a wrong one.
    """
    try:
        meta = tags.read_meta(head)
        data, at = head, meta.end
        if meta.transfer_syntax == tags.DEFLATED:
            data, at = tags.inflate(head[at:], HEAD)[0], 0
    except (tags.Truncated, Rejected):
        return {}
    order = tags.BIG if meta.transfer_syntax == tags.BIG_ENDIAN else tags.LITTLE
    explicit = meta.transfer_syntax != tags.IMPLICIT and tags.has_long_size(data[at + 4:at + 6])     # some say so, and are not
    raw = _raw(data, at, order, explicit=explicit)
    text = {tag: value for tag, value in raw.items() if ATTRIBUTES.get(tag, "AT") not in _BINARY}
    found = charsets.decode(text, raw.pop(_CHARSET, b""), sets)
    return {
        f"{tag:08X}": _attribute(ATTRIBUTES[tag], _values(found[tag]) if tag in found else _binary(value, order, ATTRIBUTES[tag]))
        for tag, value in raw.items()}


def _raw(data: bytes, at: int, order: tags.Order, *, explicit: bool) -> dict[int, bytes]:
    """Return the raw values as far as they can be read."""
    found: dict[int, bytes] = {}
    try:
        for tag, begin, end, _ in tags.select(data, at, order, explicit=explicit, whole=False, wanted=_WANTED, last=_LAST):
            if end > len(data):
                break
            if end - begin <= _VALUE:
                found.setdefault(tag, data[begin:end])
    except (struct.error, Rejected):
        pass
    return found


def _values(text: str) -> list[str]:
    return [value.strip() for value in text.split("\\")] if text else []


def _binary(value: bytes, order: tags.Order, vr: str) -> list[Any]:
    sign = ">" if order is tags.BIG else "<"
    numbers = struct.unpack(f"{sign}{len(value) // 2}H", value[:len(value) // 2 * 2])
    if vr == "AT":
        return [f"{group:04X}{element:04X}" for group, element in zip(numbers[::2], numbers[1::2], strict=False)]
    return list(numbers)


def _attribute(vr: str, values: list[Any]) -> dict[str, Any]:
    """Return one attribute; an empty value among others is null (F.2.5)."""
    read = _READ.get(vr)
    given = [(read(value) if read else value) if value != "" else None for value in values]
    return {"vr": vr, "Value": given} if any(value is not None for value in given) else {"vr": vr}


def _number(value: str) -> int | float | str:
    """Return a number of DS or IS; text that is none stays text, as PS3.18 F.2.2 allows for both."""
    try:
        number = float(value) if len(value) <= _DIGITS else math.nan
    except ValueError:
        return value
    if not math.isfinite(number):
        return value
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _name(value: str) -> dict[str, str]:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), value.split("="), strict=False)
    return {group: text.strip() for group, text in groups if text.strip()}


_READ: Mapping[str, Callable[[str], Any]] = {"DS": _number, "IS": _number, "PN": _name}


def write(value: object) -> bytes:
    """Return JSON as it is stored: UTF-8, without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
