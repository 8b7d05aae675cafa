"""The moment and identity of a message we write, taken outside the codecs so that these stay pure."""

import uuid
from datetime import datetime
from typing import NamedTuple, Self


class Stamp(NamedTuple):
    """`when` is YYYYMMDDhhmmss±zzzz; `id` is unique and at most 20 characters long (MSH-10, HL7 v2.5 2.14.9.10)."""

    when: str
    id: str

    @classmethod
    def now(cls) -> Self:
        """Return a fresh stamp in local time."""
        return cls(datetime.now().astimezone().strftime("%Y%m%d%H%M%S%z"), uuid.uuid4().hex[:20])
