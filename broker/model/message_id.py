"""Time and identity of a message we write, taken outside the codecs so that these stay pure."""

import uuid
from datetime import datetime
from typing import NamedTuple, Self


class MessageId(NamedTuple):
    """`time` is YYYYMMDDhhmmss±zzzz (MSH-7); `control_id` is unique, at most 20 characters (MSH-10, HL7 v2.5 2.14.9.10)."""

    time: str
    control_id: str

    @classmethod
    def now(cls) -> Self:
        """Return a fresh one, its time with the local zone."""
        return cls(datetime.now().astimezone().strftime("%Y%m%d%H%M%S%z"), uuid.uuid4().hex[:20])
