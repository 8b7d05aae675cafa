"""Birth dates as HL7 v2 and V3 write them: a point in time of any precision of which the date counts."""

import re
from datetime import date

_TIME = re.compile(r"([0-9]{4,14})(?:\.[0-9]+)?(?:[+-][0-9]{4})?")
_UNKNOWN = re.compile(r"(?:00){1,2}$")


def is_date(text: str) -> bool:
    """Say whether `text` is YYYY, YYYYMM or YYYYMMDD and such a day exists."""
    if not re.fullmatch(r"[0-9]{4}([0-9]{2}){0,2}", text):
        return False
    try:
        date.fromisoformat(text + "00000101"[len(text):])
    except ValueError:
        return False
    return True


def read_birth_date(text: str) -> str | None:
    """Return the date in a TS as YYYYMMDD, or shorter where it is given to the month or year only; None when it is none.

    A day or month of 00 is how many systems write one that nobody knows: the date then ends before it.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    day = found[1][:4] + _UNKNOWN.sub("", found[1][4:8])
    return day if is_date(day) else None
