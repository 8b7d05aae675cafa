"""Hours of a day as profiles write them: 08:00-18:00; 20:00-06:00 runs over midnight."""

from datetime import datetime
from typing import Annotated

from pydantic import StringConstraints

Hours = Annotated[str, StringConstraints(pattern=r"^\d\d:\d\d-\d\d:\d\d$")]


def is_open(hours: str, now: datetime) -> bool:
    """Say whether `now` lies in these hours."""
    start, end = hours.split("-")
    clock = f"{now:%H:%M}"
    return start <= clock < end if start <= end else clock >= start or clock < end


def at_zone(seconds: float, zone: str) -> datetime:
    """Return a time (seconds since the epoch) as a region's clocks show it; `zone` is like +0800."""
    return datetime.fromtimestamp(seconds, datetime.strptime(zone, "%z").tzinfo)
