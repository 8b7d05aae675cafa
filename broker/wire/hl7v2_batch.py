"""Files of HL7 v2 messages: batches (FHS, BHS … BTS, FTS; HL7 v2.5 2.10.3), or one message after the other, framed or not."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from broker.model.errors import TooLarge

_ENDS = re.compile(rb"[\r\n\x0b\x1c]+")     # CR as the standard has it, the line ends of editors, the marks of MLLP
_BEGIN = (b"MSH", b"FHS", b"BHS", b"BTS", b"FTS")       # here a message ends; with MSH the next one begins
_CHUNK = 1 << 18


def messages(file: BinaryIO, largest: int) -> Iterator[bytes | TooLarge]:
    """Return the messages of a file, unframed, segments ended with CR; for one of more than `largest` bytes what is wrong.

    What stands before the first MSH, or between a batch's end and the next one's beginning, belongs to no message. Memory does
    not grow with the file.
    """
    found: list[bytes] = []
    size = 0
    for segment in _segments(file, largest):
        name = segment[:3]
        if name in _BEGIN:
            if size:
                yield _whole(found, size, largest)
            found, size = [], 0
        if name == b"MSH" or size:
            size += len(segment) + 1
            if size <= largest:
                found.append(segment)
    if size:
        yield _whole(found, size, largest)


def _whole(segments: list[bytes], size: int, largest: int) -> bytes | TooLarge:
    return b"".join(segment + b"\r" for segment in segments) if size <= largest else TooLarge("server.max_message")


def _segments(file: BinaryIO, largest: int) -> Iterator[bytes]:
    """Return the segments of a file; of one that is too long as much as tells that it is."""
    rest = b""
    while chunk := file.read(_CHUNK):
        *whole, rest = _ENDS.split(rest + chunk)
        yield from filter(None, whole)
        if len(rest) > largest + _CHUNK:
            rest = rest[:largest + 1]
    if rest:
        yield rest
