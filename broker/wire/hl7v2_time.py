"""Moments of HL7 v2 (TS, DTM): as exact as their sender wrote them."""

import re
from datetime import datetime, timedelta

_TS = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:\.\d{1,4})?([+-]\d{4})?")
_FIRST = (1, 1, 0, 0, 0)        # month, day, hour, minute, second that are not written
_LONG = tuple(timedelta(**{unit: number}) for unit, number in (     # a year and a month: as short as they can be
    ("days", 365), ("days", 28), ("days", 1), ("hours", 1), ("minutes", 1), ("seconds", 1)))


def interval(text: str, zone: str) -> tuple[float, float] | None:
    """Return the first and the last moment (seconds since the epoch) that a time can mean, in `zone` (+HHMM) where it names none.

    None for what is no time.
    """
    found = _TS.fullmatch(text.strip())
    if found is None:
        return None
    parts = [int(part) for part in found.groups()[:6] if part is not None]
    year, month, day, hour, minute, second = (*parts, *_FIRST[len(parts) - 1:])
    try:
        begin = datetime(year, month, day, hour, minute, second, tzinfo=datetime.strptime(found[7] or zone, "%z").tzinfo)
        start = begin.timestamp()
    except (ValueError, OverflowError):
        return None
    return start, start + _LONG[len(parts) - 1].total_seconds() - 0.001
