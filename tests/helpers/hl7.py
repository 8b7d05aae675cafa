"""hl7apy as a judge of what we write: every segment, field and component as its version of HL7 v2 defines it."""

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message, parse_segment

STRICT = VALIDATION_LEVEL.STRICT


def judge(answer: str) -> None:
    """Return when a message is strictly valid. Raise hl7apy's error when it is not.

    Before version 2.3.1 hl7apy knows no structure for MSH-9 of two components: there each segment is judged by itself.
    """
    version = answer.split("\r", 1)[0].split("|")[11]
    if version >= "2.3.1":
        assert parse_message(answer, validation_level=STRICT).validate()
        return
    for line in answer.split("\r")[1:-1]:
        assert parse_segment(line, version=version, validation_level=STRICT).validate()
